/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether a snapshot image is sound
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "snap/check.h"
#include "snap/ram-reader.h"

/* Enough for tables that are walked in order. */
#define TABLE_CHUNKS 1

/* RAM is read in pieces of this size. */
#define PIECE_SIZE (1 * MiB)

/* Count damage, and keep the first. */
static void note(SnapCheckResult *result, unsigned nb, uint64_t *counter,
                 Error *err)
{
    *counter += MAX(nb, 1);
    error_propagate(&result->first, err);
}

static void coroutine_fn check_part(SnapImage *image, SnapPart part,
                                    SnapCheckResult *result)
{
    g_autoptr(GByteArray) data = NULL;
    Error *err = NULL;

    if (part == SNAP_PART_DEVICES) {
        snap_image_copy_part(image, part, NULL, NULL, &err);
    } else {
        data = snap_image_read_part(image, part, &err);
    }
    if (err) {
        note(result, 1, &result->parts_corrupt, err);
    }
}

static void coroutine_fn check_arrivals(SnapImage *image,
                                        SnapCheckResult *result)
{
    g_autoptr(SnapTable) arrivals = snap_image_arrivals(image, TABLE_CHUNKS);

    for (uint64_t i = 0; i < image->header.nb_arrivals; i++) {
        Error *err = NULL;
        uint64_t page;

        if (!snap_table_get(arrivals, i, &page, &err) &&
            page >= image->layout.nb_pages) {
            error_setg(&err, "The snapshot's arrival list is corrupt");
        }
        if (err) {
            note(result, 1, &result->parts_corrupt, err);
            return;
        }
    }
}

static void coroutine_fn check_working_set(SnapImage *image,
                                           SnapCheckResult *result)
{
    g_autoptr(GArray) pages = NULL;
    Error *err = NULL;

    pages = snap_image_working_set(image, &err);
    if (err) {
        note(result, 1, &result->parts_corrupt, err);
    }
}

static void count_stored(const SnapRAMPiece *piece, SnapCheckResult *result)
{
    for (unsigned i = 0; i < piece->nb_pages; i++) {
        result->pages_checked += snap_page_is_stored(piece->entries[i]);
    }
}

static void coroutine_fn check_ram(SnapImage *image, SnapCheckResult *result)
{
    g_autoptr(SnapRAMReader) reader = snap_ram_reader_new(image, PIECE_SIZE,
                                                         NULL, NULL);
    SnapRAMPiece piece;
    int ret;

    do {
        Error *err = NULL;

        ret = snap_ram_reader_next(reader, &piece, &err);
        if (ret > 0) {
            count_stored(&piece, result);
        } else if (ret < 0) {
            unsigned nb = snap_ram_reader_corrupt_pages(reader);

            note(result, nb, nb ? &result->pages_corrupt :
                                  &result->parts_corrupt, err);
        }
    } while (ret > 0 || snap_ram_reader_corrupt_pages(reader));
    snap_ram_reader_abort(reader);
}

void coroutine_fn snap_check(SnapImage *image, SnapCheckResult *result)
{
    static const SnapPart parts[] = {
        SNAP_PART_CONFIGURATION, SNAP_PART_SETUP, SNAP_PART_METADATA,
        SNAP_PART_DEVICES, SNAP_PART_VMDESC,
    };

    *result = (SnapCheckResult) { };
    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
        check_part(image, parts[i], result);
    }
    check_working_set(image, result);
    check_arrivals(image, result);
    check_ram(image, result);
}
