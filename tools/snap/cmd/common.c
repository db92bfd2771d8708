/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What verbs have in common
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qom/object_interfaces.h"
#include "snap/channel/transport.h"
#include "snap/transfer/stats.h"
#include "snap/util/memory-limit.h"
#include "cmd.h"
#include "report.h"

bool snap_cmd_prepare(const SnapCmdOptions *options, Error **errp)
{
    Error *err = NULL;

    if (!snap_memory_limit_respect(errp)) {
        return false;
    }
    snap_interrupt_begin_blocking(options->interrupt);
    for (unsigned i = 0; i < options->objects->len && !err; i++) {
        user_creatable_add_qapi(g_ptr_array_index(options->objects, i), &err);
    }
    snap_interrupt_end_blocking(options->interrupt);
    error_propagate(errp, err);
    return !err;
}

SnapImageOptions snap_cmd_image_options(const SnapCmdOptions *options)
{
    return (SnapImageOptions) {
        .filename = options->image,
        .format = options->format,
        .image_opts = options->image_opts,
        .cache = options->cache,
        .aio = options->aio,
        .force_share = options->force_share,
        .backing_chain = options->backing_chain,
        .interrupt = options->interrupt,
    };
}

char *snap_cmd_working_set(const SnapCmdOptions *options)
{
    SnapImageOptions image_options = snap_cmd_image_options(options);
    const char *path = snap_open_local_path(&image_options);

    if (options->working_set) {
        return g_strdup(options->working_set);
    }
    return path ? g_strdup_printf("%s.working-set", path) : NULL;
}

void snap_cmd_leave(int status)
{
    /* Not exit(): whatever it calls may be in use. */
    (void)fflush(NULL);
    _exit(status);
}

void snap_cmd_end_interrupted(const SnapCmdOptions *options)
{
    SnapStats stats = { };
    Error *err = NULL;

    error_setg(&err, "Interrupted");
    /* Not snap_cmd_leave(): the main thread may hold a stream's lock. */
    _exit(snap_cmd_finish(options, &stats, err));
}
