/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Replacing a local file as a whole
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include <sys/syscall.h>
#include "qapi/error.h"
#include "snap/storage/file-lock.h"
#include "snap/storage/replace.h"

/**
 * What the system calls below do, instead of the C library's
 * @create: a file that somebody creates just before the next rename
 * @no_flags: renameat2() knows no flags
 * @no_links: there are no hard links
 * @fail_exchange, @fail_rename, @fail_unlink, @fail_truncate: it fails
 * @unsynced: names have changed since the directory was flushed
 */
static struct {
    const char *create;
    bool no_flags;
    bool no_links;
    bool fail_exchange;
    bool fail_rename;
    bool fail_unlink;
    bool fail_truncate;
    bool unsynced;
} sys;

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

    g_assert_cmpint(fd, >=, 0);
    g_assert_cmpint(write(fd, text, strlen(text)), ==, strlen(text));
    close(fd);
}

static int fail(int err)
{
    errno = err;
    return -1;
}

static int sys_rename(const char *from, const char *to, unsigned flags)
{
    if (sys.create) {
        write_file(sys.create, "foreign");
        sys.create = NULL;
    }
    sys.unsynced = true;
    return syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, flags);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to,
              unsigned flags)
{
    g_assert_cmpint(from_dir, ==, AT_FDCWD);
    g_assert_cmpint(to_dir, ==, AT_FDCWD);
    if (flags && sys.no_flags) {
        return fail(EINVAL);
    }
    if ((flags & RENAME_EXCHANGE) && sys.fail_exchange) {
        return fail(EIO);
    }
    return sys_rename(from, to, flags);
}

int rename(const char *from, const char *to)
{
    return sys.fail_rename ? fail(EIO) : sys_rename(from, to, 0);
}

int link(const char *from, const char *to)
{
    if (sys.no_links) {
        return fail(EPERM);
    }
    if (sys.create) {
        write_file(sys.create, "foreign");
        sys.create = NULL;
    }
    sys.unsynced = true;
    return syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlink(const char *path)
{
    return sys.fail_unlink ? fail(EIO) :
           syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int ftruncate(int fd, off_t size)
{
    return sys.fail_truncate ? fail(EIO) : syscall(SYS_ftruncate, fd, size);
}

int fsync(int fd)
{
    struct stat st;

    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        sys.unsynced = false;
    }
    return syscall(SYS_fsync, fd);
}

/* An empty directory and the names in it that matter. */
typedef struct Fixture {
    char *dir;
    char *file;
    char *temporary;
    char *spare;
} Fixture;

static void fixture_set_up(Fixture *f, gconstpointer data)
{
    g_autofree char *dir = g_dir_make_tmp("test-snap-replace-XXXXXX", NULL);

    g_assert_nonnull(dir);
    f->dir = realpath(dir, NULL);
    f->file = g_build_filename(f->dir, "vm.qcow2", NULL);
    f->temporary = g_build_filename(f->dir, ".vm.qcow2.saving", NULL);
    f->spare = g_build_filename(f->dir, ".vm.qcow2.saved", NULL);
}

static void fixture_tear_down(Fixture *f, gconstpointer data)
{
    g_autoptr(GDir) dir = g_dir_open(f->dir, 0, NULL);
    const char *name;

    memset(&sys, 0, sizeof(sys));
    while ((name = g_dir_read_name(dir))) {
        g_autofree char *path = g_build_filename(f->dir, name, NULL);

        g_remove(path);
    }
    g_assert_cmpint(g_rmdir(f->dir), ==, 0);
    free(f->dir);
    g_free(f->file);
    g_free(f->temporary);
    g_free(f->spare);
}

static void assert_content(const char *path, const char *text)
{
    g_autofree char *content = NULL;

    g_assert_true(g_file_get_contents(path, &content, NULL, NULL));
    g_assert_cmpstr(content, ==, text);
}

static void assert_absent(const char *path)
{
    g_assert_cmpint(access(path, F_OK), ==, -1);
    g_assert_cmpint(errno, ==, ENOENT);
}

static mode_t mode_of(const char *path)
{
    struct stat st;

    g_assert_cmpint(stat(path, &st), ==, 0);
    return st.st_mode & 07777;
}

/* A replacement whose new content is "new". */
static SnapReplace *begin_new(const char *path)
{
    SnapReplace *replace = snap_replace_begin(path, true, &error_abort);

    write_file(snap_replace_path(replace), "new");
    return replace;
}

static void assert_refused(const char *path, const char *why)
{
    Error *err = NULL;

    g_assert_null(snap_replace_begin(path, true, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), why));
    error_free(err);
}

static void test_new_file(Fixture *f, gconstpointer data)
{
    SnapReplace *replace = begin_new(f->file);

    g_assert_cmpstr(snap_replace_path(replace), ==, f->temporary);
    assert_absent(f->file);
    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    snap_replace_confirm(replace);
    snap_replace_end(replace);
    assert_content(f->file, "new");
    g_assert_cmpuint(mode_of(f->file), ==, 0600);
    assert_absent(f->temporary);
}

static void test_old_file(Fixture *f, gconstpointer data)
{
    SnapReplace *replace;

    write_file(f->file, "old");
    replace = begin_new(f->file);
    assert_content(f->file, "old");
    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    assert_content(f->file, "new");
    snap_replace_confirm(replace);
    snap_replace_end(replace);
    assert_content(f->file, "new");
    assert_absent(f->temporary);
    assert_absent(f->spare);
}

static void test_abandon(Fixture *f, gconstpointer data)
{
    write_file(f->file, "old");
    snap_replace_end(begin_new(f->file));
    assert_content(f->file, "old");
    assert_absent(f->temporary);
}

static void test_undo(Fixture *f, gconstpointer data)
{
    SnapReplace *replace;

    write_file(f->file, "old");
    replace = begin_new(f->file);
    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    snap_replace_end(replace);
    assert_content(f->file, "old");
    assert_absent(f->temporary);
    assert_absent(f->spare);
}

static void test_undo_new_file(Fixture *f, gconstpointer data)
{
    SnapReplace *replace = begin_new(f->file);

    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    snap_replace_end(replace);
    assert_absent(f->file);
    assert_absent(f->temporary);
}

static void test_undo_leaves_foreign_file(Fixture *f, gconstpointer data)
{
    SnapReplace *replace = begin_new(f->file);

    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    g_assert_cmpint(unlink(f->file), ==, 0);
    write_file(f->file, "foreign");
    snap_replace_end(replace);
    assert_content(f->file, "foreign");
}

/* Commit, roll back, and commit again. */
static void check_rollback(Fixture *f, const char *old)
{
    SnapReplace *replace = begin_new(f->file);

    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    assert_content(f->file, "new");
    g_assert_cmpint(snap_replace_rollback(replace, &error_abort), ==, 0);
    g_assert_false(sys.unsynced);
    if (old) {
        assert_content(f->file, old);
    } else {
        assert_absent(f->file);
    }
    assert_content(f->temporary, "new");
    assert_absent(f->spare);
    g_assert_cmpuint(mode_of(f->temporary), ==, 0600);
    assert_refused(f->file, "Another save to '");

    write_file(f->temporary, "newer");
    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    assert_content(f->file, "newer");
    snap_replace_confirm(replace);
    snap_replace_end(replace);
    assert_content(f->file, "newer");
    assert_absent(f->temporary);
    assert_absent(f->spare);
}

static void test_rollback(Fixture *f, gconstpointer data)
{
    write_file(f->file, "old");
    g_assert_cmpint(chmod(f->file, 0644), ==, 0);
    check_rollback(f, "old");
    g_assert_cmpuint(mode_of(f->file), ==, 0644);
}

static void test_rollback_new_file(Fixture *f, gconstpointer data)
{
    check_rollback(f, NULL);
    g_assert_cmpuint(mode_of(f->file), ==, 0600);
}

static void test_rollback_no_flags(Fixture *f, gconstpointer data)
{
    sys.no_flags = true;
    write_file(f->file, "old");
    check_rollback(f, "old");
}

static void test_rollback_no_flags_new_file(Fixture *f, gconstpointer data)
{
    sys.no_flags = true;
    check_rollback(f, NULL);
}

/* The old file is lost with the commit there. */
static void test_rollback_no_links(Fixture *f, gconstpointer data)
{
    sys.no_flags = true;
    sys.no_links = true;
    write_file(f->file, "old");
    check_rollback(f, NULL);
}

static void test_rollback_owner(Fixture *f, gconstpointer data)
{
    g_autoptr(SnapReplace) replace = NULL;
    struct stat st;

    if (geteuid()) {
        g_test_skip("only root can give files away");
        return;
    }
    write_file(f->file, "old");
    g_assert_cmpint(chown(f->file, 12, 34), ==, 0);
    replace = begin_new(f->file);
    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    g_assert_cmpint(snap_replace_rollback(replace, &error_abort), ==, 0);
    g_assert_cmpint(stat(f->temporary, &st), ==, 0);
    g_assert_cmpuint(st.st_uid, ==, geteuid());
    g_assert_cmpint(stat(f->file, &st), ==, 0);
    g_assert_cmpuint(st.st_uid, ==, 12);
}

static void test_rollback_then_end(Fixture *f, gconstpointer data)
{
    SnapReplace *replace;

    write_file(f->file, "old");
    replace = begin_new(f->file);
    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    g_assert_cmpint(snap_replace_rollback(replace, &error_abort), ==, 0);
    snap_replace_end(replace);
    assert_content(f->file, "old");
    assert_absent(f->temporary);
}

static void test_rollback_not_committed(Fixture *f, gconstpointer data)
{
    g_autoptr(SnapReplace) replace = NULL;

    write_file(f->file, "old");
    replace = begin_new(f->file);
    g_assert_cmpint(snap_replace_rollback(replace, &error_abort), ==, 0);
    assert_content(f->file, "old");
    assert_content(f->temporary, "new");
}

static void test_rollback_foreign_file(Fixture *f, gconstpointer data)
{
    g_autoptr(SnapReplace) replace = begin_new(f->file);
    Error *err = NULL;

    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    g_assert_cmpint(unlink(f->file), ==, 0);
    write_file(f->file, "foreign");
    g_assert_cmpint(snap_replace_rollback(replace, &err), ==, -ENOENT);
    error_free_or_abort(&err);
    assert_content(f->file, "foreign");
}

/* The end may still work then. */
static void test_rollback_fails(Fixture *f, gconstpointer data)
{
    SnapReplace *replace;
    Error *err = NULL;

    write_file(f->file, "old");
    replace = begin_new(f->file);
    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    sys.fail_exchange = true;
    g_assert_cmpint(snap_replace_rollback(replace, &err), ==, -EIO);
    error_free_or_abort(&err);
    assert_content(f->file, "new");
    snap_replace_end(replace);
    assert_content(f->file, "old");
    assert_absent(f->temporary);
}

static void test_rollback_no_flags_fails(Fixture *f, gconstpointer data)
{
    g_autoptr(SnapReplace) replace = NULL;
    Error *err = NULL;

    sys.no_flags = true;
    write_file(f->file, "old");
    replace = begin_new(f->file);
    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    sys.fail_rename = true;
    g_assert_cmpint(snap_replace_rollback(replace, &err), ==, -EIO);
    error_free_or_abort(&err);
    assert_content(f->file, "new");
    assert_content(f->spare, "old");
    assert_absent(f->temporary);
    sys.fail_rename = false;
    g_assert_cmpint(snap_replace_rollback(replace, &error_abort), ==, 0);
    assert_content(f->file, "old");
}

/* Returns: what snap_replace_end() says */
static char *end_with_messages(Fixture *f, SnapReplace *replace)
{
    g_autofree char *path = g_build_filename(f->dir, "messages", NULL);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    int saved = dup(STDERR_FILENO);
    char *messages = NULL;

    g_assert_cmpint(dup2(fd, STDERR_FILENO), >=, 0);
    snap_replace_end(replace);
    fflush(stderr);
    g_assert_cmpint(dup2(saved, STDERR_FILENO), >=, 0);
    close(saved);
    close(fd);
    g_assert_true(g_file_get_contents(path, &messages, NULL, NULL));
    return messages;
}

static void check_undo_fails(Fixture *f, const char *state)
{
    g_autofree char *messages = NULL;
    SnapReplace *replace;

    write_file(f->file, "old");
    replace = begin_new(f->file);
    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    sys.fail_rename = true;
    messages = end_with_messages(f, replace);
    assert_content(f->temporary, "old");
    g_assert_nonnull(strstr(messages, f->file));
    g_assert_nonnull(strstr(messages, f->temporary));
    g_assert_nonnull(strstr(messages, state));
}

static void test_undo_fails(Fixture *f, gconstpointer data)
{
    check_undo_fails(f, "removed");
    assert_absent(f->file);
}

static void test_undo_fails_no_unlink(Fixture *f, gconstpointer data)
{
    sys.fail_unlink = true;
    check_undo_fails(f, "emptied");
    assert_content(f->file, "");
}

static void test_undo_fails_for_good(Fixture *f, gconstpointer data)
{
    sys.fail_unlink = true;
    sys.fail_truncate = true;
    check_undo_fails(f, "must not be used");
}

/* Somebody creates the file just when the commit gives the name. */
static void check_created_in_between(Fixture *f)
{
    SnapReplace *replace = begin_new(f->file);

    sys.create = f->file;
    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    g_assert_null(sys.create);
    assert_content(f->file, "new");
    g_assert_cmpuint(mode_of(f->file), ==, 0644);
    snap_replace_end(replace);
    assert_content(f->file, "foreign");
    assert_absent(f->temporary);
    assert_absent(f->spare);
}

static void test_created_in_between(Fixture *f, gconstpointer data)
{
    mode_t mask = umask(022);

    check_created_in_between(f);
    umask(mask);
}

static void test_created_in_between_no_flags(Fixture *f, gconstpointer data)
{
    mode_t mask = umask(022);

    sys.no_flags = true;
    check_created_in_between(f);
    umask(mask);
}

static void test_new_file_no_links(Fixture *f, gconstpointer data)
{
    sys.no_flags = true;
    sys.no_links = true;
    test_new_file(f, data);
}

static void test_second_refused(Fixture *f, gconstpointer data)
{
    g_autoptr(SnapReplace) replace = begin_new(f->file);

    assert_refused(f->file, "Another save to '");
    assert_content(f->temporary, "new");
}

/* The old file has the temporary's name then, and must not be taken for one. */
static void test_second_refused_after_commit(Fixture *f, gconstpointer data)
{
    SnapReplace *replace;

    write_file(f->file, "old");
    replace = begin_new(f->file);
    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    assert_refused(f->file, "Another save to '");
    snap_replace_end(replace);
    assert_content(f->file, "old");
}

static void test_second_refused_new_file(Fixture *f, gconstpointer data)
{
    g_autoptr(SnapReplace) replace = begin_new(f->file);

    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    assert_refused(f->file, "Another save to '");
    assert_content(f->file, "new");
}

static void test_second_after_end(Fixture *f, gconstpointer data)
{
    snap_replace_end(begin_new(f->file));
    snap_replace_end(begin_new(f->file));
    assert_absent(f->temporary);
}

static void test_leftover_removed(Fixture *f, gconstpointer data)
{
    g_autoptr(SnapReplace) replace = NULL;

    write_file(f->temporary, "leftover");
    replace = snap_replace_begin(f->file, true, &error_abort);
    assert_content(f->temporary, "");
    g_assert_cmpuint(mode_of(f->temporary), ==, 0600);
}

/* A load may have it open, or it may have another name. */
static void test_leftover_not_written(Fixture *f, gconstpointer data)
{
    g_autofree char *other = g_build_filename(f->dir, "other", NULL);
    g_autoptr(SnapReplace) replace = NULL;

    write_file(f->temporary, "old");
    g_assert_cmpint(link(f->temporary, other), ==, 0);
    replace = begin_new(f->file);
    assert_content(other, "old");
}

static void test_leftover_link_refused(Fixture *f, gconstpointer data)
{
    g_autofree char *other = g_build_filename(f->dir, "other", NULL);

    write_file(other, "other");
    g_assert_cmpint(symlink("other", f->temporary), ==, 0);
    assert_refused(f->file, f->temporary);
    assert_content(other, "other");
}

static void test_leftover_fifo_refused(Fixture *f, gconstpointer data)
{
    g_assert_cmpint(mkfifo(f->temporary, 0600), ==, 0);
    assert_refused(f->file, "is in the way");
}

static void test_mode_kept(Fixture *f, gconstpointer data)
{
    g_autoptr(SnapReplace) replace = NULL;

    write_file(f->file, "old");
    g_assert_cmpint(chmod(f->file, 0640), ==, 0);
    replace = begin_new(f->file);
    g_assert_cmpuint(mode_of(f->temporary), ==, 0600);
    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    g_assert_cmpuint(mode_of(f->file), ==, 0640);
    snap_replace_confirm(replace);
}

static void test_owner_kept(Fixture *f, gconstpointer data)
{
    g_autoptr(SnapReplace) replace = NULL;
    struct stat st;

    if (geteuid()) {
        g_test_skip("only root can give files away");
        return;
    }
    write_file(f->file, "old");
    g_assert_cmpint(chown(f->file, 12, 34), ==, 0);
    replace = begin_new(f->file);
    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    snap_replace_confirm(replace);
    g_assert_cmpint(stat(f->file, &st), ==, 0);
    g_assert_cmpuint(st.st_uid, ==, 12);
    g_assert_cmpuint(st.st_gid, ==, 34);
}

static void test_symlink_kept(Fixture *f, gconstpointer data)
{
    g_autofree char *name = g_build_filename(f->dir, "link", NULL);
    g_autoptr(SnapReplace) replace = NULL;

    write_file(f->file, "old");
    g_assert_cmpint(symlink("vm.qcow2", name), ==, 0);
    replace = begin_new(name);
    g_assert_cmpstr(snap_replace_path(replace), ==, f->temporary);
    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    snap_replace_confirm(replace);
    g_assert_true(g_file_test(name, G_FILE_TEST_IS_SYMLINK));
    assert_content(f->file, "new");
}

static void test_dangling_symlink_refused(Fixture *f, gconstpointer data)
{
    g_assert_cmpint(symlink("nowhere", f->file), ==, 0);
    assert_refused(f->file, "symbolic link");
}

static void test_reader_goes_on(Fixture *f, gconstpointer data)
{
    g_autoptr(SnapReplace) replace = NULL;
    char buf[4] = "";
    int fd;

    write_file(f->file, "old");
    fd = open(f->file, O_RDONLY);
    replace = begin_new(f->file);
    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    snap_replace_confirm(replace);
    g_assert_cmpint(read(fd, buf, 3), ==, 3);
    g_assert_cmpstr(buf, ==, "old");
    close(fd);
}

static void test_lost_temporary(Fixture *f, gconstpointer data)
{
    g_autoptr(SnapReplace) replace = NULL;
    Error *err = NULL;

    write_file(f->file, "old");
    replace = begin_new(f->file);
    g_assert_cmpint(unlink(f->temporary), ==, 0);
    write_file(f->temporary, "foreign");
    g_assert_cmpint(snap_replace_commit(replace, &err), ==, -ENOENT);
    error_free_or_abort(&err);
    assert_content(f->file, "old");
}

/* A commit that fails leaves the old file alone. */
static void test_file_becomes_directory(Fixture *f, gconstpointer data)
{
    g_autoptr(SnapReplace) replace = begin_new(f->file);
    Error *err = NULL;

    g_assert_cmpint(g_mkdir(f->file, 0700), ==, 0);
    g_assert_cmpint(snap_replace_commit(replace, &err), <, 0);
    error_free_or_abort(&err);
    g_assert_true(g_file_test(f->file, G_FILE_TEST_IS_DIR));
}

static void test_directory_refused(Fixture *f, gconstpointer data)
{
    assert_refused(f->dir, "not a regular file");
}

static void test_missing_directory(Fixture *f, gconstpointer data)
{
    g_autofree char *path = g_build_filename(f->dir, "none", "file", NULL);

    assert_refused(path, path);
}

static void test_empty_name(Fixture *f, gconstpointer data)
{
    assert_refused("", "not the name of a file");
}

static void test_long_name(Fixture *f, gconstpointer data)
{
    g_autofree char *name = g_strnfill(NAME_MAX - 3, 'x');
    g_autofree char *path = g_build_filename(f->dir, name, NULL);

    assert_refused(path, "File name too long");
}

static void test_permission_denied(Fixture *f, gconstpointer data)
{
    if (!geteuid()) {
        g_test_skip("root may write everywhere");
        return;
    }
    g_assert_cmpint(chmod(f->dir, 0500), ==, 0);
    assert_refused(f->file, "Permission denied");
    g_assert_cmpint(chmod(f->dir, 0700), ==, 0);
}

/* Somebody else's descriptor of a file */
static int open_other(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);

    g_assert_cmpint(fd, >=, 0);
    return fd;
}

static void test_written_refused(Fixture *f, gconstpointer data)
{
    int fd;

    write_file(f->file, "disk");
    fd = open_other(f->file);
    snap_file_lock_writer(fd);
    assert_refused(f->file, "open for writing");
    assert_absent(f->temporary);
    close(fd);
    snap_replace_end(begin_new(f->file));
    assert_content(f->file, "disk");
}

static void test_readers_refused_or_not(Fixture *f, gconstpointer data)
{
    Error *err = NULL;
    int fd;

    write_file(f->file, "disk");
    fd = open_other(f->file);
    snap_file_lock_content(fd);
    g_assert_null(snap_replace_begin(f->file, false, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "in use"));
    error_free(err);
    snap_replace_end(begin_new(f->file));
    close(fd);
}

static void test_locked_refused(Fixture *f, gconstpointer data)
{
    int fd;

    write_file(f->file, "accounts");
    fd = open_other(f->file);
    for (int exclusive = 0; exclusive < 2; exclusive++) {
        g_assert_cmpint(qemu_lock_fd(fd, 0, 0, exclusive), ==, 0);
        assert_refused(f->file, "is locked by another process");
    }
    close(fd);
}

static void test_written_at_commit_refused(Fixture *f, gconstpointer data)
{
    g_autofree char *other = g_build_filename(f->dir, "other", NULL);
    g_autoptr(SnapReplace) replace = NULL;
    Error *err = NULL;
    int fd;

    write_file(f->file, "old");
    replace = begin_new(f->file);
    write_file(other, "disk");
    fd = open_other(other);
    snap_file_lock_writer(fd);
    g_assert_cmpint(rename(other, f->file), ==, 0);
    g_assert_cmpint(snap_replace_commit(replace, &err), ==, -EBUSY);
    error_free(err);
    assert_content(f->file, "disk");
    assert_content(f->temporary, "new");
    close(fd);
    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
}

static void test_old_file_is_held(Fixture *f, gconstpointer data)
{
    SnapReplace *replace;
    int fd;

    write_file(f->file, "old");
    fd = open_other(f->file);
    replace = begin_new(f->file);
    g_assert_cmpint(snap_file_use(fd), ==, SNAP_FILE_READ);
    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    g_assert_cmpint(snap_replace_rollback(replace, &error_abort), ==, 0);
    g_assert_cmpint(snap_file_use(fd), ==, SNAP_FILE_READ);
    snap_replace_end(replace);
    g_assert_cmpint(snap_file_use(fd), ==, SNAP_FILE_FREE);
    close(fd);
}

static void test_new_file_is_locked(Fixture *f, gconstpointer data)
{
    SnapReplace *replace = begin_new(f->file);
    int fd = open_other(f->temporary);

    snap_replace_lock(replace);
    g_assert_cmpint(snap_file_use(fd), ==, SNAP_FILE_WRITTEN);
    g_assert_cmpint(snap_replace_commit(replace, &error_abort), ==, 0);
    g_assert_cmpint(snap_file_use(fd), ==, SNAP_FILE_WRITTEN);
    snap_replace_confirm(replace);
    snap_replace_end(replace);
    g_assert_cmpint(snap_file_use(fd), ==, SNAP_FILE_FREE);
    close(fd);
}

static void add(const char *name, void (*test)(Fixture *, gconstpointer))
{
    g_autofree char *path = g_strdup_printf("/snap/replace/%s", name);

    g_test_add(path, Fixture, NULL, fixture_set_up, test, fixture_tear_down);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    add("commit/makes-the-file", test_new_file);
    add("commit/replaces-the-file", test_old_file);
    add("abandon/keeps-the-old-file", test_abandon);
    add("undo/commit-without-confirmation-keeps-the-old-file", test_undo);
    add("undo/commit-without-confirmation-leaves-no-file", test_undo_new_file);
    add("undo/foreign-file-is-left-alone", test_undo_leaves_foreign_file);
    add("undo/unconfirmed-file-is-removed-if-the-old-one-cannot-return",
        test_undo_fails);
    add("undo/unconfirmed-file-is-emptied-if-it-cannot-be-removed",
        test_undo_fails_no_unlink);
    add("undo/unconfirmed-file-is-named-if-it-cannot-be-emptied",
        test_undo_fails_for_good);
    add("rollback/commit-may-follow", test_rollback);
    add("rollback/commit-may-follow/new-file", test_rollback_new_file);
    add("rollback/commit-may-follow/no-flags", test_rollback_no_flags);
    add("rollback/commit-may-follow/no-flags-new-file",
        test_rollback_no_flags_new_file);
    add("rollback/commit-may-follow/no-links", test_rollback_no_links);
    add("rollback/old-file-keeps-its-owner", test_rollback_owner);
    add("rollback/end-keeps-the-old-file", test_rollback_then_end);
    add("rollback/before-a-commit-does-nothing", test_rollback_not_committed);
    add("rollback/foreign-file-is-left-alone", test_rollback_foreign_file);
    add("rollback/end-may-still-work-after-a-failure", test_rollback_fails);
    add("rollback/may-be-tried-again", test_rollback_no_flags_fails);
    add("created-in-between/returns-if-not-confirmed", test_created_in_between);
    add("created-in-between/returns-if-not-confirmed/no-flags",
        test_created_in_between_no_flags);
    add("commit/makes-the-file/no-links", test_new_file_no_links);
    add("second/is-refused", test_second_refused);
    add("second/is-refused-after-a-commit", test_second_refused_after_commit);
    add("second/is-refused-for-a-new-file", test_second_refused_new_file);
    add("second/is-allowed-after-the-end", test_second_after_end);
    add("leftover/is-removed", test_leftover_removed);
    add("leftover/is-not-written-to", test_leftover_not_written);
    add("leftover/symbolic-link-is-refused", test_leftover_link_refused);
    add("leftover/fifo-is-refused", test_leftover_fifo_refused);
    add("file/keeps-its-mode", test_mode_kept);
    add("file/keeps-its-owner", test_owner_kept);
    add("symlink/stays", test_symlink_kept);
    add("symlink/dangling-one-is-refused", test_dangling_symlink_refused);
    add("file/open-one-keeps-its-content", test_reader_goes_on);
    add("in-use/written-file-is-refused", test_written_refused);
    add("in-use/lock-of-a-reader-may-be-ignored",
        test_readers_refused_or_not);
    add("in-use/locked-file-is-refused", test_locked_refused);
    add("in-use/written-file-is-refused-at-the-commit",
        test_written_at_commit_refused);
    add("in-use/old-file-is-locked", test_old_file_is_held);
    add("in-use/new-file-is-locked", test_new_file_is_locked);
    add("lost-temporary-keeps-the-old-file", test_lost_temporary);
    add("refused/file-that-becomes-a-directory", test_file_becomes_directory);
    add("refused/directory", test_directory_refused);
    add("refused/file-in-a-missing-directory", test_missing_directory);
    add("refused/empty-name", test_empty_name);
    add("refused/long-name", test_long_name);
    add("refused/directory-without-permission", test_permission_denied);
    return g_test_run();
}
