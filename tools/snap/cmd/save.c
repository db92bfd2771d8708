/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The verb save
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "snap/image/image.h"
#include "snap/util/interrupt.h"
#include "snap/verb/save.h"
#include "cmd.h"
#include "report.h"

static void on_interrupt(void *opaque)
{
    snap_save_interrupt(opaque);
}

static void save(const SnapCmdOptions *options, SnapStats *stats, Error **errp)
{
    SnapTargetOptions target_options = {
        .image = snap_cmd_image_options(options),
        .create_options = options->create_options,
        .existing = options->existing,
        .may_be_read = snap_image_is_present,
    };
    SnapSaveOptions save_options = {
        .max_ram = options->image_size,
        .page_bits = options->page_bits,
        .progress = options->progress && !options->quiet,
        .quiet = options->quiet,
    };
    g_autoptr(SnapTarget) target = NULL;
    SnapTransport *transport;
    Error *err = NULL;
    SnapSave *s;
    int ret;

    target_options.image.format = options->create_format;
    /* An image to write to is the user's own. */
    target_options.image.backing_chain = true;
    transport = snap_transport_open(options->uri, true, options->interrupt,
                                    errp);
    if (!transport) {
        return;
    }
    if (snap_cmd_prepare(options, errp)) {
        target = snap_target_begin(&target_options, errp);
    }
    if (target && !snap_cmd_check_files(options, SNAP_CMD_SAVES,
                                        snap_target_blk(target), &err)) {
        snap_target_abandon(target);
        snap_cmd_exit(err);
    }
    if (!target || !snap_transport_connect(transport, errp)) {
        snap_transport_close(transport);
        return;
    }
    s = snap_save_new(&save_options, g_steal_pointer(&target), transport);
    snap_interrupt_watch(options->interrupt, on_interrupt, s);
    ret = snap_save_run(s, stats, errp);
    snap_interrupt_watch(options->interrupt, NULL, NULL);
    if (ret < 0) {
        snap_cmd_abandon(transport);
        return;
    }
    snap_save_free(s);
    snap_transport_close(transport);
}

int snap_cmd_save(const SnapCmdOptions *options)
{
    SnapStats stats = { };
    Error *err = NULL;

    save(options, &stats, &err);
    return snap_cmd_finish(options, &stats, err);
}
