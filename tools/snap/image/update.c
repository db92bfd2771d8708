/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Changes to a complete snapshot
 */

#include "qemu/osdep.h"
#include "qemu/range.h"
#include "qapi/error.h"
#include "snap/image/disk.h"
#include "snap/image/update.h"
#include "snap/trace.h"

/* Lowest offset after RAM where @length bytes fit without touching a part. */
static uint64_t find_place(const SnapImage *image, uint64_t length)
{
    uint64_t place = image->layout.ram_end;
    bool moved;

    do {
        moved = false;
        for (unsigned i = 0; i < SNAP_PART__MAX; i++) {
            const SnapPartInfo *info = &image->header.parts[i];

            if (info->length &&
                ranges_overlap(place, length, info->offset, info->length)) {
                place = ROUND_UP(info->offset + info->length,
                                 SNAP_PART_ALIGN);
                moved = true;
            }
        }
    } while (moved);
    return place;
}

static int coroutine_fn write_and_flush(SnapImage *image, uint64_t offset,
                                        const void *data, size_t length,
                                        Error **errp)
{
    int ret = snap_disk_write_padded(image->blk, offset, data, length, length,
                                     errp);

    return ret < 0 ? ret : snap_disk_flush(image->blk, errp);
}

static bool may_change(const SnapImage *image, Error **errp)
{
    uint64_t unknown = image->header.compatible & ~SNAP_COMPATIBLE_WORKING_SET;

    if (unknown) {
        error_setg(errp, "The snapshot uses features that would be lost (0x%"
                   PRIx64 ")", unknown);
    }
    return !unknown;
}

/* One sector, which storage has as it was before or as it is now. */
static int coroutine_fn update_header(SnapImage *image,
                                      const SnapHeader *header, Error **errp)
{
    uint8_t buf[SNAP_HEADER_SIZE];
    int ret;

    snap_header_encode(header, buf);
    ret = write_and_flush(image, 0, buf, sizeof(buf), errp);
    if (ret < 0) {
        return ret;
    }
    image->header = *header;
    return 0;
}

int coroutine_fn snap_image_set_working_set(SnapImage *image,
                                            const GByteArray *data,
                                            Error **errp)
{
    SnapHeader header = image->header;
    uint64_t place = find_place(image, data->len);
    int ret;

    trace_snap_image_set_working_set(place, data->len);
    if (!may_change(image, errp)) {
        return -ENOTSUP;
    }
    ret = snap_disk_grow(image->blk, place + data->len, 0, errp);
    if (ret < 0) {
        return ret;
    }
    ret = write_and_flush(image, place, data->data, data->len, errp);
    if (ret < 0) {
        return ret;
    }
    header.compatible |= SNAP_COMPATIBLE_WORKING_SET;
    header.parts[SNAP_PART_WORKING_SET] = (SnapPartInfo) {
        .offset = place,
        .length = data->len,
    };
    return update_header(image, &header, errp);
}

/*
 * Whether the part can be read at all: an I/O error may be transient, so do not
 * drop it.
 */
static bool coroutine_fn is_readable(SnapImage *image, SnapPart part,
                                     Error **errp)
{
    const SnapPartInfo *info = &image->header.parts[part];
    g_autofree uint8_t *buf = g_malloc(info->length);
    int ret = blk_co_pread(image->blk, info->offset, info->length, buf, 0);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read the snapshot's %s",
                         snap_part_name(part));
    }
    return ret >= 0;
}

/* The arrivals before the damage stay. */
static int coroutine_fn cut_arrivals(SnapImage *image, SnapHeader *header,
                                     Error **errp)
{
    Error *err = NULL;
    int ret = snap_image_check_arrivals(image, &header->nb_arrivals, &err);

    if (ret < 0 && ret != -EBADMSG) {
        error_propagate(errp, err);
        return ret;
    }
    error_free(err);
    header->parts[SNAP_PART_ARRIVALS].length =
        snap_table_bytes(header->nb_arrivals);
    header->flags |= SNAP_FLAG_ARRIVALS_TRUNCATED;
    return 0;
}

int coroutine_fn snap_image_drop_parts(SnapImage *image, uint32_t parts,
                                       Error **errp)
{
    SnapHeader header = image->header;

    trace_snap_image_drop_parts(parts);
    assert(!(parts & ~SNAP_IMAGE_HINTS));
    if (!may_change(image, errp)) {
        return -ENOTSUP;
    }
    for (unsigned i = 0; i < SNAP_PART__MAX; i++) {
        if (!(parts & (1u << i))) {
            continue;
        }
        if (!is_readable(image, i, errp) ||
            (i == SNAP_PART_ARRIVALS && cut_arrivals(image, &header, errp))) {
            return -EIO;
        }
        if (i != SNAP_PART_ARRIVALS) {
            header.parts[i] = (SnapPartInfo) { };
        }
    }
    if (parts & (1u << SNAP_PART_WORKING_SET)) {
        header.compatible &= ~SNAP_COMPATIBLE_WORKING_SET;
    }
    return update_header(image, &header, errp);
}
