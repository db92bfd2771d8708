/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Opening images, and making the one that a save writes to
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/keyval.h"
#include "qapi/error.h"
#include "block/block.h"
#include "block/qdict.h"
#include "qobject/qdict.h"
#include "snap/blockdev.h"
#include "snap/replace.h"

struct SnapTarget {
    BlockBackend *blk;
    SnapReplace *replace;       /* NULL for an existing target */
    bool confirmed;
};

/* Flags of the block layer for cache and aio modes. */
static bool parse_modes(const SnapImageOptions *options, int *flags,
                        bool *writethrough, Error **errp)
{
    if (bdrv_parse_cache_mode(options->cache, flags, writethrough) < 0) {
        error_setg(errp, "Invalid cache mode '%s'", options->cache);
        return false;
    }
    if (options->aio && bdrv_parse_aio(options->aio, flags) < 0) {
        error_setg(errp, "Invalid aio mode '%s'", options->aio);
        return false;
    }
    return true;
}

/* Options as the block layer takes them: a.b=c has the key "a.b". */
static QDict *parse_options(const char *list, Error **errp)
{
    QDict *dict = keyval_parse(list, NULL, NULL, errp);

    if (dict) {
        qdict_flatten(dict);
    }
    return dict;
}

/* @extra: options to open with, or NULL; taken out of it */
static BlockBackend *open_blk(const SnapImageOptions *options,
                              const char *filename, QDict *extra, int flags,
                              Error **errp)
{
    BlockBackend *blk;
    QDict *dict;
    bool writethrough = false;

    if (!parse_modes(options, &flags, &writethrough, errp)) {
        return NULL;
    }
    if (options->image_opts) {
        dict = parse_options(options->filename, errp);
        if (!dict) {
            return NULL;
        }
        filename = NULL;
    } else {
        dict = qdict_new();
        if (options->format) {
            qdict_put_str(dict, "driver", options->format);
        }
    }
    if (extra) {
        qdict_join(dict, extra, false);
    }
    if (options->force_share) {
        qdict_put_str(dict, BDRV_OPT_FORCE_SHARE, "on");
    }
    blk = blk_new_open(filename, NULL, dict, flags, errp);
    if (!blk) {
        return NULL;
    }
    blk_set_enable_write_cache(blk, !writethrough);
    return blk;
}

const char *snap_blockdev_local_path(const SnapImageOptions *options)
{
    const char *filename = options->filename;

    if (options->image_opts) {
        return NULL;
    }
    if (strstart(filename, "file:", &filename)) {
        return filename;
    }
    return path_has_protocol(filename) ? NULL : filename;
}

BlockBackend *snap_blockdev_open(const SnapImageOptions *options,
                                 bool writable, Error **errp)
{
    const char *path = snap_blockdev_local_path(options);
    int flags = writable ? BDRV_O_RDWR | BDRV_O_RESIZE : 0;
    struct stat st;

    /* Opening a FIFO would wait for somebody to write to it. */
    if (path && stat(path, &st) == 0 &&
        !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
        error_setg(errp, "Neither a regular file nor a block device");
        return NULL;
    }
    if (options->try_io_uring && !options->aio) {
        SnapImageOptions with_io_uring = *options;
        BlockBackend *blk;

        with_io_uring.aio = "io_uring";
        blk = open_blk(&with_io_uring, options->filename, NULL, flags, NULL);
        if (blk) {
            return blk;
        }
    }
    return open_blk(options, options->filename, NULL, flags, errp);
}

static bool create_file(SnapTarget *target, const SnapTargetOptions *options,
                        uint64_t size, Error **errp)
{
    g_autofree char *create_options = g_strdup(options->create_options);
    const char *path = snap_blockdev_local_path(&options->image);
    Error *err = NULL;

    if (!path) {
        error_setg(errp, "Only a local file can be created: "
                   "use -n with an image that exists");
        return false;
    }
    target->replace = snap_replace_begin(path, errp);
    if (!target->replace) {
        return false;
    }
    bdrv_img_create(snap_replace_path(target->replace), options->image.format,
                    NULL, NULL, create_options, size, 0, true, &err);
    if (err) {
        error_propagate_prepend(errp, err, "Could not create: ");
        return false;
    }
    return true;
}

/* What an encrypted image was created with is needed to open it, too. */
static bool collect_secrets(const char *create_options, QDict *secrets,
                            Error **errp)
{
    g_autoptr(QDict) dict = NULL;
    const QDictEntry *entry;

    if (!create_options) {
        return true;
    }
    dict = parse_options(create_options, errp);
    if (!dict) {
        return false;
    }
    for (entry = qdict_first(dict); entry; entry = qdict_next(dict, entry)) {
        if (g_str_has_suffix(qdict_entry_key(entry), "key-secret")) {
            qdict_put_obj(secrets, qdict_entry_key(entry),
                          qobject_ref(qdict_entry_value(entry)));
        }
    }
    return true;
}

static bool check_size(SnapTarget *target, uint64_t size, Error **errp)
{
    int64_t have = blk_getlength(target->blk);

    if (have < 0) {
        error_setg_errno(errp, -have, "Could not get the size");
        return false;
    }
    if (have < size) {
        error_setg(errp, "A disk of %" PRId64 " bytes cannot hold the "
                   "snapshot, which takes %" PRIu64, have, size);
        return false;
    }
    return true;
}

SnapTarget *snap_target_open(const SnapTargetOptions *options, uint64_t size,
                             Error **errp)
{
    g_autoptr(SnapTarget) target = g_new0(SnapTarget, 1);
    const char *filename = options->image.filename;
    g_autoptr(QDict) secrets = qdict_new();

    if (!options->existing) {
        if (!create_file(target, options, size, errp) ||
            !collect_secrets(options->create_options, secrets, errp)) {
            return NULL;
        }
        filename = snap_replace_path(target->replace);
    }
    target->blk = open_blk(&options->image, filename, secrets,
                           BDRV_O_RDWR | BDRV_O_RESIZE, errp);
    if (!target->blk || !check_size(target, size, errp)) {
        return NULL;
    }
    return g_steal_pointer(&target);
}

BlockBackend *snap_target_blk(SnapTarget *target)
{
    return target->blk;
}

int snap_target_commit(SnapTarget *target, Error **errp)
{
    return target->replace ? snap_replace_commit(target->replace, errp) : 0;
}

int snap_target_rollback(SnapTarget *target, Error **errp)
{
    return target->replace ? snap_replace_rollback(target->replace, errp) : 0;
}

void snap_target_confirm(SnapTarget *target)
{
    target->confirmed = true;
    if (target->replace) {
        snap_replace_confirm(target->replace);
    }
}

void snap_target_abandon(SnapTarget *target)
{
    g_clear_pointer(&target->replace, snap_replace_end);
}

/* Whether closing adds nothing to what was flushed. */
static bool complete_when_flushed(BlockBackend *blk)
{
    g_autoptr(ImageInfoSpecific) info = NULL;
    const char *format = bdrv_get_format_name(blk_bs(blk));

    if (!strcmp(format, "raw")) {
        return true;
    }
    info = bdrv_get_specific_info(blk_bs(blk), NULL);
    return !strcmp(format, "qcow2") && info &&
           !info->u.qcow2.data->lazy_refcounts;
}

void snap_target_close(SnapTarget *target)
{
    if (!target) {
        return;
    }
    if (!target->blk || !target->confirmed || !target->replace ||
        !complete_when_flushed(target->blk)) {
        blk_unref(target->blk);
    }
    snap_target_abandon(target);
    g_free(target);
}
