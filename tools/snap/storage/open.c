/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Opening images
 */

#include "qemu/osdep.h"
#include <sys/uio.h>
#include "qemu/cutils.h"
#include "qemu/keyval.h"
#include "qemu/main-loop.h"
#include "qapi/error.h"
#include "block/block.h"
#include "block/qdict.h"
#include "qobject/qdict.h"
#include "snap/storage/open.h"
#include "snap/storage/references.h"
#include "snap/trace.h"

/* Places of a file that are looked up in the page cache */
#define CACHE_SAMPLES 64

/**
 * OpenRequest: what to open, in whichever modes
 * @options: as given
 * @filename: NULL if @extra names the file
 * @extra: further options, flattened, or NULL
 * @flags: BDRV_O_*
 */
typedef struct OpenRequest {
    const SnapImageOptions *options;
    const char *filename;
    QDict *extra;
    int flags;
} OpenRequest;

/* --- names --- */

/* Whether no block driver has the protocol that a name begins with. */
static bool is_unknown_protocol(const char *filename)
{
    Error *err = NULL;
    bool unknown;

    if (bdrv_find_protocol(filename, true, &err) || !err) {
        return false;
    }
    /* A driver in a module that cannot be loaded is another error. */
    unknown = g_str_has_prefix(error_get_pretty(err), "Unknown protocol");
    error_free(err);
    return unknown;
}

char *snap_open_file_name(const char *filename)
{
    if (path_has_protocol(filename) && !strstr(filename, "://") &&
        !g_str_has_prefix(filename, "json:") &&
        is_unknown_protocol(filename)) {
        return g_strdup_printf("./%s", filename);
    }
    return g_strdup(filename);
}

const char *snap_open_local_path(const SnapImageOptions *options)
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

/* Nobody who writes '-' wants a file of that name. */
bool snap_open_check_name(const SnapImageOptions *options, Error **errp)
{
    if (!options->image_opts && !strcmp(options->filename, "-")) {
        error_setg(errp, "An image cannot be read from stdin or written to "
                   "stdout; a file of this name is './-'");
        return false;
    }
    return true;
}

/* --- options --- */

QDict *snap_open_parse_options(const char *list, Error **errp)
{
    QDict *dict = keyval_parse(list, NULL, NULL, errp);

    if (dict) {
        qdict_flatten(dict);
    }
    return dict;
}

/* Options to open with; NULL with @errp set */
static QDict *collect_options(const OpenRequest *request, Error **errp)
{
    const SnapImageOptions *options = request->options;
    QDict *dict;

    if (options->image_opts) {
        dict = snap_open_parse_options(options->filename, errp);
        if (!dict) {
            return NULL;
        }
    } else {
        dict = qdict_new();
        if (options->format) {
            qdict_put_str(dict, "driver", options->format);
        }
    }
    if (request->extra) {
        g_autoptr(QDict) extra = qdict_clone_shallow(request->extra);

        qdict_join(dict, extra, true);
    }
    if (options->force_share) {
        qdict_put_str(dict, BDRV_OPT_FORCE_SHARE, "on");
    }
    return dict;
}

/* --- modes --- */

/* Flags of the block layer for cache and aio modes; @aio may be NULL */
static bool parse_modes(const char *cache, const char *aio, int *flags,
                        bool *writethrough, Error **errp)
{
    if (bdrv_parse_cache_mode(cache, flags, writethrough) < 0) {
        error_setg(errp, "Invalid cache mode '%s'", cache);
        return false;
    }
    if (aio && bdrv_parse_aio(aio, flags) < 0) {
        error_setg(errp, "Invalid aio mode '%s'", aio);
        return false;
    }
    return true;
}

/* Whether a read of data at @offset or after it would not wait for storage. */
static bool is_cached(int fd, off_t offset)
{
    uint8_t byte;
    struct iovec iov = { &byte, 1 };

    /* Holes say nothing. */
    offset = lseek(fd, offset, SEEK_DATA);
    return offset >= 0 && preadv2(fd, &iov, 1, offset, RWF_NOWAIT) == 1;
}

/*
 * Whether most of the file at @path is in the page cache.  A guess from a few
 * samples, which reads nothing from storage; false also if it cannot be told.
 */
static bool is_mostly_cached(const char *path)
{
    int fd = qemu_open(path, O_RDONLY, NULL);
    unsigned cached = 0;
    struct stat st;

    if (fd < 0) {
        return false;
    }
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        for (unsigned i = 0; i < CACHE_SAMPLES; i++) {
            cached += is_cached(fd, st.st_size / CACHE_SAMPLES * i);
        }
    }
    qemu_close(fd);
    trace_snap_open_cached(path, cached, CACHE_SAMPLES);
    return cached > CACHE_SAMPLES / 2;
}

/*
 * What is written, or read as a whole, bypasses the page cache, unless that has
 * it already.
 */
static const char *choose_cache(const OpenRequest *request)
{
    const char *path = snap_open_local_path(request->options);

    if (request->flags & BDRV_O_RDWR) {
        return "none";
    }
    return request->options->bulk && !(path && is_mostly_cached(path)) ?
           "none" : "writeback";
}

/*
 * Threads take work off the one that has the stream: to submit what is written,
 * to copy from the page cache what is read as a whole.  Otherwise they only
 * take time.
 */
static const char *choose_aio(const OpenRequest *request, const char *cache)
{
    bool direct = !strcmp(cache, "none") || !strcmp(cache, "directsync");

    return (request->flags & BDRV_O_RDWR) ||
           (request->options->bulk && !direct) ? NULL : "io_uring";
}

/* --- opening --- */

static BlockBackend *open_with_modes(const OpenRequest *request,
                                     const char *cache, const char *aio,
                                     Error **errp)
{
    int flags = request->flags;
    bool writethrough = false;
    BlockBackend *blk;
    QDict *dict;

    if (!parse_modes(cache, aio, &flags, &writethrough, errp)) {
        return NULL;
    }
    dict = collect_options(request, errp);
    if (!dict) {
        return NULL;
    }
    snap_interrupt_begin_blocking(request->options->interrupt);
    blk = blk_new_open(request->filename, NULL, dict, flags, errp);
    snap_interrupt_end_blocking(request->options->interrupt);
    if (!blk) {
        return NULL;
    }
    blk_set_enable_write_cache(blk, !writethrough);
    trace_snap_open(cache, aio ?: "");
    return blk;
}

/* Open with the given modes, or else with the best possible ones. */
static BlockBackend *open_request(const OpenRequest *request, Error **errp)
{
    const SnapImageOptions *options = request->options;
    const char *cache = options->cache ?: choose_cache(request);
    const char *aio = options->aio ?: choose_aio(request, cache);
    BlockBackend *blk = open_with_modes(request, cache, aio, NULL);

    if (!blk && !options->aio) {
        blk = open_with_modes(request, cache, NULL, NULL);
    }
    return blk ?: open_with_modes(request, options->cache ?: "writeback",
                                  options->aio, errp);
}

/*
 * Check that the image refers to nothing else, without opening what it refers
 * to.  Options that name that say that the user wants it.
 */
static bool check_references(const OpenRequest *request, Error **errp)
{
    OpenRequest inspection = *request;
    g_autoptr(QDict) dict = collect_options(request, errp);
    BlockBackend *blk;
    bool none;

    if (!dict) {
        return false;
    }
    if (snap_references_given(dict)) {
        return true;
    }
    inspection.flags = BDRV_O_NO_BACKING | BDRV_O_NO_IO;
    blk = open_with_modes(&inspection, "writeback", NULL, errp);
    if (!blk) {
        return false;
    }
    none = snap_references_none(blk, errp);
    blk_unref(blk);
    return none;
}

BlockBackend *snap_open_image(const SnapImageOptions *options, bool writable,
                              Error **errp)
{
    const char *path = snap_open_local_path(options);
    OpenRequest request = {
        .options = options,
        .filename = options->image_opts ? NULL : options->filename,
        /* The formats refuse a second writer, and raw has to as well. */
        .flags = writable ? BDRV_O_RDWR | BDRV_O_RESIZE | BDRV_O_NO_SHARE : 0,
    };
    struct stat st;

    GLOBAL_STATE_CODE();
    assert(!qemu_in_coroutine());
    if (!snap_open_check_name(options, errp)) {
        return NULL;
    }
    /* Opening a FIFO would wait for somebody to write to it. */
    if (path && stat(path, &st) == 0 &&
        !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
        error_setg(errp, "Neither a regular file nor a block device");
        return NULL;
    }
    if (!options->backing_chain && !check_references(&request, errp)) {
        return NULL;
    }
    return open_request(&request, errp);
}

BlockBackend *snap_open_new(const SnapImageOptions *options, QDict *file,
                            Error **errp)
{
    OpenRequest request = {
        .options = options,
        .extra = file,
        .flags = BDRV_O_RDWR | BDRV_O_RESIZE,
    };

    GLOBAL_STATE_CODE();
    assert(!qemu_in_coroutine());
    return open_request(&request, errp);
}
