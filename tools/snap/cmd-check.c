/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The verb check
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "snap/check.h"
#include "snap/task.h"
#include "cmd.h"

/* Exit status, as of qemu-img check. */
enum {
    CHECK_SOUND      = 0,
    CHECK_IMPOSSIBLE = 1,
    CHECK_CORRUPT    = 2,
};

typedef struct CheckTask {
    BlockBackend *blk;
    SnapCheckResult result;
} CheckTask;

static int coroutine_fn check(void *opaque, Error **errp)
{
    g_autoptr(SnapImage) image = NULL;
    CheckTask *task = opaque;

    image = snap_image_open(task->blk, errp);
    if (!image) {
        return -EINVAL;
    }
    snap_check(image, &task->result);
    return 0;
}

static void print_json(const SnapCmdOptions *options,
                       const SnapCheckResult *result)
{
    g_autoptr(QDict) dict = qdict_new();
    g_autoptr(GString) json = NULL;

    qdict_put_str(dict, "filename", options->filename);
    qdict_put_int(dict, "pages-checked", result->pages_checked);
    qdict_put_int(dict, "pages-corrupt", result->pages_corrupt);
    qdict_put_int(dict, "parts-corrupt", result->parts_corrupt);
    if (result->first) {
        qdict_put_str(dict, "first-error", error_get_pretty(result->first));
    }
    json = qobject_to_json_pretty(QOBJECT(dict), true);
    printf("%s\n", json->str);
}

static int report(const SnapCmdOptions *options, SnapCheckResult *result)
{
    if (options->json) {
        print_json(options, result);
    }
    if (result->first) {
        snap_cmd_error(options, result->first);
        return CHECK_CORRUPT;
    }
    if (!options->json && !options->quiet) {
        printf("No errors were found in the snapshot (%" PRIu64
               " pages with data).\n", result->pages_checked);
    }
    return CHECK_SOUND;
}

int snap_cmd_check(const SnapCmdOptions *options)
{
    SnapImageOptions image_options = snap_cmd_image_options(options);
    CheckTask task = { };
    Error *err = NULL;

    image_options.bulk = true;
    task.blk = snap_blockdev_open(&image_options, false, &err);
    if (task.blk) {
        snap_task_run(check, &task, NULL, &err);
        blk_unref(task.blk);
    }
    if (err) {
        snap_cmd_error(options, err);
        return CHECK_IMPOSSIBLE;
    }
    return snap_cmd_output(report(options, &task.result));
}
