/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The verb embed
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "snap/image/update.h"
#include "snap/image/working-set.h"
#include "snap/util/task.h"
#include "cmd.h"
#include "report.h"

/**
 * EmbedTask: a working set on its way into an image
 * @blk: the disk, open for writing
 * @path: file of the working set
 * @nb_pages: set to the size of the working set
 */
typedef struct EmbedTask {
    BlockBackend *blk;
    const char *path;
    unsigned nb_pages;
} EmbedTask;

static int coroutine_fn cmd_embed_entry(void *opaque, Error **errp)
{
    g_autoptr(SnapImage) image = NULL;
    g_autoptr(GArray) pages = NULL;
    g_autoptr(GByteArray) data = NULL;
    EmbedTask *task = opaque;
    int ret;

    image = snap_image_open(task->blk, errp);
    if (!image) {
        return -EINVAL;
    }
    ret = snap_working_set_load(task->path, &image->header, &pages, errp);
    if (ret == 0) {
        error_setg(errp, "Working set '%s' does not exist", task->path);
    }
    if (ret <= 0) {
        return ret ?: -ENOENT;
    }
    task->nb_pages = pages->len;
    data = snap_working_set_encode(pages, &image->header.uuid);
    return snap_image_set_working_set(image, data, errp);
}

int snap_cmd_embed(const SnapCmdOptions *options)
{
    SnapImageOptions image_options = snap_cmd_image_options(options);
    g_autofree char *path = snap_cmd_working_set(options);
    EmbedTask task = { .path = path };
    Error *err = NULL;

    if (!path) {
        error_setg(&err, "--working-set=FILE is needed, as the image is not a "
                   "local file");
    } else {
        task.blk = snap_open_image(&image_options, true, &err);
    }
    if (task.blk) {
        snap_task_run(cmd_embed_entry, &task, NULL, &err);
        blk_unref(task.blk);
    }
    if (err) {
        snap_cmd_error(options, err);
        return EXIT_FAILURE;
    }
    if (!options->quiet) {
        printf("A working set of %u pages was embedded in the snapshot.\n",
               task.nb_pages);
    }
    return snap_cmd_output(EXIT_SUCCESS);
}
