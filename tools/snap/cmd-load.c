/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The verb load
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/timer.h"
#include "snap/interrupt.h"
#include "snap/load.h"
#include "cmd.h"

static void on_interrupt(void *opaque)
{
    snap_load_interrupt(opaque);
}

static void load(const SnapCmdOptions *options, SnapStats *stats, Error **errp)
{
    SnapImageOptions image_options = snap_cmd_image_options(options);
    g_autofree char *working_set = snap_cmd_working_set(options);
    SnapPostcopyOptions postcopy = options->postcopy;
    SnapLoadOptions load_options = {
        .progress = options->progress && !options->quiet,
        .no_verify = options->no_verify,
        .postcopy = options->by_postcopy ? &postcopy : NULL,
        .multifd = options->multifd.nb_channels ? &options->multifd : NULL,
    };
    g_autoptr(SnapInterrupt) interrupt = NULL;
    SnapTransport *transport;
    BlockBackend *blk;
    SnapLoad *l;

    image_options.bulk = !options->by_postcopy;
    postcopy.working_set = working_set;
    postcopy.host_pages = (char **)options->host_pages->pdata;
    if (postcopy.record && !working_set) {
        error_setg(errp, "--record needs --working-set=FILE with this image");
        return;
    }
    transport = snap_transport_open(options->uri, false, errp);
    if (!transport) {
        return;
    }
    blk = snap_blockdev_open(&image_options, false, errp);
    if (!blk) {
        if (!postcopy.resume) {
            snap_load_refuse(transport);
        }
        snap_transport_close(transport);
        return;
    }
    l = snap_load_new(blk, transport, &load_options);
    interrupt = snap_interrupt_new(on_interrupt, l);
    snap_load_run(l, stats, errp);
    if (!snap_load_is_idle(l)) {
        snap_cmd_abandon(transport);
        return;
    }
    snap_load_free(l);
    snap_transport_close(transport);
    blk_unref(blk);
}

int snap_cmd_load(const SnapCmdOptions *options)
{
    int64_t start_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    SnapStats stats = { };
    Error *err = NULL;

    load(options, &stats, &err);
    return snap_cmd_finish(options, "load", &stats, start_ns, err);
}
