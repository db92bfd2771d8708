/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replacing a local file as a whole
 *
 * The new content grows in a temporary beside the file, and takes its name
 * when it is complete.  Until the replacement is confirmed it can be undone.
 * What there is in each state is at the top of storage/replace.c.
 */

#ifndef SNAP_STORAGE_REPLACE_H
#define SNAP_STORAGE_REPLACE_H

typedef struct SnapReplace SnapReplace;

/**
 * snap_replace_begin: make an empty temporary beside @path
 * @path: local file name; symbolic links are followed.  What is there must be
 *        a regular file or nothing
 * @may_be_read: whoever reads the old file, and counts on it staying as it is,
 *               may go on with it; otherwise it must not have such readers
 *
 * Nobody may have the old file open for writing, now and at the commit, and
 * the block layer lets nobody open it for writing in between.  That is known
 * by its locks (file-lock.h).
 *
 * A second replacement of the same file is refused while the first one runs,
 * and what a killed one left is removed.
 *
 * Returns: NULL with @errp set
 */
SnapReplace *snap_replace_begin(const char *path, bool may_be_read,
                                Error **errp);

/**
 * snap_replace_lock: let the block layer refuse others that open the new
 * content
 *
 * As if it were open for writing there.  The locks of the block layer itself
 * would last longer than the replacement, until the image is closed.
 */
void snap_replace_lock(SnapReplace *replace);

/**
 * snap_replace_sync: bring the temporary's content to stable storage
 *
 * May be called from a thread of its own.
 *
 * Returns: 0 or -errno
 */
int snap_replace_sync(const SnapReplace *replace);

/**
 * snap_replace_names: what a replacement of @path may create beside it
 *
 * Returns: newly allocated array of paths, with NULL at its end
 */
char **snap_replace_names(const char *path);

/* Path of the temporary. */
const char *snap_replace_path(const SnapReplace *replace);

/**
 * snap_replace_remove: remove the temporary, and do nothing else
 *
 * For a process that ends at once, in any thread.
 */
void snap_replace_remove(const SnapReplace *replace);

/**
 * snap_replace_commit: let the temporary take the file's name, durably
 *
 * The content must be on stable storage.  The new file gets mode, owner, access
 * list and security label of the old one if permissions allow, and never a mode
 * that lets in more users; without an old one it keeps mode 0600.
 *
 * The old file is kept until snap_replace_confirm(), except on a file system
 * that can neither exchange names nor link files.  A file that appears at the
 * name only now is an old one as well.
 *
 * Returns: 0 or -errno with @errp set; the old file is in place then
 */
int snap_replace_commit(SnapReplace *replace, Error **errp);

/**
 * snap_replace_rollback: take back a commit that was not confirmed, durably
 *
 * The old file, or nothing, is in place again, and the new content is what it
 * was before snap_replace_commit(), which may be called again: a temporary of
 * mode 0600 at snap_replace_path().  A file that could not be kept does not
 * come back.  Does nothing if nothing is committed.
 *
 * Returns: 0 or -errno with @errp set; the new content may have the file's name
 * then, and snap_replace_end() has to follow
 */
int snap_replace_rollback(SnapReplace *replace, Error **errp);

/* Give up the old file; what was committed stays. */
void snap_replace_confirm(SnapReplace *replace);

/**
 * snap_replace_abandon: undo what was not confirmed
 *
 * The old file is back in place, the temporary is gone.  A file that could not
 * be kept does not come back, but the unconfirmed one is still removed.  If
 * that fails, it is emptied if possible, and an error is reported.  Only
 * snap_replace_sync() may still be called, or be running.
 */
void snap_replace_abandon(SnapReplace *replace);

/* The last call: snap_replace_abandon(), and free @replace */
void snap_replace_end(SnapReplace *replace);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapReplace, snap_replace_end)

#endif /* SNAP_STORAGE_REPLACE_H */
