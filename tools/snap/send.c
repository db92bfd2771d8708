/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What every load sends of an image, whenever its pages follow
 */

#include "qemu/osdep.h"
#include "snap/send.h"

int coroutine_fn snap_send_configuration(SnapSender *s, Error **errp)
{
    g_autoptr(GByteArray) configuration =
        snap_image_read_part(s->image, SNAP_PART_CONFIGURATION, errp);

    if (!configuration) {
        return -EIO;
    }
    snap_stream_put(s->writer, configuration->data, configuration->len);
    return 0;
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

static void coroutine_fn send_page(SnapSender *s, const SnapRAMPiece *piece,
                                   unsigned i)
{
    size_t in_piece = (size_t)i << s->image->layout.page_bits;

    if (snap_page_is_stored(piece->entries[i])) {
        snap_stream_put_page(s->writer, piece->block, piece->offset + in_piece,
                             piece->data + in_piece);
        s->stats->stored_pages++;
    } else {
        snap_stream_put_zero_page(s->writer, piece->block,
                                  piece->offset + in_piece);
        s->stats->zero_pages++;
    }
}

int coroutine_fn snap_send_piece(SnapSender *s, const SnapRAMPiece *piece,
                                 bool whole, Error **errp)
{
    snap_stream_begin_ram(s->writer, false);
    for (unsigned i = 0; i < piece->nb_pages; i++) {
        if (whole || piece->entries[i] != SNAP_PAGE_UNSENT) {
            send_page(s, piece, i);
        }
    }
    snap_stream_end_ram(s->writer);
    /* The reader takes the piece's buffer back. */
    return snap_stream_flush(s->writer, errp);
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
