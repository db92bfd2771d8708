/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The verb check
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/host-utils.h"
#include "snap/util/task.h"
#include "snap/verb/check.h"
#include "tools/snap/qapi/snap-qapi-visit.h"
#include "cmd.h"
#include "json.h"
#include "report.h"

/* Exit status, like that of qemu-img check */
enum {
    CHECK_INTACT     = 0,
    CHECK_IMPOSSIBLE = 1,
    CHECK_CORRUPT    = 2,
    CHECK_LEAKS      = 3,
};

/**
 * CheckTask: a check, after a repair if that was requested and possible
 * @blk: the disk, open for writing if @repair
 * @repair: repair the damage in @result first
 * @result: findings of the last check
 * @repaired_parts: mask of 1 << SnapPart of the parts that were repaired
 * @repaired_leaks: number of clusters that were freed
 */
typedef struct CheckTask {
    BlockBackend *blk;
    bool repair;
    SnapCheckResult result;
    uint32_t repaired_parts;
    int64_t repaired_leaks;
} CheckTask;

static int coroutine_fn cmd_check_repair(SnapImage *image, CheckTask *task,
                                         Error **errp)
{
    SnapCheckResult *found = &task->result;
    int ret = snap_check_repair(image, found, errp);

    if (!ret) {
        task->repaired_parts = found->corrupt_parts;
        task->repaired_leaks = found->container.leaks;
    }
    snap_check_result_destroy(found);
    return ret;
}

static int coroutine_fn cmd_check_entry(void *opaque, Error **errp)
{
    g_autoptr(SnapImage) image = NULL;
    CheckTask *task = opaque;

    image = snap_image_open(task->blk, errp);
    if (!image) {
        return -EINVAL;
    }
    if (task->repair && cmd_check_repair(image, task, errp) < 0) {
        return -EIO;
    }
    snap_check(image, &task->result);
    return 0;
}

/* Open the image for writing only to repair it. */
static bool cmd_check_run(const SnapCmdOptions *options, CheckTask *task,
                          Error **errp)
{
    SnapImageOptions image_options = snap_cmd_image_options(options);
    bool done;

    image_options.bulk = true;
    task->blk = snap_open_image(&image_options, task->repair, errp);
    if (!task->blk) {
        return false;
    }
    done = snap_task_run(cmd_check_entry, task, NULL, errp) >= 0;
    blk_unref(task->blk);
    return done;
}

static SnapCheck *cmd_check_describe(const SnapCmdOptions *options,
                                     const CheckTask *task)
{
    const SnapCheckResult *result = &task->result;
    SnapCheck *check = g_new(SnapCheck, 1);

    *check = (SnapCheck) {
        .filename = g_strdup(options->filename),
        .pages_checked = result->pages_checked,
        .pages_corrupt = result->pages_corrupt,
        .parts_corrupt = ctpop32(result->corrupt_parts),
        .check_errors = result->container.check_errors,
        .corruptions = result->container.corruptions,
        .leaks = result->container.leaks,
        .parts_repaired = ctpop32(task->repaired_parts),
        .leaks_fixed = task->repaired_leaks,
        .first_error = result->first ?
                       g_strdup(error_get_pretty(result->first)) : NULL,
    };
    return check;
}

static void cmd_check_print_json(const SnapCmdOptions *options,
                                 const CheckTask *task)
{
    g_autoptr(SnapCheck) check = cmd_check_describe(options, task);
    g_autoptr(GString) text = NULL;
    SnapJSON json;

    snap_json_begin(&json);
    visit_type_SnapCheck(json.v, NULL, &check, &error_abort);
    text = snap_json_end(&json);
    printf("%s", text->str);
}

static void cmd_check_print_human(const CheckTask *task)
{
    const SnapCheckResult *result = &task->result;

    for (unsigned i = 0; i < SNAP_PART__MAX; i++) {
        if (task->repaired_parts & (1u << i)) {
            printf("The %s was damaged, and has been %s.\n", snap_part_name(i),
                   i == SNAP_PART_ARRIVALS ? "cut before the damage" :
                                             "removed");
        }
    }
    if (task->repaired_leaks) {
        printf("%" PRId64 " leaked clusters of the container were freed.\n",
               task->repaired_leaks);
    }
    if (!result->first) {
        printf("No errors were found in the snapshot (%" PRIu64
               " pages with data).\n", result->pages_checked);
    }
    if (result->container.leaks) {
        printf("%d leaked clusters were found in the container: they waste "
               "space, but do no harm.\n", result->container.leaks);
    }
}

static int cmd_check_report(const SnapCmdOptions *options, CheckTask *task)
{
    SnapCheckResult *result = &task->result;

    if (options->json) {
        cmd_check_print_json(options, task);
    } else if (!options->quiet) {
        cmd_check_print_human(task);
    }
    if (result->first) {
        snap_cmd_error(options, g_steal_pointer(&result->first));
        return result->container.check_errors ? CHECK_IMPOSSIBLE :
                                                CHECK_CORRUPT;
    }
    return result->container.leaks ? CHECK_LEAKS : CHECK_INTACT;
}

int snap_cmd_check(const SnapCmdOptions *options)
{
    CheckTask task = { };
    Error *err = NULL;

    if (cmd_check_run(options, &task, &err) && options->repair &&
        snap_check_can_repair(&task.result)) {
        task.repair = true;
        cmd_check_run(options, &task, &err);
    }
    if (err) {
        snap_check_result_destroy(&task.result);
        snap_cmd_error(options, err);
        return CHECK_IMPOSSIBLE;
    }
    return snap_cmd_output(cmd_check_report(options, &task));
}
