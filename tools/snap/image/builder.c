/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Making a snapshot on a target, wherever its pages come from
 *
 * A snapshot counts if it has a valid header and its name; so that it does not
 * count before it is whole, both come last, and in this order:
 *
 *                   new file                       existing target
 *   start           (nobody can reach it)          header removed, claimed
 *   pages, devices  written                        written
 *   commit          parts, flush, header, flush    the same, if still claimed
 *                   the file takes the name        -
 *   rollback        the old file gets it back      -
 *                   header removed                 header removed
 *   confirm         the old file is given up       -
 *   abandon         old file back, new one gone    header removed
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "snap/image/builder.h"
#include "snap/trace.h"
#include "snap/util/task.h"

typedef enum BuilderState {
    BUILDER_WRITING,
    BUILDER_HEADER,             /* there may be a valid header */
    BUILDER_COMMITTED,          /* there is one, and the image has its name */
    BUILDER_CONFIRMED,
} BuilderState;

struct SnapImageBuilder {
    SnapTarget *target;
    BuilderState state;
    bool abandoned;

    /* once it is created */
    SnapLayout layout;
    SnapImageWriter *image;
    SnapRAMWriter *ram;
};

SnapImageBuilder *snap_image_builder_new(SnapTarget *target)
{
    SnapImageBuilder *b = g_new0(SnapImageBuilder, 1);

    b->target = target;
    return b;
}

void snap_image_builder_free(SnapImageBuilder *b)
{
    if (!b) {
        return;
    }
    if (b->state != BUILDER_CONFIRMED && !b->abandoned) {
        snap_image_builder_abandon(b, false);
    }
    snap_ram_writer_free(b->ram);
    snap_image_writer_free(b->image);
    snap_layout_destroy(&b->layout);
    snap_target_close(b->target);
    g_free(b);
}

static int coroutine_fn builder_sync(void *opaque)
{
    SnapImageBuilder *b = opaque;

    return snap_target_sync(b->target);
}

int snap_image_builder_create(SnapImageBuilder *b, const SnapRAMBlocks *ram,
                              const SnapRAMSection *section, bool ordered,
                              Error **errp)
{
    BlockBackend *blk;

    if (!snap_layout_init(&b->layout, ram, errp)) {
        return -EINVAL;
    }
    if (!snap_target_create(b->target, snap_image_writer_size(&b->layout),
                            errp)) {
        return -EIO;
    }
    blk = snap_target_blk(b->target);
    b->image = snap_image_writer_new(blk, &b->layout, section);
    snap_image_writer_set_sync(b->image, builder_sync, b);
    b->ram = snap_ram_writer_new(blk, &b->layout,
                                 snap_image_writer_page_table(b->image),
                                 ordered ?
                                 snap_image_writer_arrivals(b->image) : NULL,
                                 errp);
    return b->ram ? 0 : -ENOMEM;
}

int coroutine_fn snap_image_builder_start(SnapImageBuilder *b, Error **errp)
{
    return snap_target_is_existing(b->target) ?
           snap_image_writer_invalidate(b->image, errp) : 0;
}

SnapRAMWriter *snap_image_builder_ram(SnapImageBuilder *b)
{
    return b->ram;
}

const QemuUUID *snap_image_builder_uuid(const SnapImageBuilder *b)
{
    return snap_image_writer_uuid(b->image);
}

int coroutine_fn snap_image_builder_flush_ram(SnapImageBuilder *b,
                                              Error **errp)
{
    bool truncated;
    int ret;

    if (snap_ram_writer_is_flushed(b->ram)) {
        return 0;
    }
    ret = snap_ram_writer_flush(b->ram, errp);
    if (!ret) {
        ret = snap_image_writer_flush_ram(b->image,
                                          snap_ram_writer_arrivals(b->ram,
                                                                   &truncated),
                                          errp);
    }
    trace_snap_image_flush_ram(snap_ram_writer_missing(b->ram), ret);
    return ret;
}

int coroutine_fn snap_image_builder_devices(SnapImageBuilder *b,
                                            const void *data, size_t length,
                                            Error **errp)
{
    return snap_image_writer_devices(b->image, data, length, errp);
}

/* It was abandoned while it was in flight, and so reported as failed. */
static int coroutine_fn builder_undo_late(SnapImageBuilder *b, Error **errp)
{
    if (snap_target_is_existing(b->target)) {
        snap_image_writer_invalidate(b->image, NULL);
    }
    error_setg(errp, "The image was abandoned");
    return -ECANCELED;
}

static int coroutine_fn builder_write_header(SnapImageBuilder *b,
                                             const SnapCommitInfo *info,
                                             Error **errp)
{
    g_autofree SnapPageCounts *counts = snap_ram_writer_counts(b->ram);
    SnapCommitInfo full = *info;
    bool truncated;

    snap_ram_writer_arrivals(b->ram, &truncated);
    full.counts = counts;
    full.flags |= truncated ? SNAP_FLAG_ARRIVALS_TRUNCATED : 0;
    return snap_image_writer_finish(b->image, &full, errp);
}

int coroutine_fn snap_image_builder_commit(SnapImageBuilder *b,
                                           const SnapCommitInfo *info,
                                           Error **errp)
{
    int ret = snap_image_builder_flush_ram(b, errp);

    if (ret < 0) {
        return ret;
    }
    if (b->abandoned) {
        error_setg(errp, "The image was abandoned");
        return -ECANCELED;
    }
    assert(b->state == BUILDER_WRITING);
    /* Set even on failure: the final flush may have failed. */
    b->state = BUILDER_HEADER;
    ret = builder_write_header(b, info, errp);
    if (ret < 0) {
        return ret;
    }
    if (b->abandoned) {
        return builder_undo_late(b, errp);
    }
    ret = snap_target_commit(b->target, errp);
    if (ret < 0) {
        return ret;
    }
    b->state = BUILDER_COMMITTED;
    return 0;
}

bool snap_image_builder_is_committed(const SnapImageBuilder *b)
{
    return b->state == BUILDER_COMMITTED;
}

int coroutine_fn snap_image_builder_rollback(SnapImageBuilder *b, Error **errp)
{
    int ret;

    if (b->state == BUILDER_WRITING) {
        return 0;
    }
    ret = snap_target_rollback(b->target, errp);
    if (ret < 0) {
        return ret;
    }
    b->state = BUILDER_HEADER;
    ret = snap_image_writer_invalidate(b->image, errp);
    if (ret < 0) {
        return ret;
    }
    b->state = BUILDER_WRITING;
    return 0;
}

int coroutine_fn snap_image_builder_vmdesc(SnapImageBuilder *b,
                                           const void *data, size_t length,
                                           Error **errp)
{
    int ret = snap_image_writer_vmdesc(b->image, data, length, errp);

    return ret < 0 || !b->abandoned ? ret : builder_undo_late(b, errp);
}

void snap_image_builder_confirm(SnapImageBuilder *b)
{
    assert(b->state == BUILDER_COMMITTED);
    snap_target_confirm(b->target);
    b->state = BUILDER_CONFIRMED;
}

void coroutine_fn snap_image_builder_drain(SnapImageBuilder *b)
{
    snap_ram_writer_abort(b->ram);
}

static int coroutine_fn builder_rollback_entry(void *opaque, Error **errp)
{
    return snap_image_builder_rollback(opaque, errp);
}

/* Remove the header of an existing target. */
static int builder_discard(SnapImageBuilder *b, bool in_flight)
{
    int ret;

    if (b->state == BUILDER_WRITING || !snap_target_is_existing(b->target)) {
        return 0;
    }
    if (in_flight) {
        return -EINPROGRESS;
    }
    ret = snap_task_run(builder_rollback_entry, b, NULL, NULL);
    /* It may also be another save's by now. */
    return ret == -EBUSY ? 0 : ret;
}

int snap_image_builder_abandon(SnapImageBuilder *b, bool in_flight)
{
    int ret = builder_discard(b, in_flight);

    b->abandoned = true;
    snap_target_abandon(b->target);
    return ret;
}
