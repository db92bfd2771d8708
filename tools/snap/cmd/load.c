/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The verb load
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "snap/postcopy/postcopy.h"
#include "snap/transfer/multifd-sender.h"
#include "snap/util/interrupt.h"
#include "snap/verb/load.h"
#include "cmd.h"
#include "report.h"

static void on_interrupt(void *opaque)
{
    snap_load_interrupt(opaque);
}

static void refuse(void *opaque)
{
    snap_load_refuse(opaque);
}

/*
 * Open the image to load, and connect.  A destination waits for a load, and has
 * to be told if there is none; one that is paused must not be: it hears of
 * nothing unless the load can be resumed.
 */
static BlockBackend *open_and_connect(const SnapCmdOptions *options,
                                      SnapTransport *transport, Error **errp)
{
    SnapImageOptions image_options = snap_cmd_image_options(options);
    bool resume = options->postcopy->resume;
    BlockBackend *blk;

    image_options.bulk = !options->by_postcopy;
    if (!snap_cmd_prepare(options, errp) ||
        (!resume && !snap_transport_connect(transport, errp))) {
        return NULL;
    }
    blk = snap_open_image(&image_options, false, errp);
    if (blk && resume &&
        (!snap_load_check_resumption(blk, transport, options->postcopy,
                                     errp) ||
         !snap_transport_connect(transport, errp))) {
        g_clear_pointer(&blk, blk_unref);
    }
    return blk;
}

/* Everything that may fail or wait before anything is sent */
static BlockBackend *prepare(const SnapCmdOptions *options,
                             SnapTransport *transport, Error **errp)
{
    bool resume = options->postcopy->resume;
    BlockBackend *blk;
    Error *err = NULL;

    if (!resume) {
        snap_interrupt_add(options->interrupt, refuse, transport);
    }
    blk = open_and_connect(options, transport, errp);
    snap_interrupt_remove(options->interrupt, refuse, transport);
    if (blk && !snap_cmd_check_files(options, SNAP_CMD_READS, blk, &err)) {
        g_clear_pointer(&blk, blk_unref);
    }
    if (!blk && !resume) {
        snap_load_refuse(transport);
    }
    if (err) {
        snap_cmd_exit(err);
    }
    return blk;
}

/* Returns: false if something is still in flight */
static bool load(const SnapCmdOptions *options, SnapStats *stats, Error **errp)
{
    g_autofree char *working_set = snap_cmd_working_set(options);
    SnapPostcopyOptions postcopy = *options->postcopy;
    SnapLoadOptions load_options = {
        .progress = options->progress && !options->quiet,
        .no_verify = options->no_verify,
        .postcopy = options->by_postcopy ? &postcopy : NULL,
        .multifd = options->multifd->nb_channels ? options->multifd : NULL,
    };
    SnapTransport *transport;
    BlockBackend *blk;
    SnapLoad *l;

    postcopy.working_set = working_set;
    postcopy.host_pages = (char **)options->host_pages->pdata;
    transport = snap_transport_open(options->uri, false, options->interrupt,
                                    errp);
    if (!transport) {
        return true;
    }
    blk = prepare(options, transport, errp);
    if (!blk) {
        snap_transport_close(transport);
        return true;
    }
    l = snap_load_new(blk, transport, &load_options);
    snap_interrupt_watch(options->interrupt, on_interrupt, l);
    snap_load_run(l, stats, errp);
    snap_interrupt_watch(options->interrupt, NULL, NULL);
    if (!snap_load_is_idle(l)) {
        snap_transport_abandon(transport);
        return false;
    }
    snap_load_free(l);
    snap_transport_close(transport);
    blk_unref(blk);
    return true;
}

int snap_cmd_load(const SnapCmdOptions *options)
{
    SnapStats stats = { };
    Error *err = NULL;
    bool idle = load(options, &stats, &err);
    int status = snap_cmd_finish(options, &stats, err);

    if (!idle) {
        snap_cmd_leave(status);
    }
    return status;
}
