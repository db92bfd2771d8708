/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A snapshot image as a source of pages, which are compared with their hashes
 *
 * A read is one request, from the first to the last page with data in its
 * range; the page table says which these are.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "snap/image/image.h"
#include "snap/image/verified-read.h"
#include "snap/storage/io-window.h"
#include "snap/trace.h"

/**
 * ImageReader: an image that was opened as a source
 * @page_table: of its own
 * @window: buffers, which bound the reads in flight; NULL to look up only
 */
typedef struct ImageReader {
    SnapPageReader reader;
    SnapImage *image;
    SnapTable *page_table;
    SnapIOWindow *window;
} ImageReader;

static ImageReader *image_reader(SnapPageReader *reader)
{
    return container_of(reader, ImageReader, reader);
}

static SnapPageReader *image_reader_open(SnapPageSource *source,
                                         const SnapPageReaderLimits *limits)
{
    ImageReader *r = g_new0(ImageReader, 1);
    unsigned chunks = MAX(limits->lookup_size / SNAP_CHUNK_SIZE, 1);

    r->reader.source = source;
    r->image = container_of(source, SnapImage, source);
    r->page_table = snap_image_page_table(r->image, chunks);
    if (limits->nb_reads) {
        r->window = snap_io_window_new(r->image->blk, limits->nb_reads,
                                       limits->read_size);
    }
    return &r->reader;
}

static void image_reader_close(SnapPageReader *reader)
{
    ImageReader *r = image_reader(reader);

    snap_table_free(r->page_table);
    snap_io_window_free(r->window);
    g_free(r);
}

static int coroutine_fn image_reader_lookup(SnapPageReader *reader,
                                            SnapPageRange range,
                                            uint64_t *entries, Error **errp)
{
    SnapTable *table = image_reader(reader)->page_table;
    int ret = 0;

    for (uint64_t i = 0; i < range.count && !ret; i++) {
        ret = snap_table_get(table, range.first + i, &entries[i], errp);
    }
    return ret;
}

/* The pages with data that are the first and the last of @read. */
static SnapPageRange image_read_stored_range(const SnapPageRead *read)
{
    SnapPageRange stored = { };

    for (unsigned i = 0; i < read->pages.range.count; i++) {
        if (snap_page_is_stored(read->entries[i])) {
            if (!stored.count) {
                stored.first = read->pages.range.first + i;
            }
            stored.count = read->pages.range.first + i + 1 - stored.first;
        }
    }
    return stored;
}

static void coroutine_fn image_read_start_request(ImageReader *r,
                                                  SnapPageRead *read,
                                                  SnapPageRange stored)
{
    const SnapRAMBlocks *ram = &r->image->ram;
    const SnapRAMBlock *block = snap_ram_block_of(ram, stored.first);
    SnapIOBuffer *buffer = snap_io_window_get(r->window);

    buffer->offset = snap_layout_page_offset(&r->image->layout, block,
                                             stored.first);
    read->buffer = buffer;
    read->first_stored = stored.first - read->pages.range.first;
    snap_io_window_read(r->window, buffer, stored.count << ram->page_bits);
}

static int coroutine_fn image_reader_start(SnapPageReader *reader,
                                           SnapPageRead *read,
                                           SnapPageRange range, Error **errp)
{
    SnapPageRange stored;
    int ret;

    assert(!read->buffer);
    read->entries = g_renew(uint64_t, read->entries, range.count);
    read->pages = (SnapPages) { .range = range, .entries = read->entries };
    ret = image_reader_lookup(reader, range, read->entries, errp);
    if (ret < 0) {
        return ret;
    }
    stored = image_read_stored_range(read);
    if (stored.count) {
        image_read_start_request(image_reader(reader), read, stored);
    }
    return 0;
}

/* Whether the data of a page is what its entry says. */
static bool image_hash_matches(const SnapImage *image, uint64_t entry,
                               const uint8_t *data)
{
    return !image->verify_pages ||
           snap_page_entry(data, snap_ram_page_size(&image->ram)) == entry;
}

/* Count the stored pages that are damaged: without data, all of them. */
static unsigned image_read_count_corrupt(const SnapImage *image,
                                         const SnapPageRead *read,
                                         unsigned *first_corrupt)
{
    size_t page_size = snap_ram_page_size(&image->ram);
    const uint8_t *data = read->pages.data;
    unsigned nb_corrupt = 0;

    for (unsigned i = read->first_stored; i < read->pages.range.count; i++) {
        if (snap_page_is_stored(read->entries[i]) &&
            !(data && image_hash_matches(image, read->entries[i],
                                         data + i * page_size))) {
            *first_corrupt = nb_corrupt++ ? *first_corrupt : i;
        }
    }
    return nb_corrupt;
}

/* Where page @index of a read is, as the guest has it: for messages. */
static const char *image_read_name_page(const SnapImage *image,
                                        const SnapPageRead *read,
                                        unsigned index, uint64_t *offset)
{
    uint64_t page = read->pages.range.first + index;
    const SnapRAMBlock *block = snap_ram_block_of(&image->ram, page);

    *offset = snap_ram_page_offset(&image->ram, block, page);
    return block->name;
}

static int coroutine_fn image_read_wait_request(ImageReader *r,
                                                SnapPageRead *read,
                                                Error **errp)
{
    SnapIOBuffer *buffer = read->buffer;
    unsigned first_corrupt = 0;
    const char *name;
    uint64_t offset;
    int ret;

    ret = snap_io_window_wait(r->window, buffer);
    if (ret < 0) {
        read->nb_corrupt = image_read_count_corrupt(r->image, read,
                                                    &first_corrupt);
        name = image_read_name_page(r->image, read, 0, &offset);
        error_setg_errno(errp, -ret, "Could not read RAM block '%s' at offset "
                         "0x%" PRIx64, name, offset);
        return ret;
    }
    /* As if it began at the first page */
    read->pages.data = buffer->data -
                       ((size_t)read->first_stored << r->image->ram.page_bits);
    read->nb_corrupt = image_read_count_corrupt(r->image, read, &first_corrupt);
    if (read->nb_corrupt) {
        name = image_read_name_page(r->image, read, first_corrupt, &offset);
        error_setg(errp, "The snapshot is corrupt: RAM block '%s', page at "
                   "offset 0x%" PRIx64, name, offset);
        return -EBADMSG;
    }
    return 0;
}

static int coroutine_fn image_reader_wait(SnapPageReader *reader,
                                          SnapPageRead *read, Error **errp)
{
    int ret = 0;

    if (read->buffer) {
        ret = image_read_wait_request(image_reader(reader), read, errp);
    }
    trace_snap_verified_read(read->pages.range.first, read->pages.range.count,
                             ret);
    return ret;
}

static void image_reader_release(SnapPageReader *reader, SnapPageRead *read)
{
    if (read->buffer) {
        snap_io_window_put(image_reader(reader)->window, read->buffer);
    }
    g_free(read->entries);
    *read = (SnapPageRead) { };
}

static void coroutine_fn image_reader_drain(SnapPageReader *reader)
{
    snap_io_window_drain(image_reader(reader)->window);
}

const SnapPageSourceOps snap_verified_read_ops = {
    .open = image_reader_open,
    .close = image_reader_close,
    .lookup = image_reader_lookup,
    .start = image_reader_start,
    .wait = image_reader_wait,
    .release = image_reader_release,
    .drain = image_reader_drain,
};
