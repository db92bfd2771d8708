/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The verb save
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/timer.h"
#include "snap/interrupt.h"
#include "snap/save.h"
#include "cmd.h"

static void on_interrupt(void *opaque)
{
    snap_save_interrupt(opaque);
}

static void save(const SnapCmdOptions *options, SnapStats *stats, Error **errp)
{
    SnapSaveOptions save_options = {
        .target.image = snap_cmd_image_options(options),
        .target.create_options = options->create_options,
        .target.existing = options->existing,
        .max_ram = options->image_size,
        .page_bits = options->page_bits,
        .progress = options->progress && !options->quiet,
    };
    g_autoptr(SnapInterrupt) interrupt = NULL;
    SnapTransport *transport;
    SnapSave *s;

    save_options.target.image.format = options->create_format;
    /* An image to write to is the user's own. */
    save_options.target.image.backing_chain = true;
    transport = snap_transport_open(options->uri, true, errp);
    if (!transport) {
        return;
    }
    s = snap_save_new(&save_options, transport);
    interrupt = snap_interrupt_new(on_interrupt, s);
    if (snap_save_run(s, stats, errp) < 0) {
        snap_cmd_abandon(transport);
        return;
    }
    snap_save_free(s);
    snap_transport_close(transport);
}

int snap_cmd_save(const SnapCmdOptions *options)
{
    int64_t start_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    SnapStats stats = { };
    Error *err = NULL;

    save(options, &stats, &err);
    return snap_cmd_finish(options, "save", &stats, start_ns, err);
}
