/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Opening images
 *
 * The folder storage/ has the file or device under an image, whatever is in
 * it.  An image that exists is opened here.  A save begins a target (target):
 * an existing image, or a temporary, made by create, that replaces a file when
 * it is complete (replace).  Pages are read and written through a window of
 * requests in flight (io-window), and writes are rounded to units of allocation
 * (coalesce).  Locks tell what others do with a file (file-lock), references
 * what belongs to it, and named-files whether two names are one file.
 */

#ifndef SNAP_STORAGE_OPEN_H
#define SNAP_STORAGE_OPEN_H

#include "qobject/qdict.h"
#include "system/block-backend.h"
#include "snap/util/interrupt.h"

/**
 * SnapImageOptions: how to open an image, as given on the command line
 * @filename: file name, or options if @image_opts is set
 * @format: block driver; NULL to probe
 * @image_opts: @filename is a list of options, as qemu-img --image-opts
 * @cache: cache mode, as qemu-img -t; NULL for what fits, and is possible
 * @aio: "threads", "native", "io_uring"; NULL likewise
 * @bulk: all of it is going to be read
 * @force_share: open also what others have open for writing
 * @backing_chain: follow what the image refers to, if it does
 * @interrupt: signals while opening or creating it waits; NULL for none.  If
 *             they end the process, what was created is removed
 */
typedef struct SnapImageOptions {
    const char *filename;
    const char *format;
    bool image_opts;
    const char *cache;
    const char *aio;
    bool bulk;
    bool force_share;
    bool backing_chain;
    SnapInterrupt *interrupt;
} SnapImageOptions;

/**
 * snap_open_file_name: an image's name as the block layer understands it
 * @filename: as given on the command line
 *
 * What is before a colon is a protocol to the block layer.  If no driver has
 * that one, as in "vm-2026-11-28T00:50.qcow2", and it is no URL, it is the name
 * of a local file.
 *
 * Returns: newly allocated name for SnapImageOptions
 */
char *snap_open_file_name(const char *filename);

/* The local path that an image's name stands for, NULL for anything else */
const char *snap_open_local_path(const SnapImageOptions *options);

/* Returns: false with @errp set if the name stands for stdin or stdout */
bool snap_open_check_name(const SnapImageOptions *options, Error **errp);

/**
 * snap_open_parse_options: parse options of the block layer
 * @list: as on the command line, KEY=VALUE[,...]
 *
 * Returns: newly allocated dict, flattened: a.b=c has the key "a.b"; NULL with
 * @errp set
 */
QDict *snap_open_parse_options(const char *list, Error **errp);

/**
 * snap_open_image: open an existing image
 * @writable: also for writing, which locks out all other writers
 *
 * Context: main loop, outside coroutines.
 *
 * Returns: NULL with @errp set
 */
BlockBackend *snap_open_image(const SnapImageOptions *options, bool writable,
                              Error **errp);

/**
 * snap_open_new: open an image that was just created, for writing
 * @options: all but the name counts
 * @file: options that say where it is, flattened
 *
 * Context: main loop, outside coroutines.
 *
 * Returns: NULL with @errp set
 */
BlockBackend *snap_open_new(const SnapImageOptions *options, QDict *file,
                            Error **errp);

#endif /* SNAP_STORAGE_OPEN_H */
