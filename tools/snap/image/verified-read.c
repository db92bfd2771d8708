/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One read of consecutive pages, which are compared with their hashes
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "snap/image/verified-read.h"
#include "snap/trace.h"

void snap_ram_source_init(SnapRAMSource *source, SnapImage *image,
                          unsigned table_chunks, unsigned nb_buffers,
                          size_t buffer_size)
{
    *source = (SnapRAMSource) {
        .image = image,
        .page_table = snap_image_page_table(image, table_chunks),
        .window = snap_io_window_new(image->blk, nb_buffers, buffer_size),
    };
}

void snap_ram_source_destroy(SnapRAMSource *source)
{
    g_clear_pointer(&source->page_table, snap_table_free);
    g_clear_pointer(&source->window, snap_io_window_free);
}

/* Read the table's entries; returns the range that is stored. */
static int coroutine_fn read_entries(SnapRAMSource *source, SnapRAMRead *read,
                                     unsigned *end_stored, Error **errp)
{
    read->first_stored = read->range.count;
    *end_stored = 0;
    for (unsigned i = 0; i < read->range.count; i++) {
        int ret = snap_table_get(source->page_table, read->range.first + i,
                                 &read->entries[i], errp);

        if (ret < 0) {
            return ret;
        }
        if (snap_page_is_stored(read->entries[i])) {
            read->first_stored = MIN(read->first_stored, i);
            *end_stored = i + 1;
        }
    }
    return 0;
}

int coroutine_fn snap_ram_read_start(SnapRAMSource *source, SnapRAMRead *read,
                                     SnapPageRange range, Error **errp)
{
    const SnapLayout *layout = &source->image->layout;
    const SnapRAMBlock *block = snap_ram_block_of(layout->ram, range.first);
    unsigned end_stored;
    int ret;

    assert(!read->buffer);
    read->range = range;
    read->entries = g_renew(uint64_t, read->entries, range.count);
    ret = read_entries(source, read, &end_stored, errp);
    if (ret < 0) {
        return ret;
    }
    if (end_stored) {
        unsigned nb = end_stored - read->first_stored;

        read->buffer = snap_io_window_get(source->window);
        read->buffer->offset =
            snap_layout_page_offset(layout, block,
                                    range.first + read->first_stored);
        snap_io_window_read(source->window, read->buffer,
                            (size_t)nb << layout->ram->page_bits);
    }
    return 0;
}

/* Whether the data of a page is what its entry says. */
static bool is_right(const SnapImage *image, uint64_t entry,
                     const uint8_t *data)
{
    return !image->verify_pages ||
           snap_page_entry(data, snap_ram_page_size(&image->ram)) == entry;
}

/* Count the stored pages that are damaged: without @data, all of them. */
static unsigned verify(const SnapRAMSource *source, const SnapRAMRead *read,
                       const uint8_t *data, unsigned *first_corrupt)
{
    size_t page_size = snap_ram_page_size(&source->image->ram);
    unsigned nb_corrupt = 0;

    for (unsigned i = read->first_stored; i < read->range.count; i++) {
        if (snap_page_is_stored(read->entries[i]) &&
            !(data && is_right(source->image, read->entries[i],
                               data + i * page_size))) {
            *first_corrupt = nb_corrupt++ ? *first_corrupt : i;
        }
    }
    return nb_corrupt;
}

/* Where page @index of a read is, as the guest names it: for messages. */
static const char *name_page(const SnapRAMSource *source,
                             const SnapRAMRead *read, unsigned index,
                             uint64_t *offset)
{
    const SnapRAMBlocks *ram = &source->image->ram;
    const SnapRAMBlock *block = snap_ram_block_of(ram, read->range.first);

    *offset = snap_ram_page_offset(ram, block, read->range.first + index);
    return block->name;
}

/* Wait until the data is there; *@data as if it began at the first page. */
static int coroutine_fn wait_data(SnapRAMSource *source, SnapRAMRead *read,
                                  const uint8_t **data, unsigned *nb_corrupt,
                                  Error **errp)
{
    unsigned first_corrupt = 0;
    const char *name;
    uint64_t offset;
    int ret;

    ret = snap_io_window_wait(source->window, read->buffer);
    if (ret < 0) {
        *nb_corrupt = verify(source, read, NULL, &first_corrupt);
        name = name_page(source, read, 0, &offset);
        error_setg_errno(errp, -ret, "Could not read RAM block '%s' at offset "
                         "0x%" PRIx64, name, offset);
        return ret;
    }
    *data = read->buffer->data -
            ((size_t)read->first_stored << source->image->ram.page_bits);
    *nb_corrupt = verify(source, read, *data, &first_corrupt);
    if (*nb_corrupt) {
        name = name_page(source, read, first_corrupt, &offset);
        error_setg(errp, "The snapshot is corrupt: RAM block '%s', page at "
                   "offset 0x%" PRIx64, name, offset);
        return -EBADMSG;
    }
    return 0;
}

int coroutine_fn snap_ram_read_wait(SnapRAMSource *source, SnapRAMRead *read,
                                    SnapPages *pages, unsigned *nb_corrupt,
                                    Error **errp)
{
    const uint8_t *data = NULL;
    unsigned nb = 0;
    int ret = 0;

    if (read->buffer) {
        ret = wait_data(source, read, &data, &nb, errp);
    }
    trace_snap_verified_read(read->range.first, read->range.count, ret);
    if (nb_corrupt) {
        *nb_corrupt = nb;
    }
    *pages = (SnapPages) {
        .range = read->range,
        .entries = read->entries,
        .data = data,
    };
    return ret;
}

void snap_ram_read_end(SnapRAMSource *source, SnapRAMRead *read)
{
    if (read->buffer) {
        snap_io_window_put(source->window, read->buffer);
    }
    g_free(read->entries);
    *read = (SnapRAMRead) { };
}
