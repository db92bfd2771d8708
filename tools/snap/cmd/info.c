/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The verb info: prints what verb/info.c has found out
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "snap/util/task.h"
#include "snap/verb/info.h"
#include "tools/snap/qapi/snap-qapi-visit.h"
#include "cmd.h"
#include "json.h"
#include "report.h"

/* Width of the column of names of blocks and sections */
#define INFO_NAME_WIDTH 32

typedef struct InfoTask {
    BlockBackend *blk;
    SnapInfo *info;
} InfoTask;

static int coroutine_fn cmd_info_collect(void *opaque, Error **errp)
{
    g_autoptr(SnapImage) image = NULL;
    InfoTask *task = opaque;

    image = snap_image_open(task->blk, errp);
    if (!image) {
        return -EINVAL;
    }
    task->info = snap_info(image, errp);
    return task->info ? 0 : -EINVAL;
}

static SnapInfo *cmd_info_read(const SnapCmdOptions *options, Error **errp)
{
    SnapImageOptions image_options = snap_cmd_image_options(options);
    InfoTask task = { };

    task.blk = snap_open_image(&image_options, false, errp);
    if (!task.blk) {
        return NULL;
    }
    snap_task_run(cmd_info_collect, &task, NULL, errp);
    blk_unref(task.blk);
    return task.info;
}

static void cmd_info_print_json(SnapInfo *info)
{
    g_autoptr(GString) text = NULL;
    SnapJSON json;

    snap_json_begin(&json);
    visit_type_SnapInfo(json.v, NULL, &info, &error_abort);
    text = snap_json_end(&json);
    printf("%s", text->str);
}

/* Print a string of the image, escaped as a terminal might act on it. */
static void cmd_info_print_string(const char *str, int width)
{
    g_autofree char *escaped = str ? g_strescape(str, NULL) : NULL;

    printf("%-*s", width, escaped ?: "unknown");
}

static void cmd_info_print_blocks(const SnapInfoBlockList *list)
{
    printf("RAM blocks:\n");
    for (; list; list = list->next) {
        g_autofree char *size = size_to_str(list->value->size);
        g_autofree char *stored = size_to_str(list->value->stored);

        printf("  ");
        cmd_info_print_string(list->value->name, INFO_NAME_WIDTH);
        printf(" %10s, %10s stored\n", size, stored);
    }
}

static void cmd_info_print_devices(const SnapInfoSectionList *list)
{
    printf("Device sections:\n");
    for (; list; list = list->next) {
        const SnapInfoSection *section = list->value;

        printf("  ");
        cmd_info_print_string(section->name, INFO_NAME_WIDTH);
        printf(" instance %" PRIu32 ", version %" PRIu32 ", %" PRIu64
               " bytes\n", section->instance, section->version, section->size);
    }
}

static void cmd_info_print_human(const char *filename, const SnapInfo *info)
{
    g_autoptr(GDateTime) time = g_date_time_new_from_unix_local(info->created);
    g_autofree char *created = NULL;

    created = time ? g_date_time_format(time, "%Y-%m-%d %H:%M:%S %z") : NULL;
    printf("image: %s\n", filename);
    printf("complete: yes\n");
    printf("machine: ");
    cmd_info_print_string(info->machine, 0);
    printf("\nrun state: ");
    cmd_info_print_string(info->run_state, 0);
    printf("\ncreated: %s\n", created ?: "unknown");
    printf("uuid: %s\n", info->uuid);
    printf("live: %s\n", info->live ? "yes" : "no");
    printf("page size: %" PRIu64 "\n", info->page_size);
    printf("format version: %" PRIu32 ", features: 0x%" PRIx64 " incompatible, "
           "0x%" PRIx64 " compatible\n", info->format_version,
           info->incompatible_features, info->compatible_features);
    printf("arrival list: %" PRIu64 " pages%s\n", info->arrivals,
           info->arrivals_truncated ? " (truncated)" : "");
    printf("working set: %" PRIu64 " pages\n", info->working_set);
    cmd_info_print_blocks(info->ram_blocks);
    printf("device state: %" PRIu64 " bytes\n", info->device_state_size);
    cmd_info_print_devices(info->devices);
}

int snap_cmd_info(const SnapCmdOptions *options)
{
    g_autoptr(SnapInfo) info = NULL;
    Error *err = NULL;

    info = cmd_info_read(options, &err);
    if (!info) {
        snap_cmd_error(options, err);
        return EXIT_FAILURE;
    }
    if (options->json) {
        cmd_info_print_json(info);
    } else {
        cmd_info_print_human(options->filename, info);
    }
    return snap_cmd_output(EXIT_SUCCESS);
}
