/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What images refer to, besides their own file
 */

#ifndef SNAP_STORAGE_REFERENCES_H
#define SNAP_STORAGE_REFERENCES_H

#include "system/block-backend.h"

/* Whether @options to open an image, flattened, say what it refers to. */
bool snap_references_given(const QDict *options);

/**
 * snap_references_none: check that an image refers to nothing else
 * @blk: opened with BDRV_O_NO_BACKING and BDRV_O_NO_IO, so that what it refers
 *       to was not opened (block/qcow2.c:qcow2_do_open)
 *
 * Context: main loop, outside coroutines.
 *
 * A backing file or an external data file can be anything that QEMU could open
 * for its user: the author of the image decides, who may be somebody else.
 *
 * Returns: false with @errp set if there is a reference
 */
bool snap_references_none(BlockBackend *blk, Error **errp);

/**
 * snap_references_only: check that an image consists of one local file
 * @blk: opened with all that it refers to
 * @path: the file, as it was opened
 *
 * Context: main loop, outside coroutines.
 *
 * Returns: false with @errp set if there is anything else
 */
bool snap_references_only(BlockBackend *blk, const char *path, Error **errp);

/**
 * snap_references_files: all files that an open image consists of
 *
 * Context: main loop, outside coroutines.
 *
 * Returns: newly allocated, NULL-terminated array of their names; whatever is
 * not a file has some other name
 */
char **snap_references_files(BlockBackend *blk);

#endif /* SNAP_STORAGE_REFERENCES_H */
