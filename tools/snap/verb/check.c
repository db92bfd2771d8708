/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Checking and repairing a snapshot image
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/block_int.h"
#include "block/coroutines.h"
#include "snap/image/update.h"
#include "snap/ram/walk.h"
#include "snap/verb/check.h"

/* Bytes of RAM that are read at a time */
#define CHECK_PIECE_SIZE (1 * MiB)

/* Take over @err, and keep it if it is the first damage. */
static void check_note(SnapCheckResult *result, Error *err)
{
    error_propagate(&result->first, err);
}

static void check_note_part(SnapCheckResult *result, SnapPart part, Error *err)
{
    result->corrupt_parts |= 1u << part;
    check_note(result, err);
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
        check_note_part(result, part, err);
    }
}

static void coroutine_fn check_arrivals(SnapImage *image,
                                        SnapCheckResult *result)
{
    Error *err = NULL;
    uint64_t nb;

    if (snap_image_check_arrivals(image, &nb, &err) < 0) {
        check_note_part(result, SNAP_PART_ARRIVALS, err);
    }
}

static void coroutine_fn check_working_set(SnapImage *image,
                                           SnapCheckResult *result)
{
    g_autoptr(GArray) pages = NULL;
    Error *err = NULL;

    if (snap_image_working_set(image, &pages, &err) < 0) {
        check_note_part(result, SNAP_PART_WORKING_SET, err);
    }
}

static void check_count_stored(const SnapPages *pages,
                               SnapCheckResult *result)
{
    for (unsigned i = 0; i < pages->range.count; i++) {
        result->pages_checked += snap_page_is_stored(pages->entries[i]);
    }
}

static void coroutine_fn check_ram(SnapImage *image, SnapCheckResult *result)
{
    g_autoptr(SnapRAMWalk) walk =
        snap_ram_walk_new(&image->source, CHECK_PIECE_SIZE, NULL, NULL);
    SnapPages pages;
    int ret;

    do {
        Error *err = NULL;

        ret = snap_ram_walk_next(walk, &pages, &err);
        if (ret > 0) {
            check_count_stored(&pages, result);
        } else if (ret < 0) {
            unsigned nb = snap_ram_walk_corrupt_pages(walk);

            result->pages_corrupt += nb;
            if (nb) {
                check_note(result, err);
            } else {
                check_note_part(result, SNAP_PART_PAGE_TABLE, err);
            }
        }
    } while (ret > 0 || snap_ram_walk_corrupt_pages(walk));
    snap_ram_walk_abort(walk);
}

/* Whether the container is flagged as corrupt in its own header */
static bool GRAPH_RDLOCK check_is_marked_corrupt(BlockDriverState *bs)
{
    g_autoptr(ImageInfoSpecific) info = bdrv_get_specific_info(bs, NULL);

    return info && info->type == IMAGE_INFO_SPECIFIC_KIND_QCOW2 &&
           info->u.qcow2.data->corrupt;
}

static void coroutine_fn check_container(SnapImage *image,
                                         SnapCheckResult *result)
{
    BlockDriverState *bs = blk_bs(image->blk);
    BdrvCheckResult *container = &result->container;
    Error *err = NULL;
    int ret;

    WITH_GRAPH_RDLOCK_GUARD() {
        ret = bdrv_co_check(bs, container, 0);
        container->corruptions += check_is_marked_corrupt(bs);
    }
    if (ret == -ENOTSUP) {
        return;
    }
    if (ret < 0 || container->check_errors) {
        container->check_errors = MAX(container->check_errors, 1);
        error_setg_errno(&err, ret < 0 ? -ret : EIO,
                         "Could not check the container");
    } else if (container->corruptions) {
        error_setg(&err, "The container is corrupt");
    }
    if (err) {
        check_note(result, err);
    }
}

void snap_check_result_destroy(SnapCheckResult *result)
{
    error_free(result->first);
    *result = (SnapCheckResult) { };
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
    check_container(image, result);
}

bool snap_check_can_repair(const SnapCheckResult *result)
{
    return (result->corrupt_parts || result->container.leaks) &&
           !(result->corrupt_parts & ~SNAP_IMAGE_HINTS) &&
           !result->pages_corrupt && !result->container.corruptions &&
           !result->container.check_errors;
}

static int coroutine_fn check_free_leaks(SnapImage *image, Error **errp)
{
    BdrvCheckResult result = { };
    int ret;

    WITH_GRAPH_RDLOCK_GUARD() {
        ret = bdrv_co_check(blk_bs(image->blk), &result, BDRV_FIX_LEAKS);
    }
    ret = ret < 0 ? ret : blk_co_flush(image->blk);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not free the leaked clusters");
    }
    return ret;
}

int coroutine_fn snap_check_repair(SnapImage *image,
                                   const SnapCheckResult *found, Error **errp)
{
    int ret = 0;

    if (found->corrupt_parts) {
        ret = snap_image_drop_parts(image, found->corrupt_parts, errp);
    }
    if (!ret && found->container.leaks) {
        ret = check_free_leaks(image, errp);
    }
    return ret;
}
