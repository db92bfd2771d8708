/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The locks by which programs say how they use a local file
 */

#include "qemu/osdep.h"
#include "block/block.h"
#include "qemu/host-utils.h"
#include "snap/storage/file-lock.h"

/*
 * Bytes of the block layer, one for each permission: a shared lock says that
 * its holder uses it, or does not share it with others (block/file-posix.c).
 */
#define USED_BASE       100
#define UNSHARED_BASE   200

/* The byte of saves. */
#define SAVE_BYTE       300

static const uint64_t write_perms[] = { BLK_PERM_WRITE, BLK_PERM_RESIZE };

static void lock_perms(int fd, int base)
{
    for (size_t i = 0; i < ARRAY_SIZE(write_perms); i++) {
        /* If the file system has no locks, nobody else has one either. */
        qemu_lock_fd(fd, base + ctz64(write_perms[i]), 1, false);
    }
}

static bool is_locked(int fd, int64_t start, int64_t length, bool exclusive)
{
    return qemu_lock_fd_test(fd, start, length, exclusive) == -EAGAIN;
}

static bool perms_locked(int fd, int base)
{
    for (size_t i = 0; i < ARRAY_SIZE(write_perms); i++) {
        if (is_locked(fd, base + ctz64(write_perms[i]), 1, true)) {
            return true;
        }
    }
    return false;
}

void snap_file_lock_content(int fd)
{
    lock_perms(fd, UNSHARED_BASE);
}

void snap_file_lock_writer(int fd)
{
    lock_perms(fd, USED_BASE);
    lock_perms(fd, UNSHARED_BASE);
}

SnapFileUse snap_file_use(int fd)
{
    /* The block layer has no locks here, and no exclusive ones anywhere. */
    if (is_locked(fd, 0, USED_BASE, true) ||
        is_locked(fd, SAVE_BYTE + 1, 0, true) ||
        is_locked(fd, USED_BASE, SAVE_BYTE - USED_BASE, false)) {
        return SNAP_FILE_LOCKED;
    }
    if (perms_locked(fd, USED_BASE)) {
        return SNAP_FILE_WRITTEN;
    }
    return perms_locked(fd, UNSHARED_BASE) ? SNAP_FILE_READ : SNAP_FILE_FREE;
}

int snap_file_lock_save(int fd, bool exclusive)
{
    int ret = qemu_lock_fd(fd, SAVE_BYTE, 1, exclusive);

    return ret == -EAGAIN || ret == -EACCES ? -EBUSY : ret;
}

bool snap_file_is_saved_to(int fd)
{
    return is_locked(fd, SAVE_BYTE, 1, false);
}
