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

static void cmd_save_on_interrupt(void *opaque)
{
    snap_save_interrupt(opaque);
}

/* Take over @transport. Returns: a save that can run, NULL with @errp set */
static SnapSave *cmd_save_begin(const SnapCmdOptions *options,
                                SnapTransport *transport, Error **errp)
{
    SnapTargetOptions target_options = {
        .image = snap_cmd_image_options(options),
        .create_options = options->create_options,
        .existing = options->existing,
        .may_be_read = snap_image_is_present,
        .at_exit = true,
    };
    SnapSaveOptions save_options = {
        .max_ram = options->image_size,
        .page_bits = options->page_bits,
        .progress = options->progress && !options->quiet,
        .quiet = options->quiet,
    };
    g_autoptr(SnapTarget) target = NULL;
    Error *err = NULL;

    target_options.image.format = options->create_format;
    /* An image to write to is the user's own. */
    target_options.image.backing_chain = true;
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
        return NULL;
    }
    return snap_save_new(&save_options, g_steal_pointer(&target), transport);
}

static int cmd_save_run(const SnapCmdOptions *options, SnapSave *s,
                        SnapStats *stats, Error **errp)
{
    int ret;

    snap_interrupt_watch(options->interrupt, cmd_save_on_interrupt, s);
    ret = snap_save_run(s, stats, errp);
    snap_interrupt_watch(options->interrupt, NULL, NULL);
    return ret;
}

int snap_cmd_save(const SnapCmdOptions *options)
{
    SnapTransport *transport;
    SnapStats stats = { };
    SnapSave *s = NULL;
    Error *err = NULL;
    int ret = 0, status;

    transport = snap_transport_open(options->uri, true, options->interrupt,
                                    &err);
    if (transport) {
        s = cmd_save_begin(options, transport, &err);
    }
    if (s) {
        ret = cmd_save_run(options, s, &stats, &err);
    }
    if (!ret) {
        snap_save_free(s);
        return snap_cmd_finish(options, &stats, err);
    }
    /* A source that learns from its channel finds the report. */
    snap_transport_abandon(transport);
    status = snap_cmd_finish(options, &stats, err);
    if (ret == -ETIMEDOUT) {
        snap_cmd_leave(status);
    }
    snap_save_free(s);
    return status;
}
