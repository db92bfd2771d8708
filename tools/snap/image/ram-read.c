/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One read of consecutive pages, which are compared with their hashes
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "snap/image/ram-read.h"
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
    const SnapRAMBlocks *ram = &source->image->ram;
    uint64_t first = snap_ram_page(ram, &ram->blocks[read->run.block],
                                   read->run.offset);

    read->first_stored = read->nb_pages;
    *end_stored = 0;
    for (unsigned i = 0; i < read->nb_pages; i++) {
        int ret = snap_table_get(source->page_table, first + i,
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
                                     const SnapRAMRun *run, Error **errp)
{
    const SnapRAMBlocks *ram = &source->image->ram;
    const SnapRAMBlock *block = &ram->blocks[run->block];
    uint64_t first = snap_ram_page(ram, block, run->offset);
    unsigned end_stored;
    int ret;

    assert(!read->buffer);
    read->run = *run;
    read->nb_pages = run->length >> ram->page_bits;
    read->entries = g_renew(uint64_t, read->entries, read->nb_pages);
    ret = read_entries(source, read, &end_stored, errp);
    if (ret < 0) {
        return ret;
    }
    if (end_stored) {
        unsigned nb = end_stored - read->first_stored;

        read->buffer = snap_io_window_get(source->window);
        read->buffer->offset =
            snap_layout_page_offset(&source->image->layout, block,
                                    first + read->first_stored);
        snap_io_window_read(source->window, read->buffer,
                            (size_t)nb << ram->page_bits);
    }
    return 0;
}

/* Whether the data of a page is what its entry says. */
static bool is_right(const SnapImage *image, uint64_t entry,
                     const uint8_t *data)
{
    return !image->verify_pages ||
           snap_page_entry(data, snap_ram_page_size(&image->ram)) ==
           entry;
}

/* Count the stored pages that are damaged: without @data, all of them. */
static unsigned verify(const SnapRAMSource *source, const SnapRAMRead *read,
                       const uint8_t *data, unsigned *first_corrupt)
{
    size_t page_size = snap_ram_page_size(&source->image->ram);
    unsigned nb_corrupt = 0;

    for (unsigned i = read->first_stored; i < read->nb_pages; i++) {
        if (snap_page_is_stored(read->entries[i]) &&
            !(data && is_right(source->image, read->entries[i],
                               data + i * page_size))) {
            *first_corrupt = nb_corrupt++ ? *first_corrupt : i;
        }
    }
    return nb_corrupt;
}

/* Wait until the data is there; *@data as if it began at the first page. */
static int coroutine_fn wait_data(SnapRAMSource *source, SnapRAMRead *read,
                                  const uint8_t **data, unsigned *nb_corrupt,
                                  Error **errp)
{
    const SnapRAMBlocks *ram = &source->image->ram;
    const char *block_name = ram->blocks[read->run.block].name;
    unsigned first_corrupt = 0;
    int ret;

    ret = snap_io_window_wait(source->window, read->buffer);
    if (ret < 0) {
        *nb_corrupt = verify(source, read, NULL, &first_corrupt);
        error_setg_errno(errp, -ret, "Could not read RAM block '%s' at offset "
                         "0x%" PRIx64, block_name, read->run.offset);
        return ret;
    }
    *data = read->buffer->data -
            ((size_t)read->first_stored << ram->page_bits);
    *nb_corrupt = verify(source, read, *data, &first_corrupt);
    if (*nb_corrupt) {
        error_setg(errp, "The snapshot is corrupt: RAM block '%s', page at "
                   "offset 0x%" PRIx64, block_name, read->run.offset +
                   ((uint64_t)first_corrupt << ram->page_bits));
        return -EBADMSG;
    }
    return 0;
}

int coroutine_fn snap_ram_read_wait(SnapRAMSource *source, SnapRAMRead *read,
                                    SnapRAMPiece *piece, unsigned *nb_corrupt,
                                    Error **errp)
{
    const uint8_t *data = NULL;
    unsigned nb = 0;
    int ret = 0;

    if (read->buffer) {
        ret = wait_data(source, read, &data, &nb, errp);
    }
    trace_snap_ram_read(read->run.block, read->run.offset, read->nb_pages,
                        ret);
    if (nb_corrupt) {
        *nb_corrupt = nb;
    }
    *piece = (SnapRAMPiece) {
        .block = read->run.block,
        .offset = read->run.offset,
        .nb_pages = read->nb_pages,
        .reason = read->run.reason,
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
