/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a destination is loading, for whoever has to resume it
 *
 * Name: qemu-snap-load.NAMESPACE.PID.START-TIME, with the inode of the PID
 * namespace.  Content: one line, "qemu-snap load 1 PID START-TIME UUID".
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "snap/postcopy/load-record.h"
#include "snap/trace.h"

#define PREFIX "qemu-snap-load."

/* More than a record has */
#define MAX_SIZE 256

/* Files to look at, at most, when old records are removed */
#define MAX_SWEEP 65536

/* A PID means nothing outside its namespace, so that is part of the name. */
static char *load_record_prefix(void)
{
    struct stat st;

    if (stat("/proc/self/ns/pid", &st) < 0) {
        st.st_ino = 0;
    }
    return g_strdup_printf(PREFIX "%" PRIu64 ".", (uint64_t)st.st_ino);
}

static char *load_record_path(const char *dir, const SnapPeer *peer)
{
    g_autofree char *prefix = load_record_prefix();

    return g_strdup_printf("%s/%s%d.%" PRIu64, dir, prefix, (int)peer->pid,
                           peer->start_time);
}

/* The content up to the UUID */
static char *load_record_head(const SnapPeer *peer)
{
    return g_strdup_printf("qemu-snap load 1 %d %" PRIu64 " ", (int)peer->pid,
                           peer->start_time);
}

/* Whether @name, if it begins with @prefix, is of a process that has ended */
static bool load_record_is_stale(const char *name, const char *prefix)
{
    uint64_t start_time;
    int pid;

    return strstart(name, prefix, &name) &&
           qemu_strtoi(name, &name, 10, &pid) == 0 && pid > 0 &&
           *name == '.' &&
           qemu_strtou64(name + 1, &name, 10, &start_time) == 0 &&
           (*name == '\0' || *name == '.') &&
           !snap_peer_exists(pid, start_time);
}

/* Remove this user's records of processes that have ended. */
static void load_record_sweep(const char *path)
{
    g_autofree char *prefix = load_record_prefix();
    DIR *dir = opendir(path);
    struct dirent *entry;
    unsigned nb = 0;
    struct stat st;

    while (dir && nb++ < MAX_SWEEP && (entry = readdir(dir))) {
        if (load_record_is_stale(entry->d_name, prefix) &&
            fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISREG(st.st_mode) && st.st_uid == geteuid()) {
            unlinkat(dirfd(dir), entry->d_name, 0);
        }
    }
    if (dir) {
        closedir(dir);
    }
}

/* Returns: whether a new file @path, readable by all, was written */
static bool load_record_write(const char *path, const char *content)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                  0644);
    bool done;

    if (fd < 0) {
        return false;
    }
    done = qemu_write_full(fd, content, strlen(content)) == strlen(content) &&
           fchmod(fd, 0644) == 0;
    close(fd);
    return done;
}

bool snap_load_record_store(const char *dir, const SnapPeer *peer,
                            const QemuUUID *uuid, Error **errp)
{
    g_autofree char *path = load_record_path(dir, peer);
    g_autofree char *temporary = g_strdup_printf("%s.%d", path, getpid());
    g_autofree char *head = load_record_head(peer);
    g_autofree char *id = qemu_uuid_unparse_strdup(uuid);
    g_autofree char *content = g_strdup_printf("%s%s\n", head, id);

    load_record_sweep(dir);
    /* A leftover of an earlier process with our PID */
    unlink(temporary);
    if (!load_record_write(temporary, content) || rename(temporary, path) < 0) {
        error_setg_errno(errp, errno, "Could not write '%s'", path);
        unlink(temporary);
        return false;
    }
    trace_snap_load_record_store(path, id);
    return true;
}

/* Whether only root, this user or the destination's can have written it */
static bool load_record_is_trusted(const struct stat *st, const SnapPeer *peer)
{
    return S_ISREG(st->st_mode) && st->st_size < MAX_SIZE &&
           (st->st_uid == 0 || st->st_uid == geteuid() ||
            st->st_uid == peer->uid);
}

/* Returns: whether a record was read into @buf */
static bool load_record_read(const char *path, const SnapPeer *peer,
                             char buf[MAX_SIZE])
{
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    ssize_t length = -1;
    struct stat st;

    if (fd < 0) {
        return false;
    }
    if (fstat(fd, &st) == 0 && load_record_is_trusted(&st, peer)) {
        length = RETRY_ON_EINTR(read(fd, buf, MAX_SIZE - 1));
    }
    close(fd);
    buf[MAX(length, 0)] = '\0';
    return length > 0 && strlen(buf) == length;
}

bool snap_load_record_read(const char *dir, const SnapPeer *peer,
                           QemuUUID *uuid, Error **errp)
{
    g_autofree char *path = load_record_path(dir, peer);
    g_autofree char *head = load_record_head(peer);
    char buf[MAX_SIZE];
    const char *id;
    size_t length;

    if (access(path, F_OK) < 0) {
        error_setg(errp, "no record of it was kept");
        return false;
    }
    if (!load_record_read(path, peer, buf)) {
        error_setg(errp, "its record '%s' could not be read, or is another "
                   "user's", path);
        return false;
    }
    length = strlen(buf);
    if (!strstart(buf, head, &id) || buf[length - 1] != '\n') {
        error_setg(errp, "its record '%s' is damaged", path);
        return false;
    }
    buf[length - 1] = '\0';
    if (qemu_uuid_parse(id, uuid) < 0) {
        error_setg(errp, "its record '%s' is damaged", path);
        return false;
    }
    return true;
}

void snap_load_record_remove(const char *dir, const SnapPeer *peer)
{
    g_autofree char *path = load_record_path(dir, peer);

    unlink(path);
    trace_snap_load_record_remove(path);
}
