/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replacing a local file as a whole
 */

#include "qemu/osdep.h"
#include <sys/xattr.h>
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/units.h"
#include "snap/storage/file-lock.h"
#include "snap/storage/replace.h"
#include "snap/trace.h"

/* Others may create, remove and rename at the same time, but not for ever. */
#define REPLACE_RETRIES     16
#define REPLACE_MAX_XATTR   (64 * KiB)

/**
 * SnapReplace: one replacement
 * @path: the file, without symbolic links
 * @temporary: where the new content grows
 * @spare: name for the old file where names cannot be exchanged
 * @fd: the new content, locked
 * @uid, @gid: whom the temporary belongs to while it is one
 * @old_fd: the old file, locked; -1 where there is none, or none to open
 * @may_be_read: whoever reads the old file may go on with it
 * @kept: name that the old file has after the commit; NULL where there is none
 * @committed: the new content is at @path
 * @confirmed: and stays there
 */
struct SnapReplace {
    char *path;
    char *temporary;
    char *spare;
    int fd;
    uid_t uid;
    gid_t gid;
    int old_fd;
    bool may_be_read;
    const char *kept;
    bool committed;
    bool confirmed;
};

static bool check_replaceable(const char *path, Error **errp)
{
    struct stat st;

    if (lstat(path, &st) < 0) {
        if (errno == ENOENT) {
            return true;
        }
        error_setg_errno(errp, errno, "Cannot access '%s'", path);
        return false;
    }
    if (S_ISBLK(st.st_mode)) {
        error_setg(errp, "'%s' is a block device, which can only be written "
                   "in place (option -n)", path);
        return false;
    }
    if (!S_ISREG(st.st_mode)) {
        error_setg(errp, "'%s' is not a regular file", path);
        return false;
    }
    return true;
}

/* Where a file that does not exist would be. */
static char *resolve_new(const char *path, Error **errp)
{
    g_autofree char *dir = g_path_get_dirname(path);
    g_autofree char *base = g_path_get_basename(path);
    g_autofree char *real = NULL;
    struct stat st;

    if (!path[0] || g_str_has_suffix(path, "/")) {
        error_setg(errp, "'%s' is not the name of a file", path);
        return NULL;
    }
    if (lstat(path, &st) == 0) {
        error_setg(errp, "'%s' is a symbolic link to a file that does not "
                   "exist", path);
        return NULL;
    }
    real = realpath(dir, NULL);
    if (!real) {
        error_setg_errno(errp, errno, "Cannot access directory '%s' of '%s'",
                         dir, path);
        return NULL;
    }
    return g_build_filename(real, base, NULL);
}

static char *resolve(const char *path, Error **errp)
{
    g_autofree char *real = realpath(path, NULL);

    if (!real) {
        if (errno != ENOENT) {
            error_setg_errno(errp, errno, "Cannot access '%s'", path);
            return NULL;
        }
        return resolve_new(path, errp);
    }
    if (!check_replaceable(real, errp)) {
        return NULL;
    }
    return g_steal_pointer(&real);
}

/* @suffix: keeps the name out of the way of others */
static char *sibling(const char *path, const char *suffix)
{
    g_autofree char *dir = g_path_get_dirname(path);
    g_autofree char *base = g_path_get_basename(path);
    g_autofree char *name = g_strdup_printf(".%s%s", base, suffix);

    return g_build_filename(dir, name, NULL);
}

static bool names_fd(const char *path, int fd)
{
    struct stat by_name, by_fd;

    return lstat(path, &by_name) == 0 && fstat(fd, &by_fd) == 0 &&
           by_name.st_dev == by_fd.st_dev && by_name.st_ino == by_fd.st_ino;
}

static int lock_file(SnapReplace *replace, int fd, bool exclusive,
                     Error **errp)
{
    int ret = snap_file_lock_save(fd, exclusive);

    if (ret == -EBUSY) {
        error_setg(errp, "another save to '%s' is in progress", replace->path);
    } else if (ret < 0) {
        error_setg_errno(errp, -ret, "Cannot lock '%s'", replace->temporary);
    }
    return ret;
}

static bool check_leftover(SnapReplace *replace, int fd, Error **errp)
{
    struct stat st;

    if (fstat(fd, &st) < 0) {
        error_setg_errno(errp, errno, "Cannot access '%s'",
                         replace->temporary);
        return false;
    }
    if (!S_ISREG(st.st_mode) || (geteuid() && st.st_uid != geteuid())) {
        error_setg(errp, "'%s' is in the way: it is not a regular file of "
                   "this user", replace->temporary);
        return false;
    }
    return lock_file(replace, fd, true, errp) == 0;
}

/*
 * Remove what a killed save left.  It may be the old file, which a load still
 * reads or which has other names: it must not be written to.
 */
static bool remove_leftover(SnapReplace *replace, Error **errp)
{
    int fd = open(replace->temporary,
                  O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    bool ok;

    if (fd < 0) {
        if (errno == ENOENT) {
            return true;
        }
        error_setg_errno(errp, errno, "Cannot open '%s', which is in the way",
                         replace->temporary);
        return false;
    }
    ok = check_leftover(replace, fd, errp);
    if (ok && names_fd(replace->temporary, fd) &&
        unlink(replace->temporary) < 0) {
        error_setg_errno(errp, errno, "Cannot remove '%s'",
                         replace->temporary);
        ok = false;
    }
    close(fd);
    return ok;
}

/*
 * Create and lock the temporary.
 *
 * Returns: 1, 0 where somebody else was faster, -1 with @errp set
 */
static int try_create_temporary(SnapReplace *replace, Error **errp)
{
    int ret;

    replace->fd = open(replace->temporary,
                       O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                       0600);
    if (replace->fd < 0) {
        if (errno == EEXIST) {
            return remove_leftover(replace, errp) ? 0 : -1;
        }
        error_setg_errno(errp, errno, "Cannot create '%s' to save '%s'",
                         replace->temporary, replace->path);
        return -1;
    }
    ret = lock_file(replace, replace->fd, true, errp);
    if (names_fd(replace->temporary, replace->fd)) {
        if (!ret) {
            return 1;
        }
        if (ret != -EBUSY) {
            /* Nobody else can have a lock either. */
            unlink(replace->temporary);
        }
    }
    close(replace->fd);
    replace->fd = -1;
    return ret < 0 ? -1 : 0;
}

static bool create_temporary(SnapReplace *replace, Error **errp)
{
    for (int i = 0; i < REPLACE_RETRIES; i++) {
        int ret = try_create_temporary(replace, errp);

        if (ret) {
            return ret > 0;
        }
    }
    error_setg(errp, "another save to '%s' is in progress", replace->path);
    return false;
}

static bool sync_directory(SnapReplace *replace, Error **errp)
{
    g_autofree char *dir = g_path_get_dirname(replace->path);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;

    if (!ok) {
        error_setg_errno(errp, errno, "Cannot flush directory '%s'", dir);
    }
    if (fd >= 0) {
        close(fd);
    }
    return ok;
}

/*
 * Give @fd the extended attribute @name of @path, or none where @path has
 * none.
 */
static bool copy_xattr(const char *path, int fd, const char *name)
{
    g_autofree char *value = g_malloc(REPLACE_MAX_XATTR);
    ssize_t size = lgetxattr(path, name, value, REPLACE_MAX_XATTR);

    if (size >= 0) {
        return fsetxattr(fd, name, value, size, 0) == 0;
    }
    if (errno == ENODATA && fremovexattr(fd, name) == 0) {
        return true;
    }
    return errno == ENODATA || errno == ENOTSUP;
}

/* The mode for somebody who belongs to the group no longer counts as such. */
static mode_t mode_without_group(mode_t mode)
{
    mode_t both = (mode >> 3) & mode & 07;

    return (mode & 0700) | (both << 3) | both;
}

/*
 * Make the new content look like the old file, as far as permissions allow.
 *
 * This comes as late as the commit, so that nobody else gets at a half-written
 * copy of the guest's memory.  The mode comes last and never allows more than
 * that of the old file: it is worth less with another group or without the
 * access list.
 */
static void copy_metadata(SnapReplace *replace, const struct stat *old)
{
    mode_t mode = old->st_mode & 0777;
    int fd = replace->fd;
    bool same;

    same = fchown(fd, old->st_uid, old->st_gid) == 0 ||
           fchown(fd, -1, old->st_gid) == 0;
    copy_xattr(replace->path, fd, "security.selinux");
    if (same) {
        same = copy_xattr(replace->path, fd, "system.posix_acl_access");
    } else {
        fremovexattr(fd, "system.posix_acl_access");
    }
    if (fchmod(fd, same ? mode : mode_without_group(mode)) < 0) {
        trace_snap_replace_no_mode(replace->path, errno);
    }
}

/* Nobody else gets at a temporary, whatever it looked like as the file. */
static void restrict_temporary(SnapReplace *replace)
{
    int fd = replace->fd;

    if (fchmod(fd, 0600) < 0 || fchown(fd, replace->uid, replace->gid) < 0) {
        trace_snap_replace_no_mode(replace->temporary, errno);
    }
    fremovexattr(fd, "system.posix_acl_access");
}

static void unlock_old(SnapReplace *replace)
{
    if (replace->old_fd >= 0) {
        close(replace->old_fd);
        replace->old_fd = -1;
    }
}

static int open_old(const SnapReplace *replace)
{
    return open(replace->path,
                O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
}

/* Whoever locks all of it has the byte of saves, too, and is none. */
static void set_locked(SnapReplace *replace, Error **errp)
{
    error_setg(errp, "'%s' is locked by another process", replace->path);
}

/*
 * See that nobody writes to the old file, who would lose it, and that nobody
 * begins to: that must not change until the new content has its name.
 */
static int check_unused(SnapReplace *replace, int fd, Error **errp)
{
    SnapFileUse use;

    snap_file_lock_content(fd);
    use = snap_file_use(fd);
    trace_snap_replace_old(replace->path, use);
    if (use == SNAP_FILE_FREE ||
        (use == SNAP_FILE_READ && replace->may_be_read)) {
        return 0;
    }
    if (use == SNAP_FILE_WRITTEN) {
        error_setg(errp, "'%s' is open for writing in another process, such as "
                   "a virtual machine that has it as a disk", replace->path);
    } else if (use == SNAP_FILE_READ) {
        error_setg(errp, "'%s' is no snapshot, and is in use in another "
                   "process, such as a virtual machine that has it as a disk",
                   replace->path);
    } else {
        set_locked(replace, errp);
    }
    return -EBUSY;
}

/*
 * Lock the old file.  One that cannot be opened cannot be locked.
 *
 * @committing: once it has the temporary's name, the next save would take it
 * for a leftover
 */
static int lock_old(SnapReplace *replace, bool committing, Error **errp)
{
    int fd, ret = 0;

    if (replace->old_fd < 0 || !names_fd(replace->path, replace->old_fd)) {
        unlock_old(replace);
        replace->old_fd = open_old(replace);
    }
    fd = replace->old_fd;
    if (fd < 0) {
        return 0;
    }
    if (committing && snap_file_use(fd) != SNAP_FILE_LOCKED) {
        ret = lock_file(replace, fd, false, errp);
    }
    return ret < 0 ? ret : check_unused(replace, fd, errp);
}

/*
 * Early refusal while another replacement has committed and may still undo
 * that: its new content is locked.  lock_old() is what keeps the two apart.
 */
static bool check_not_committed(SnapReplace *replace, Error **errp)
{
    int fd = open_old(replace);
    bool locked, busy;

    if (fd < 0) {
        return true;
    }
    locked = snap_file_use(fd) == SNAP_FILE_LOCKED;
    busy = snap_file_is_saved_to(fd);
    close(fd);
    if (locked) {
        set_locked(replace, errp);
    } else if (busy) {
        error_setg(errp, "another save to '%s' is in progress", replace->path);
    }
    return !locked && !busy;
}

static int exchange_names(const char *one, const char *other)
{
#ifdef RENAME_EXCHANGE
    return renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE);
#else
    errno = ENOSYS;
    return -1;
#endif
}

/* Whether a file system that has no such flag of renameat2(2) said @err. */
static bool flag_unsupported(int err)
{
    return err == ENOSYS || err == EINVAL || err == EOPNOTSUPP;
}

/* As rename(2), in two steps.  Fails with EEXIST where @to exists. */
static int rename_by_link(const char *from, const char *to)
{
    int saved_errno;

    if (link(from, to) < 0) {
        return -1;
    }
    if (unlink(from) == 0) {
        return 0;
    }
    saved_errno = errno;
    unlink(to);
    errno = saved_errno;
    return -1;
}

/*
 * Fails with EEXIST where @to exists, except on a file system that can do
 * neither this nor links.
 */
static int rename_noreplace(const char *from, const char *to)
{
#ifdef RENAME_NOREPLACE
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) {
        return 0;
    }
    if (!flag_unsupported(errno)) {
        return -1;
    }
#endif
    if (rename_by_link(from, to) == 0) {
        return 0;
    }
    return errno == EEXIST ? -1 : rename(from, to);
}

/* A second name for the old file, which the rename does not touch. */
static bool link_spare(SnapReplace *replace)
{
    if (link(replace->path, replace->spare) == 0) {
        return true;
    }
    return errno == EEXIST && unlink(replace->spare) == 0 &&
           link(replace->path, replace->spare) == 0;
}

/* Returns: 0 or -1 with errno set */
static int take_name_of_old(SnapReplace *replace)
{
    int saved_errno;

    if (exchange_names(replace->temporary, replace->path) == 0) {
        replace->kept = replace->temporary;
        return 0;
    }
    if (!flag_unsupported(errno)) {
        return -1;
    }
    /* NFS has no exchange; some file systems have no links either. */
    if (link_spare(replace)) {
        replace->kept = replace->spare;
    }
    if (rename(replace->temporary, replace->path) == 0) {
        return 0;
    }
    if (replace->kept) {
        saved_errno = errno;
        unlink(replace->kept);
        replace->kept = NULL;
        errno = saved_errno;
    }
    return -1;
}

static int commit_metadata(SnapReplace *replace, bool *old_exists,
                           Error **errp)
{
    struct stat old;
    int ret;

    if (!check_replaceable(replace->path, errp)) {
        return -EINVAL;
    }
    *old_exists = lstat(replace->path, &old) == 0;
    if (*old_exists) {
        ret = lock_old(replace, true, errp);
        if (ret < 0) {
            return ret;
        }
        copy_metadata(replace, &old);
    }
    if (fsync(replace->fd) < 0) {
        ret = -errno;
        error_setg_errno(errp, -ret, "Cannot flush '%s'", replace->temporary);
        return ret;
    }
    return 0;
}

/*
 * Let the temporary take the name.  A file that somebody creates there at the
 * same time counts as the old one: it is locked and kept, too.
 */
static int take_name(SnapReplace *replace, Error **errp)
{
    bool old_exists;
    int ret;

    for (int i = 0; i < REPLACE_RETRIES; i++) {
        ret = commit_metadata(replace, &old_exists, errp);
        if (ret < 0) {
            return ret;
        }
        if (old_exists) {
            ret = take_name_of_old(replace);
        } else {
            ret = rename_noreplace(replace->temporary, replace->path);
        }
        if (ret == 0) {
            return 0;
        }
        ret = -errno;
        if (ret != -EEXIST) {
            break;
        }
    }
    error_setg_errno(errp, -ret, "Cannot rename '%s' to '%s'",
                     replace->temporary, replace->path);
    return ret;
}

/*
 * Give both files the names they had before the commit.
 *
 * Returns: 0 or -1 with errno set; nothing has changed then
 */
static int restore_names(SnapReplace *replace)
{
    int saved_errno;

    if (!replace->kept) {
        return rename_noreplace(replace->path, replace->temporary);
    }
    if (replace->kept == replace->temporary) {
        return exchange_names(replace->kept, replace->path);
    }
    if (link(replace->path, replace->temporary) < 0) {
        return -1;
    }
    if (rename(replace->kept, replace->path) == 0) {
        return 0;
    }
    saved_errno = errno;
    unlink(replace->temporary);
    errno = saved_errno;
    return -1;
}

/*
 * The old file does not come back: at least nobody may take the unconfirmed
 * one for a snapshot.  The next save will take a kept file for a leftover.
 */
static void spoil_committed(SnapReplace *replace, int err)
{
    g_autofree char *kept = NULL;
    const char *state = "it is incomplete and must not be used";

    if (unlink(replace->path) == 0) {
        state = "it was removed";
    } else if (ftruncate(replace->fd, 0) == 0) {
        state = "it was emptied";
    }
    if (replace->kept) {
        kept = g_strdup_printf("; the old file is '%s' until the next save",
                               replace->kept);
    }
    error_report("Cannot undo the save to '%s': %s; %s%s", replace->path,
                 strerror(err), state, kept ?: "");
}

/* The old file is back, the new one has no name any more. */
static void undo_commit(SnapReplace *replace)
{
    Error *err = NULL;
    int ret;

    trace_snap_replace_undo(replace->path);
    if (!names_fd(replace->path, replace->fd)) {
        return; /* somebody else has replaced it since */
    }
    if (replace->kept) {
        ret = rename(replace->kept, replace->path);
    } else {
        ret = unlink(replace->path);
    }
    if (ret < 0) {
        spoil_committed(replace, errno);
    }
    if (!sync_directory(replace, &err)) {
        error_report_err(err);
    }
}

char **snap_replace_names(const char *path)
{
    g_autofree char *real = resolve(path, NULL);
    char **names = g_new0(char *, 3);

    if (real) {
        names[0] = sibling(real, ".saving");
        names[1] = sibling(real, ".saved");
    }
    return names;
}

SnapReplace *snap_replace_begin(const char *path, bool may_be_read,
                                Error **errp)
{
    g_autoptr(SnapReplace) replace = g_new0(SnapReplace, 1);
    struct stat st;

    replace->fd = -1;
    replace->old_fd = -1;
    replace->may_be_read = may_be_read;
    replace->path = resolve(path, errp);
    if (!replace->path) {
        return NULL;
    }
    replace->temporary = sibling(replace->path, ".saving");
    replace->spare = sibling(replace->path, ".saved");
    /* In this order: who has the temporary is alone with the old file. */
    if (!check_not_committed(replace, errp) ||
        !create_temporary(replace, errp) ||
        lock_old(replace, false, errp) < 0) {
        return NULL;
    }
    if (fstat(replace->fd, &st) < 0) {
        error_setg_errno(errp, errno, "Cannot access '%s'",
                         replace->temporary);
        return NULL;
    }
    replace->uid = st.st_uid;
    replace->gid = st.st_gid;
    trace_snap_replace_begin(replace->path, replace->temporary);
    return g_steal_pointer(&replace);
}

void snap_replace_lock(SnapReplace *replace)
{
    snap_file_lock_writer(replace->fd);
}

int snap_replace_sync(const SnapReplace *replace)
{
    return qemu_fdatasync(replace->fd) < 0 ? -errno : 0;
}

const char *snap_replace_path(const SnapReplace *replace)
{
    return replace->temporary;
}

void snap_replace_remove(const SnapReplace *replace)
{
    if (replace->fd >= 0 && names_fd(replace->temporary, replace->fd)) {
        unlink(replace->temporary);
    }
}

int snap_replace_commit(SnapReplace *replace, Error **errp)
{
    int ret;

    assert(!replace->committed);
    if (!names_fd(replace->temporary, replace->fd)) {
        error_setg(errp, "'%s' was removed or replaced by somebody else",
                   replace->temporary);
        return -ENOENT;
    }
    ret = take_name(replace, errp);
    if (ret < 0) {
        restrict_temporary(replace);
        return ret;
    }
    replace->committed = true;
    trace_snap_replace_commit(replace->path, replace->kept ?: "");
    if (!sync_directory(replace, errp)) {
        snap_replace_rollback(replace, NULL);
        return -EIO;
    }
    return 0;
}

int snap_replace_rollback(SnapReplace *replace, Error **errp)
{
    int ret;

    assert(!replace->confirmed);
    if (!replace->committed) {
        return 0;
    }
    trace_snap_replace_undo(replace->path);
    if (!names_fd(replace->path, replace->fd)) {
        error_setg(errp, "'%s' was removed or replaced by somebody else",
                   replace->path);
        return -ENOENT;
    }
    if (restore_names(replace) < 0) {
        ret = -errno;
        error_setg_errno(errp, -ret, "Cannot rename '%s' back to '%s'",
                         replace->path, replace->temporary);
        return ret;
    }
    restrict_temporary(replace);
    replace->kept = NULL;
    replace->committed = false;
    return sync_directory(replace, errp) ? 0 : -EIO;
}

void snap_replace_confirm(SnapReplace *replace)
{
    assert(replace->committed);
    trace_snap_replace_confirm(replace->path);
    if (replace->kept) {
        unlink(replace->kept);
        replace->kept = NULL;
    }
    replace->confirmed = true;
}

void snap_replace_end(SnapReplace *replace)
{
    if (!replace) {
        return;
    }
    if (replace->committed && !replace->confirmed) {
        undo_commit(replace);
    } else {
        snap_replace_remove(replace);
    }
    unlock_old(replace);
    if (replace->fd >= 0) {
        close(replace->fd);
    }
    g_free(replace->path);
    g_free(replace->temporary);
    g_free(replace->spare);
    g_free(replace);
}
