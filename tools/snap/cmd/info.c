/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The verb info
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"
#include "snap/verb/info.h"
#include "snap/util/task.h"
#include "cmd.h"
#include "report.h"

/* Columns for names of blocks and sections. */
#define NAME_WIDTH 32

typedef struct InfoTask {
    BlockBackend *blk;
    QDict *info;
} InfoTask;

static int coroutine_fn collect(void *opaque, Error **errp)
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

/* A string of the image, without anything that a terminal would act on. */
static void print_string(const QDict *dict, const char *key, int width)
{
    const char *str = qdict_get_try_str(dict, key);
    g_autofree char *escaped = str ? g_strescape(str, NULL) : NULL;

    printf("%-*s", width, escaped ?: "unknown");
}

static void print_blocks(const QList *blocks)
{
    const QListEntry *entry;

    printf("RAM blocks:\n");
    QLIST_FOREACH_ENTRY(blocks, entry) {
        const QDict *block = qobject_to(QDict, qlist_entry_obj(entry));
        g_autofree char *size = size_to_str(qdict_get_int(block, "size"));
        g_autofree char *stored = size_to_str(qdict_get_int(block, "stored"));

        printf("  ");
        print_string(block, "name", NAME_WIDTH);
        printf(" %10s, %10s stored\n", size, stored);
    }
}

static void print_devices(const QList *devices)
{
    const QListEntry *entry;

    printf("Device sections:\n");
    QLIST_FOREACH_ENTRY(devices, entry) {
        const QDict *section = qobject_to(QDict, qlist_entry_obj(entry));

        printf("  ");
        print_string(section, "name", NAME_WIDTH);
        printf(" instance %" PRIi64 ", version %" PRIi64 ", %" PRIi64
               " bytes\n", qdict_get_int(section, "instance"),
               qdict_get_int(section, "version"),
               qdict_get_int(section, "size"));
    }
}

static void print_human(const char *filename, const QDict *info)
{
    g_autoptr(GDateTime) time = NULL;
    g_autofree char *created = NULL;

    time = g_date_time_new_from_unix_local(qdict_get_int(info, "created"));
    created = time ? g_date_time_format(time, "%Y-%m-%d %H:%M:%S %z") : NULL;

    printf("image: %s\n", filename);
    printf("complete: yes\n");
    printf("machine: ");
    print_string(info, "machine", 0);
    printf("\nrun state: ");
    print_string(info, "run-state", 0);
    printf("\ncreated: %s\n", created ?: "unknown");
    printf("uuid: %s\n", qdict_get_str(info, "uuid"));
    printf("live: %s\n", qdict_get_bool(info, "live") ? "yes" : "no");
    printf("page size: %" PRIi64 "\n", qdict_get_int(info, "page-size"));
    printf("format version: %" PRIi64 ", features: 0x%" PRIx64 " incompatible, "
           "0x%" PRIx64 " compatible\n",
           qdict_get_int(info, "format-version"),
           qdict_get_int(info, "incompatible-features"),
           qdict_get_int(info, "compatible-features"));
    printf("arrival list: %" PRIi64 " pages%s\n",
           qdict_get_int(info, "arrivals"),
           qdict_get_bool(info, "arrivals-truncated") ? " (truncated)" : "");
    printf("working set: %" PRIi64 " pages\n",
           qdict_get_int(info, "working-set"));
    print_blocks(qdict_get_qlist(info, "ram-blocks"));
    printf("device state: %" PRIi64 " bytes\n",
           qdict_get_int(info, "device-state-size"));
    print_devices(qdict_get_qlist(info, "devices"));
}

int snap_cmd_info(const SnapCmdOptions *options)
{
    SnapImageOptions image_options = snap_cmd_image_options(options);
    InfoTask task = { };
    Error *err = NULL;

    task.blk = snap_open_image(&image_options, false, &err);
    if (task.blk) {
        snap_task_run(collect, &task, NULL, &err);
        blk_unref(task.blk);
    }
    if (err) {
        snap_cmd_error(options, err);
        return EXIT_FAILURE;
    }
    if (options->json) {
        g_autoptr(GString) json = NULL;

        json = qobject_to_json_pretty(QOBJECT(task.info), true);
        printf("%s\n", json->str);
    } else {
        print_human(options->filename, task.info);
    }
    qobject_unref(task.info);
    return snap_cmd_output(EXIT_SUCCESS);
}
