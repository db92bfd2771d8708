/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a save writes to
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qapi/error.h"
#include "block/block.h"
#include "block/block_int.h"
#include "block/thread-pool.h"
#include "qobject/qdict.h"
#include "snap/storage/create.h"
#include "snap/storage/open.h"
#include "snap/storage/references.h"
#include "snap/storage/replace.h"
#include "snap/storage/target.h"
#include "snap/trace.h"

/* How much longer a new file is than what was written to it */
#define PREALLOCATION "64M"

struct SnapTarget {
    SnapTargetOptions options;
    BlockBackend *blk;          /* NULL before a new image is created */
    SnapReplace *replace;       /* NULL for an existing target */
    bool unflushed;             /* the block layer does not flush the file */
    bool confirmed;
    bool abandoned;
};

/* What an encrypted image was created with is needed to open it, too. */
static bool collect_secrets(const char *create_options, QDict *secrets,
                            Error **errp)
{
    g_autoptr(QDict) dict = NULL;
    const QDictEntry *entry;

    if (!create_options) {
        return true;
    }
    dict = snap_open_parse_options(create_options, errp);
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

/* @nested: the file is not the image's own child, but that one's */
static void put_file_option(QDict *dict, bool nested, const char *name,
                            const char *value)
{
    g_autofree char *key = g_strdup_printf("file.%s%s", nested ? "file." : "",
                                           name);

    qdict_put_str(dict, key, value);
}

/* Open the local file at @path, which others may use. */
static BlockBackend *open_old(const SnapTargetOptions *options,
                              const char *path, int flags)
{
    g_autoptr(QDict) dict = qdict_new();

    if (!collect_secrets(options->create_options, dict, NULL)) {
        return NULL;
    }
    put_file_option(dict, false, "driver", "file");
    put_file_option(dict, false, "filename", path);
    qdict_put_str(dict, BDRV_OPT_FORCE_SHARE, "on");
    return blk_new_open(NULL, NULL, g_steal_pointer(&dict),
                        flags | BDRV_O_NO_BACKING, NULL);
}

/* Whether the image at @path consists of this file. */
static bool is_single(const SnapTargetOptions *options, const char *path)
{
    BlockBackend *blk = open_old(options, path, BDRV_O_NO_IO);
    bool single = blk && snap_references_none(blk, NULL);

    blk_unref(blk);
    return single;
}

/*
 * Whether the readers of the local file at @path can go on if it is replaced.
 * If not, they may be virtual machines, whose disk it is.
 */
static bool may_be_read(const SnapTargetOptions *options, const char *path)
{
    BlockBackend *blk;
    struct stat st;
    bool may;

    if (!options->may_be_read || stat(path, &st) < 0 ||
        !S_ISREG(st.st_mode) || !is_single(options, path)) {
        return false;
    }
    blk = open_old(options, path, 0);
    may = blk && options->may_be_read(blk);
    blk_unref(blk);
    return may;
}

static bool check_create_options(const SnapTargetOptions *options,
                                 Error **errp)
{
    g_autoptr(QDict) dict = NULL;

    if (!options->create_options) {
        return true;
    }
    dict = snap_open_parse_options(options->create_options, errp);
    return dict && snap_create_check_options(dict, errp);
}

static void remove_temporary(void *opaque)
{
    snap_replace_remove(opaque);
}

static bool begin_replacement(SnapTarget *target, Error **errp)
{
    const SnapTargetOptions *options = &target->options;
    const char *path = snap_open_local_path(&options->image);
    bool readable;

    if (!path) {
        error_setg(errp, "Only a local file can be created: "
                   "use -n with an image that exists");
        return false;
    }
    if (!snap_open_check_name(&options->image, errp)) {
        return false;
    }
    if (!check_create_options(options, errp)) {
        return false;
    }
    snap_interrupt_begin_blocking(options->image.interrupt);
    readable = may_be_read(options, path);
    snap_interrupt_end_blocking(options->image.interrupt);
    target->replace = snap_replace_begin(path, readable, errp);
    if (!target->replace) {
        return false;
    }
    snap_interrupt_add(options->image.interrupt, remove_temporary,
                       target->replace);
    return true;
}

SnapTarget *snap_target_begin(const SnapTargetOptions *options, Error **errp)
{
    g_autoptr(SnapTarget) target = g_new0(SnapTarget, 1);

    GLOBAL_STATE_CODE();
    assert(!qemu_in_coroutine());
    target->options = *options;
    if (options->existing) {
        target->blk = snap_open_image(&options->image, true, errp);
    } else {
        begin_replacement(target, errp);
    }
    return target->blk || target->replace ? g_steal_pointer(&target) : NULL;
}

static bool check_disk_size(SnapTarget *target, uint64_t size, Error **errp)
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

/* Whether the file of an image of this format grows as it is written to. */
static bool format_grows(const char *format)
{
    return !strcmp(format, "qcow2");
}

/*
 * Whether the user leaves it to us when to flush.  With lazy reference counts,
 * the order of what reaches storage matters until the image is closed
 * (block/qcow2.c:qcow2_mark_clean).
 */
static bool may_flush_late(const SnapTargetOptions *options)
{
    const char *cache = options->image.cache;

    return (!cache || !strcmp(cache, "none") || !strcmp(cache, "writeback")) &&
           !(options->create_options &&
             strstr(options->create_options, "lazy_refcounts"));
}

/*
 * How to open the new file.  A file that grows with each write makes
 * direct I/O wait (ext4 extends it before the request is submitted), so it is
 * made longer well ahead; snap_target_commit() cuts it off again.
 *
 * While an image is incomplete, the order of what reaches storage does not
 * matter.  qcow2 flushes for it, and lets all writes wait meanwhile; what
 * counts is snap_target_sync().
 *
 * Its locks are those of snap_replace_lock().
 */
static QDict *new_file_options(SnapTarget *target, Error **errp)
{
    const SnapTargetOptions *options = &target->options;
    g_autoptr(QDict) dict = qdict_new();
    bool growing = format_grows(options->image.format);

    if (may_flush_late(options)) {
        qdict_put_str(dict, "file.cache.no-flush", "on");
        target->unflushed = true;
    }
    if (!collect_secrets(options->create_options, dict, errp)) {
        return NULL;
    }
    if (growing) {
        qdict_put_str(dict, "file.driver", "preallocate");
        qdict_put_str(dict, "file.prealloc-size", PREALLOCATION);
    }
    put_file_option(dict, growing, "driver", "file");
    put_file_option(dict, growing, "filename",
                    snap_replace_path(target->replace));
    put_file_option(dict, growing, "locking", "off");
    return g_steal_pointer(&dict);
}

/* Whatever the options and drivers: a second file would not be safe. */
static bool is_one_file(SnapTarget *target, Error **errp)
{
    return snap_references_only(target->blk,
                                snap_replace_path(target->replace), errp);
}

static bool open_new(SnapTarget *target, uint64_t size, Error **errp)
{
    const SnapTargetOptions *options = &target->options;
    g_autoptr(QDict) file = NULL;
    bool done;

    snap_interrupt_begin_blocking(options->image.interrupt);
    done = snap_create_image(snap_replace_path(target->replace),
                             options->image.format, options->create_options,
                             size, errp);
    snap_interrupt_end_blocking(options->image.interrupt);
    if (!done) {
        return false;
    }
    snap_replace_lock(target->replace);
    file = new_file_options(target, errp);
    if (!file) {
        return false;
    }
    target->blk = snap_open_new(&options->image, file, errp);
    return target->blk && is_one_file(target, errp);
}

bool snap_target_create(SnapTarget *target, uint64_t size, Error **errp)
{
    GLOBAL_STATE_CODE();
    assert(!qemu_in_coroutine());
    return (target->blk || open_new(target, size, errp)) &&
           check_disk_size(target, size, errp);
}

bool snap_target_is_existing(const SnapTarget *target)
{
    return target->options.existing;
}

BlockBackend *snap_target_blk(SnapTarget *target)
{
    return target->blk;
}

static int sync_file(void *opaque)
{
    return snap_replace_sync(opaque);
}

int coroutine_fn snap_target_sync(SnapTarget *target)
{
    return target->unflushed ? thread_pool_submit_co(sync_file,
                                                     target->replace) : 0;
}

/* Cut off what the file has beyond what its format needs. */
static int coroutine_fn drop_preallocation(SnapTarget *target, Error **errp)
{
    GRAPH_RDLOCK_GUARD();
    BdrvChild *file = blk_bs(target->blk)->file;
    int64_t length;

    if (!file || strcmp(file->bs->drv->format_name, "preallocate")) {
        return 0;
    }
    length = bdrv_co_getlength(file->bs);
    if (length < 0) {
        error_setg_errno(errp, -length, "Could not get the file's size");
        return length;
    }
    return bdrv_co_truncate(file, length, true, PREALLOC_MODE_OFF, 0, errp);
}

int coroutine_fn snap_target_commit(SnapTarget *target, Error **errp)
{
    int ret;

    if (!target->replace) {
        return 0;
    }
    ret = drop_preallocation(target, errp);
    if (ret < 0) {
        return ret;
    }
    if (target->abandoned) {
        error_setg(errp, "The image was abandoned");
        return -ECANCELED;
    }
    return snap_replace_commit(target->replace, errp);
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
    target->abandoned = true;
    if (target->replace) {
        snap_interrupt_remove(target->options.image.interrupt,
                              remove_temporary, target->replace);
        snap_replace_abandon(target->replace);
    }
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

/* Whether the end of the process may close it, which does not flush. */
static bool may_stay_open(const SnapTarget *target)
{
    if (!target->options.at_exit) {
        return false;
    }
    return target->confirmed ? target->replace &&
                               complete_when_flushed(target->blk) :
                               target->abandoned;
}

void snap_target_close(SnapTarget *target)
{
    GLOBAL_STATE_CODE();
    assert(!qemu_in_coroutine());
    if (!target) {
        return;
    }
    if (!may_stay_open(target)) {
        blk_unref(target->blk);
        if (target->unflushed && target->confirmed) {
            snap_replace_sync(target->replace);
        }
    }
    snap_target_abandon(target);
    snap_replace_end(target->replace);
    g_free(target);
}
