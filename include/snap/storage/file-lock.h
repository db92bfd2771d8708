/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The locks by which programs say how they use a local file
 *
 * Those of QEMU's block layer (block/file-posix.c), and locks of the whole file
 * that others take with fcntl(2).  On a file system without locks nobody can
 * say anything: all is allowed there.
 */

#ifndef SNAP_STORAGE_FILE_LOCK_H
#define SNAP_STORAGE_FILE_LOCK_H

/**
 * SnapFileUse: what others do with a file
 * @SNAP_FILE_FREE: nothing, or they do not mind if it changes
 * @SNAP_FILE_READ: they read it, and nobody may write to it meanwhile
 * @SNAP_FILE_WRITTEN: they write to it, or may do so at any moment
 * @SNAP_FILE_LOCKED: they have locked it, and are not part of QEMU
 */
typedef enum SnapFileUse {
    SNAP_FILE_FREE,
    SNAP_FILE_READ,
    SNAP_FILE_WRITTEN,
    SNAP_FILE_LOCKED,
} SnapFileUse;

/**
 * snap_file_lock_content: let nobody else write to a file
 * @fd: open for reading; the lock lasts as long as it is open
 *
 * The block layer refuses to open the file for writing then.  It still opens it
 * for reading.  Call snap_file_use() afterwards: somebody may have been faster.
 */
void snap_file_lock_content(int fd);

/**
 * snap_file_lock_writer: be a writer of a file, the only one
 * @fd: open for reading and writing; the lock lasts as long as it is open
 *
 * As snap_file_lock_content(), and the block layer refuses to open the file for
 * readers that count on it staying as it is.
 */
void snap_file_lock_writer(int fd);

/* What others do with the file, but for the byte of snap_file_lock_save(). */
SnapFileUse snap_file_use(int fd);

/**
 * snap_file_lock_save: lock the byte that belongs to saves
 *
 * One byte that the block layer leaves alone, not flock(2): over NFS that
 * becomes a lock of all bytes, and collides with the block layer's own ones.
 *
 * Returns: 0; -EBUSY if another save has it; -errno
 */
int snap_file_lock_save(int fd, bool exclusive);

/* Whether another save has an exclusive lock of that byte. */
bool snap_file_is_saved_to(int fd);

#endif /* SNAP_STORAGE_FILE_LOCK_H */
