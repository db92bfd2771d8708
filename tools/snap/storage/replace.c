/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replacing a local file as a whole
 *
 * Theory of operation
 *
 * The new content grows in a temporary beside the file.  The commit lets it
 * take the file's name, and keeps the old file, so that all can be undone until
 * the replacement is confirmed.  Which file has which name ("-": none):
 *
 *   state                  NAME          .NAME.saving    .NAME.saved
 *   before                 old or none   new             -
 *   committed, with
 *     an exchange of names new           old             -
 *     a hard link          new           -               old
 *     neither, or no old   new           -               -
 *   confirmed              new           -               -
 *   rolled back            as before; the next commit may follow
 *   abandoned              old or none   -               -
 *
 * An exchange needs renameat2(2), which NFS does not have; some file systems do
 * not have links either, and there the old file is gone with the commit.  If
 * such a commit is abandoned, neither file remains.
 *
 * What a power cut or a kill leaves, and which of it others may open:
 *
 *   in the state         left                          others may open
 *   before, rolled back  old, new as .NAME.saving      old
 *   in between           as before, or as committed    old, perhaps new
 *   committed            new, old as above             both
 *   confirmed            new, perhaps old as above     new, perhaps old
 *   abandoned            old or none                   old
 *
 * The commit and the rollback are on stable storage when they return; what the
 * confirmation removes may come back with a power cut.  The next replacement
 * removes .NAME.saving, and .NAME.saved when it needs that name.
 *
 * The temporary belongs to the user, with mode 0600: a snapshot holds the
 * guest's memory.  It gets owner, mode, access list and label of the old file
 * at the commit, and loses them again in a rollback.
 *
 * Locks (file-lock.h), all of which end with the replacement:
 *
 *   temporary   the byte of saves, exclusive: only one save at a time; from
 *               snap_replace_lock() on also as a writer of the block layer
 *   old file    locked against writers; from the commit on the byte of saves,
 *               shared: the next save must not take it for a leftover
 *
 * Functions that can fail return -errno, and set @errp if they have one.  Files
 * are opened by open(2) and not qemu_open(): all names are those of files in
 * one directory, even in /dev/fdset.
 */

#include "qemu/osdep.h"
#include <sys/xattr.h>
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/units.h"
#include "snap/storage/file-lock.h"
#include "snap/storage/replace.h"
#include "snap/trace.h"

/* Others may create, remove and rename at the same time, but not forever. */
#define REPLACE_RETRIES     16
#define REPLACE_MAX_XATTR   (64 * KiB)

typedef enum ReplaceState {
    REPLACE_BEFORE,
    REPLACE_COMMITTED,
    REPLACE_CONFIRMED,
    REPLACE_ABANDONED,
} ReplaceState;

/**
 * SnapReplace: one replacement
 * @path: the file, without symbolic links
 * @temporary: .NAME.saving
 * @spare: .NAME.saved
 * @fd: the new content, locked
 * @uid, @gid: owner of the temporary before the commit
 * @old_fd: the old file, locked; negative if there is none, or none to open
 * @may_be_read: whoever reads the old file may go on with it
 * @kept: @temporary or @spare if the old file has that name; NULL if neither
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
    ReplaceState state;
};

/* --- errors and names --- */

/* Returns: @ret, with @errp set */
static int could_not(const char *action, const char *path, int ret,
                     Error **errp)
{
    error_setg_errno(errp, -ret, "Could not %s '%s'", action, path);
    return ret;
}

static int set_busy(const SnapReplace *replace, Error **errp)
{
    error_setg(errp, "Another save to '%s' is in progress", replace->path);
    return -EBUSY;
}

/* A lock of the whole file covers the byte of saves, but is no save. */
static int set_locked(const SnapReplace *replace, Error **errp)
{
    error_setg(errp, "'%s' is locked by another process", replace->path);
    return -EBUSY;
}

static int set_foreign(const char *path, Error **errp)
{
    error_setg(errp, "'%s' was removed or replaced by somebody else", path);
    return -ENOENT;
}

/* Do not follow a link, wait for the other end of a FIFO, or be inherited. */
static int open_file(const char *path, int flags)
{
    int fd = open(path, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);

    return fd < 0 ? -errno : fd;
}

static bool path_is_fd(const char *path, int fd)
{
    struct stat by_name, by_fd;

    return lstat(path, &by_name) == 0 && fstat(fd, &by_fd) == 0 &&
           by_name.st_dev == by_fd.st_dev && by_name.st_ino == by_fd.st_ino;
}

static char *hidden_name(const char *path, const char *suffix)
{
    g_autofree char *dir = g_path_get_dirname(path);
    g_autofree char *base = g_path_get_basename(path);
    g_autofree char *name = g_strdup_printf(".%s%s", base, suffix);

    return g_build_filename(dir, name, NULL);
}

static int check_replaceable(const char *path, Error **errp)
{
    struct stat st;

    if (lstat(path, &st) < 0) {
        return errno == ENOENT ? 0 : could_not("access", path, -errno, errp);
    }
    if (S_ISBLK(st.st_mode)) {
        error_setg(errp, "'%s' is a block device, which can only be written "
                   "in place (option -n)", path);
        return -EINVAL;
    }
    if (!S_ISREG(st.st_mode)) {
        error_setg(errp, "'%s' is not a regular file", path);
        return -EINVAL;
    }
    return 0;
}

/* Where a file that does not exist would be; NULL with @errp set */
static char *resolve_new_path(const char *path, Error **errp)
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
        error_setg_errno(errp, errno, "Could not access directory '%s' of '%s'",
                         dir, path);
        return NULL;
    }
    return g_build_filename(real, base, NULL);
}

/* @path without symbolic links; NULL with @errp set */
static char *resolve_path(const char *path, Error **errp)
{
    g_autofree char *real = realpath(path, NULL);

    if (!real) {
        if (errno != ENOENT) {
            could_not("access", path, -errno, errp);
            return NULL;
        }
        return resolve_new_path(path, errp);
    }
    return check_replaceable(real, errp) < 0 ? NULL : g_steal_pointer(&real);
}

static int sync_directory(SnapReplace *replace, Error **errp)
{
    g_autofree char *dir = g_path_get_dirname(replace->path);
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int ret = fd < 0 || fsync(fd) < 0 ? -errno : 0;

    if (fd >= 0) {
        close(fd);
    }
    return ret < 0 ? could_not("flush directory", dir, ret, errp) : 0;
}

/* --- the temporary --- */

/* Lock the temporary, or else the old file: whether only one can have it. */
static int lock_for_save(SnapReplace *replace, int fd, bool exclusive,
                         Error **errp)
{
    int ret = snap_file_lock_save(fd, exclusive);

    if (ret == -EBUSY) {
        return set_busy(replace, errp);
    }
    return ret < 0 ? could_not("lock", exclusive ? replace->temporary :
                               replace->path, ret, errp) : 0;
}

static int check_leftover(SnapReplace *replace, int fd, Error **errp)
{
    struct stat st;

    if (fstat(fd, &st) < 0) {
        return could_not("access", replace->temporary, -errno, errp);
    }
    if (!S_ISREG(st.st_mode) || (geteuid() && st.st_uid != geteuid())) {
        error_setg(errp, "'%s' is in the way: it is not a regular file of "
                   "this user", replace->temporary);
        return -EEXIST;
    }
    return lock_for_save(replace, fd, true, errp);
}

/*
 * Remove what a killed save left.  It may be the old file, which a load still
 * reads or which has other names: it must not be written to.
 */
static int remove_leftover(SnapReplace *replace, Error **errp)
{
    int fd = open_file(replace->temporary, O_RDWR);
    int ret;

    if (fd == -ENOENT) {
        return 0;
    }
    if (fd < 0) {
        error_setg_errno(errp, -fd, "Could not open '%s', which is in the way",
                         replace->temporary);
        return fd;
    }
    ret = check_leftover(replace, fd, errp);
    if (!ret && path_is_fd(replace->temporary, fd) &&
        unlink(replace->temporary) < 0) {
        ret = could_not("remove", replace->temporary, -errno, errp);
    }
    close(fd);
    return ret;
}

/*
 * Lock the temporary that was just created.  Another save may have taken it for
 * a leftover before.
 *
 * Returns: 1; 0 if it is gone; -errno with @errp set
 */
static int lock_temporary(SnapReplace *replace, Error **errp)
{
    int ret = lock_for_save(replace, replace->fd, true, errp);

    if (!path_is_fd(replace->temporary, replace->fd)) {
        return ret;
    }
    if (!ret) {
        return 1;
    }
    if (ret != -EBUSY) {
        /* Locking is unsupported here, so nobody else holds one. */
        unlink(replace->temporary);
    }
    return ret;
}

/* Returns: 1; 0 if somebody else was faster; -errno with @errp set */
static int try_create_temporary(SnapReplace *replace, Error **errp)
{
    int ret;

    replace->fd = open_file(replace->temporary, O_RDWR | O_CREAT | O_EXCL);
    if (replace->fd == -EEXIST) {
        return remove_leftover(replace, errp);
    }
    if (replace->fd < 0) {
        error_setg_errno(errp, -replace->fd, "Could not create '%s' to save "
                         "'%s'", replace->temporary, replace->path);
        return replace->fd;
    }
    ret = lock_temporary(replace, errp);
    if (ret <= 0) {
        close(replace->fd);
        replace->fd = -1;
    }
    return ret;
}

static int create_temporary(SnapReplace *replace, Error **errp)
{
    struct stat st;
    int ret = 0;

    for (int i = 0; !ret && i < REPLACE_RETRIES; i++) {
        ret = try_create_temporary(replace, errp);
    }
    if (ret <= 0) {
        return ret ?: set_busy(replace, errp);
    }
    if (fstat(replace->fd, &st) < 0) {
        return could_not("access", replace->temporary, -errno, errp);
    }
    replace->uid = st.st_uid;
    replace->gid = st.st_gid;
    return 0;
}

/* --- what the new file looks like --- */

/* Give @fd the extended attribute @name of @path, or none if it has none. */
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

/* The mode without what it allows to the group in particular */
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

/* --- the old file --- */

/*
 * Check that nobody writes to the old file, who would lose it, and that nobody
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
    if (use == SNAP_FILE_LOCKED) {
        return set_locked(replace, errp);
    }
    if (use == SNAP_FILE_WRITTEN) {
        error_setg(errp, "'%s' is open for writing in another process, such as "
                   "a virtual machine that has it as a disk", replace->path);
    } else {
        error_setg(errp, "'%s' is no snapshot, and is in use in another "
                   "process, such as a virtual machine that has it as a disk",
                   replace->path);
    }
    return -EBUSY;
}

static void unlock_old(SnapReplace *replace)
{
    if (replace->old_fd >= 0) {
        close(replace->old_fd);
        replace->old_fd = -1;
    }
}

/*
 * Lock the old file.  One that cannot be opened cannot be locked.
 *
 * @committing: once it has the temporary's name, the next save would take it
 * for a leftover
 */
static int lock_old(SnapReplace *replace, bool committing, Error **errp)
{
    int fd, ret;

    if (replace->old_fd < 0 || !path_is_fd(replace->path, replace->old_fd)) {
        unlock_old(replace);
        replace->old_fd = open_file(replace->path, O_RDONLY);
    }
    fd = replace->old_fd;
    if (fd < 0) {
        return 0;
    }
    if (committing && snap_file_use(fd) != SNAP_FILE_LOCKED) {
        ret = lock_for_save(replace, fd, false, errp);
        if (ret < 0) {
            return ret;
        }
    }
    return check_unused(replace, fd, errp);
}

/*
 * Early refusal while another replacement has committed and may still undo
 * that: its new content is locked.  lock_old() is what keeps the two apart.
 */
static int check_not_committed(SnapReplace *replace, Error **errp)
{
    int fd = open_file(replace->path, O_RDONLY);
    bool locked, busy;

    if (fd < 0) {
        return 0;
    }
    locked = snap_file_use(fd) == SNAP_FILE_LOCKED;
    busy = snap_file_is_saved_to(fd);
    close(fd);
    if (locked) {
        return set_locked(replace, errp);
    }
    return busy ? set_busy(replace, errp) : 0;
}

/* --- names change --- */

static int exchange_names(const char *one, const char *other)
{
#ifdef RENAME_EXCHANGE
    return renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE) < 0 ?
           -errno : 0;
#else
    return -ENOSYS;
#endif
}

static int rename_over(const char *from, const char *to)
{
    return rename(from, to) < 0 ? -errno : 0;
}

/* Whether a file system that has no such flag of renameat2(2) returned @ret */
static bool flag_unsupported(int ret)
{
    return ret == -ENOSYS || ret == -EINVAL || ret == -EOPNOTSUPP;
}

/* Rename in two steps.  Fails with -EEXIST if @to exists. */
static int rename_by_link(const char *from, const char *to)
{
    int ret;

    if (link(from, to) < 0) {
        return -errno;
    }
    if (unlink(from) == 0) {
        return 0;
    }
    ret = -errno;
    unlink(to);
    return ret;
}

/*
 * Fails with -EEXIST if @to exists, except on a file system that can do neither
 * this nor links.
 */
static int rename_noreplace(const char *from, const char *to)
{
    int ret;

#ifdef RENAME_NOREPLACE
    if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0) {
        return 0;
    }
    if (!flag_unsupported(-errno)) {
        return -errno;
    }
#endif
    ret = rename_by_link(from, to);
    return !ret || ret == -EEXIST ? ret : rename_over(from, to);
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

/* Take the name of the old file, and keep that if possible. */
static int take_name_of_old(SnapReplace *replace)
{
    int ret = exchange_names(replace->temporary, replace->path);

    if (!ret) {
        replace->kept = replace->temporary;
    }
    if (!flag_unsupported(ret)) {
        return ret;
    }
    if (link_spare(replace)) {
        replace->kept = replace->spare;
    }
    ret = rename_over(replace->temporary, replace->path);
    if (ret < 0 && replace->kept) {
        unlink(replace->kept);
        replace->kept = NULL;
    }
    return ret;
}

/* Returns: 1 if there is an old file, 0 if not; -errno with @errp set */
static int prepare_commit(SnapReplace *replace, Error **errp)
{
    struct stat old;
    bool old_exists;
    int ret;

    ret = check_replaceable(replace->path, errp);
    if (ret < 0) {
        return ret;
    }
    old_exists = lstat(replace->path, &old) == 0;
    if (old_exists) {
        ret = lock_old(replace, true, errp);
        if (ret < 0) {
            return ret;
        }
        copy_metadata(replace, &old);
    }
    if (fsync(replace->fd) < 0) {
        return could_not("flush", replace->temporary, -errno, errp);
    }
    return old_exists;
}

/*
 * Let the temporary take the name.  A file that somebody creates there at the
 * same time counts as the old one: it is locked and kept, too.
 */
static int take_name(SnapReplace *replace, Error **errp)
{
    int ret = -EEXIST;

    for (int i = 0; ret == -EEXIST && i < REPLACE_RETRIES; i++) {
        ret = prepare_commit(replace, errp);
        if (ret < 0) {
            return ret;
        }
        if (ret > 0) {
            ret = take_name_of_old(replace);
        } else {
            ret = rename_noreplace(replace->temporary, replace->path);
        }
    }
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not rename '%s' to '%s'",
                         replace->temporary, replace->path);
    }
    return ret;
}

/* Give both files the names they had before the commit, or change nothing. */
static int restore_names(SnapReplace *replace)
{
    int ret;

    if (!replace->kept) {
        return rename_noreplace(replace->path, replace->temporary);
    }
    if (replace->kept == replace->temporary) {
        return exchange_names(replace->kept, replace->path);
    }
    if (link(replace->path, replace->temporary) < 0) {
        return -errno;
    }
    ret = rename_over(replace->kept, replace->path);
    if (ret < 0) {
        unlink(replace->temporary);
    }
    return ret;
}

/* --- giving up --- */

/*
 * The old file does not come back: at least nobody may take the unconfirmed
 * one for a snapshot.  The next save will take a kept file for a leftover.
 *
 * @ret: why it does not, -errno
 */
static void destroy_unconfirmed(SnapReplace *replace, int ret)
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
    error_report("Could not undo the save to '%s': %s; %s%s", replace->path,
                 strerror(-ret), state, kept ?: "");
}

/* The old file is back, the new one has no name any more. */
static void undo_commit(SnapReplace *replace)
{
    Error *err = NULL;
    int ret;

    trace_snap_replace_undo(replace->path);
    if (!path_is_fd(replace->path, replace->fd)) {
        return; /* somebody else has replaced it since */
    }
    if (replace->kept) {
        ret = rename_over(replace->kept, replace->path);
    } else {
        ret = unlink(replace->path) < 0 ? -errno : 0;
    }
    if (ret < 0) {
        destroy_unconfirmed(replace, ret);
    }
    if (sync_directory(replace, &err) < 0) {
        error_report_err(err);
    }
}

/* --- interface --- */

char **snap_replace_names(const char *path)
{
    g_autofree char *real = resolve_path(path, NULL);
    char **names = g_new0(char *, 3);

    if (real) {
        names[0] = hidden_name(real, ".saving");
        names[1] = hidden_name(real, ".saved");
    }
    return names;
}

SnapReplace *snap_replace_begin(const char *path, bool may_be_read,
                                Error **errp)
{
    g_autoptr(SnapReplace) replace = g_new(SnapReplace, 1);

    *replace = (SnapReplace) {
        .path = resolve_path(path, errp),
        .fd = -1,
        .old_fd = -1,
        .may_be_read = may_be_read,
    };
    if (!replace->path) {
        return NULL;
    }
    replace->temporary = hidden_name(replace->path, ".saving");
    replace->spare = hidden_name(replace->path, ".saved");
    /* In this order: the owner of the temporary is alone with the old file. */
    if (check_not_committed(replace, errp) < 0 ||
        create_temporary(replace, errp) < 0 ||
        lock_old(replace, false, errp) < 0) {
        return NULL;
    }
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
    if (replace->fd >= 0 && path_is_fd(replace->temporary, replace->fd)) {
        unlink(replace->temporary);
    }
}

int snap_replace_commit(SnapReplace *replace, Error **errp)
{
    int ret;

    assert(replace->state == REPLACE_BEFORE);
    if (!path_is_fd(replace->temporary, replace->fd)) {
        return set_foreign(replace->temporary, errp);
    }
    ret = take_name(replace, errp);
    if (ret < 0) {
        restrict_temporary(replace);
        return ret;
    }
    replace->state = REPLACE_COMMITTED;
    trace_snap_replace_commit(replace->path, replace->kept ?: "");
    ret = sync_directory(replace, errp);
    if (ret < 0) {
        snap_replace_rollback(replace, NULL);
    }
    return ret;
}

int snap_replace_rollback(SnapReplace *replace, Error **errp)
{
    int ret;

    assert(replace->state != REPLACE_CONFIRMED);
    if (replace->state == REPLACE_BEFORE) {
        return 0;
    }
    trace_snap_replace_undo(replace->path);
    if (!path_is_fd(replace->path, replace->fd)) {
        return set_foreign(replace->path, errp);
    }
    ret = restore_names(replace);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not rename '%s' back to '%s'",
                         replace->path, replace->temporary);
        return ret;
    }
    restrict_temporary(replace);
    replace->kept = NULL;
    replace->state = REPLACE_BEFORE;
    return sync_directory(replace, errp);
}

void snap_replace_confirm(SnapReplace *replace)
{
    assert(replace->state == REPLACE_COMMITTED);
    trace_snap_replace_confirm(replace->path);
    if (replace->kept) {
        unlink(replace->kept);
        replace->kept = NULL;
    }
    replace->state = REPLACE_CONFIRMED;
}

void snap_replace_abandon(SnapReplace *replace)
{
    if (replace->state == REPLACE_COMMITTED) {
        undo_commit(replace);
    } else if (replace->state != REPLACE_ABANDONED) {
        snap_replace_remove(replace);
    }
    replace->state = REPLACE_ABANDONED;
}

void snap_replace_end(SnapReplace *replace)
{
    if (!replace) {
        return;
    }
    snap_replace_abandon(replace);
    unlock_old(replace);
    if (replace->fd >= 0) {
        close(replace->fd);
    }
    g_free(replace->path);
    g_free(replace->temporary);
    g_free(replace->spare);
    g_free(replace);
}
