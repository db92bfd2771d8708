/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What every load sends of an image, whenever its pages follow
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "snap/transfer/send.h"
#include "snap/util/task.h"

/* Pages of RAM that are looked at until others get their turn. */
#define PAGES_AT_A_TIME 8192

/* Entries to keep: RAM is gone through in order. */
#define LOOKUP_SIZE (64 * KiB)

int coroutine_fn snap_send_configuration(SnapSender *s, Error **errp)
{
    g_autoptr(GByteArray) configuration =
        snap_image_read_part(s->image, SNAP_PART_CONFIGURATION, errp);

    if (!configuration) {
        return -EIO;
    }
    snap_stream_put(s->writer, configuration->data, configuration->len);
    /* From now on, a load that fails has sent something. */
    return snap_stream_flush(s->writer, errp);
}

int coroutine_fn snap_send_setup(SnapSender *s, const SnapHostPages *advised,
                                 Error **errp)
{
    g_autoptr(GByteArray) setup = NULL;
    size_t before_ram = s->image->header.before_ram;

    setup = snap_image_read_part(s->image, SNAP_PART_SETUP, errp);
    if (!setup) {
        return -EIO;
    }
    snap_stream_put(s->writer, setup->data, before_ram);
    snap_stream_put_ram_start(s->writer, advised);
    snap_stream_put(s->writer, setup->data + before_ram,
                    setup->len - before_ram);
    return snap_stream_flush(s->writer, errp);
}

bool coroutine_fn snap_send_page(SnapSender *s, const SnapPages *pages,
                                 unsigned i)
{
    bool stored = snap_page_is_stored(pages->entries[i]);
    uint64_t page = pages->range.first + i;

    if (stored) {
        snap_stream_put_page(s->writer, page, pages->data +
                             ((size_t)i << s->source->ram->page_bits));
        s->stats->stored_pages++;
    } else {
        snap_stream_put_zero_page(s->writer, page);
        s->stats->zero_pages++;
    }
    return stored;
}

int coroutine_fn snap_send_pages(SnapSender *s, const SnapPages *pages,
                                 bool whole, Error **errp)
{
    snap_stream_begin_ram(s->writer, false);
    for (unsigned i = 0; i < pages->range.count; i++) {
        if (whole || pages->entries[i] != SNAP_PAGE_UNSENT) {
            snap_send_page(s, pages, i);
        }
    }
    snap_stream_end_ram(s->writer);
    /* The reader takes the buffer of the pages back. */
    return snap_stream_flush(s->writer, errp);
}

/* Send the zero pages among @range, of which @entries say what they are. */
static int coroutine_fn send_zero_range(SnapSender *s, SnapPageRange range,
                                        const uint64_t *entries,
                                        bool in_section, Error **errp)
{
    bool open = in_section;

    for (uint64_t i = 0; i < range.count; i++) {
        if (entries[i] != SNAP_PAGE_ZERO) {
            continue;
        }
        if (!open) {
            snap_stream_begin_ram(s->writer, false);
            open = true;
        }
        snap_stream_put_zero_page(s->writer, range.first + i);
        s->stats->zero_pages++;
    }
    if (open && !in_section) {
        snap_stream_end_ram(s->writer);
    }
    return snap_stream_flush(s->writer, errp);
}

int coroutine_fn snap_send_zero_pages(SnapSender *s, bool in_section,
                                      Error **errp)
{
    const SnapPageReaderLimits limits = { .lookup_size = LOOKUP_SIZE };
    g_autoptr(SnapPageReader) reader = snap_page_reader_open(s->source,
                                                             &limits);
    g_autofree uint64_t *entries = g_new(uint64_t, PAGES_AT_A_TIME);
    uint64_t nb_pages = s->source->ram->nb_pages;
    int ret = 0;

    for (uint64_t page = 0; page < nb_pages && !ret; page += PAGES_AT_A_TIME) {
        const SnapPageRange range = {
            page, MIN(nb_pages - page, PAGES_AT_A_TIME)
        };

        snap_co_pause();
        ret = snap_page_reader_lookup(reader, range, entries, errp);
        if (!ret) {
            ret = send_zero_range(s, range, entries, in_section, errp);
        }
    }
    return ret;
}

static void coroutine_fn send_device_bytes(void *opaque, const void *data,
                                           size_t length)
{
    SnapSender *s = opaque;

    snap_stream_put(s->writer, data, length);
    s->stats->device_bytes += length;
}

int coroutine_fn snap_send_devices(SnapSender *s, Error **errp)
{
    return snap_image_copy_part(s->image, SNAP_PART_DEVICES, send_device_bytes,
                                s, errp);
}

bool snap_send_was_closed(const Error *err)
{
    /* Of an error, channels and QEMUFile keep nothing but the text. */
    const char *text = error_get_pretty(err);

    return g_str_has_suffix(text, strerror(EPIPE)) ||
           g_str_has_suffix(text, strerror(ECONNRESET));
}
