/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The files that a command line names, each for a purpose
 */

#ifndef SNAP_STORAGE_NAMED_FILES_H
#define SNAP_STORAGE_NAMED_FILES_H

typedef struct SnapNamedFiles SnapNamedFiles;

/**
 * SnapNamedUse: what a file is named for
 * @SNAP_NAMED_IMAGE: it is the image, or part of it
 * @SNAP_NAMED_IMAGE_WRITTEN: likewise, and written to
 * @SNAP_NAMED_READ: it is read
 * @SNAP_NAMED_WRITTEN: it is created, replaced or written to
 * @SNAP_NAMED_TEMPORARY: it is made of the image, or becomes it, under this
 *                        name and no other
 */
typedef enum SnapNamedUse {
    SNAP_NAMED_IMAGE,
    SNAP_NAMED_IMAGE_WRITTEN,
    SNAP_NAMED_READ,
    SNAP_NAMED_WRITTEN,
    SNAP_NAMED_TEMPORARY,
} SnapNamedUse;

SnapNamedFiles *snap_named_files_new(void);
void snap_named_files_free(SnapNamedFiles *files);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapNamedFiles, snap_named_files_free)

/**
 * snap_named_files_add: note a file
 * @path: of a file that exists or not
 * @name: what messages call it, such as "--report=PATH"
 */
void snap_named_files_add(SnapNamedFiles *files, SnapNamedUse use,
                          const char *path, const char *name);

/**
 * snap_named_files_check: check that no file is written for one purpose, and
 * has another one as well
 *
 * Files are compared by identity: links of both kinds lead to the same one.  A
 * file that does not exist is known by its directory and its name there.
 * Pipes, character devices and standard streams may be named more than once.
 *
 * Returns: false with @errp set if there is one
 */
bool snap_named_files_check(const SnapNamedFiles *files, Error **errp);

#endif /* SNAP_STORAGE_NAMED_FILES_H */
