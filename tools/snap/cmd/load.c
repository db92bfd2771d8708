/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The verb load; its options are in options.c
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "snap/postcopy/postcopy.h"
#include "snap/transfer/multifd-sender.h"
#include "snap/util/interrupt.h"
#include "snap/verb/load.h"
#include "cmd.h"
#include "report.h"

static void cmd_load_on_interrupt(void *opaque)
{
    snap_load_interrupt(opaque);
}

static void cmd_load_refuse(void *opaque)
{
    snap_load_refuse(opaque);
}

/*
 * Connect, and open the image.  If the load resumes another one, connect only
 * when it is clear that it can: otherwise, the destination stays paused, and
 * can be resumed later.
 *
 * Returns: the opened image, NULL with @errp set
 */
static BlockBackend *cmd_load_connect(const SnapCmdOptions *options,
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

/*
 * Do all that may fail or block before anything is sent.  After a failure, the
 * destination is told, unless it is one that is to be resumed.
 *
 * Returns: the opened image, NULL with @errp set
 */
static BlockBackend *cmd_load_prepare(const SnapCmdOptions *options,
                                      SnapTransport *transport, Error **errp)
{
    bool resume = options->postcopy->resume;
    BlockBackend *blk;
    Error *err = NULL;

    if (!resume) {
        snap_interrupt_add(options->interrupt, cmd_load_refuse, transport);
    }
    blk = cmd_load_connect(options, transport, errp);
    snap_interrupt_remove(options->interrupt, cmd_load_refuse, transport);
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

/* Takes over @transport. Returns: a load that can run, NULL with @errp set */
static SnapLoad *cmd_load_begin(const SnapCmdOptions *options,
                                SnapTransport *transport, Error **errp)
{
    g_autofree char *working_set = snap_cmd_working_set(options);
    SnapPostcopyOptions postcopy = *options->postcopy;
    SnapLoadOptions load_options = {
        .progress = options->progress && !options->quiet,
        .no_verify = options->no_verify,
        .postcopy = options->by_postcopy ? &postcopy : NULL,
        .multifd = options->multifd->nb_channels ? options->multifd : NULL,
    };
    BlockBackend *blk = cmd_load_prepare(options, transport, errp);

    if (!blk) {
        snap_transport_close(transport);
        return NULL;
    }
    postcopy.working_set = working_set;
    postcopy.host_pages = (char **)options->host_pages->pdata;
    return snap_load_new(blk, transport, &load_options);
}

static int cmd_load_run(const SnapCmdOptions *options, SnapLoad *l,
                        SnapStats *stats, Error **errp)
{
    int ret;

    snap_interrupt_watch(options->interrupt, cmd_load_on_interrupt, l);
    ret = snap_load_run(l, stats, errp);
    snap_interrupt_watch(options->interrupt, NULL, NULL);
    return ret;
}

int snap_cmd_load(const SnapCmdOptions *options)
{
    SnapTransport *transport;
    SnapStats stats = { };
    SnapLoad *l = NULL;
    Error *err = NULL;
    int ret = 0, status;

    transport = snap_transport_open(options->uri, false, options->interrupt,
                                    &err);
    if (transport) {
        l = cmd_load_begin(options, transport, &err);
    }
    if (l) {
        ret = cmd_load_run(options, l, &stats, &err);
    }
    if (!ret) {
        snap_load_free(l);
        return snap_cmd_finish(options, &stats, err);
    }
    /* A destination that learns from its channel finds the report. */
    snap_transport_abandon(transport);
    status = snap_cmd_finish(options, &stats, err);
    if (ret == -ETIMEDOUT) {
        snap_cmd_leave(status);
    }
    snap_load_free(l);
    return status;
}
