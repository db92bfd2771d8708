/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The process at the other end of a pipe or local socket
 *
 * Everything is read from /proc, which may hide processes of other users and
 * namespaces.  Nothing is guessed: what cannot be seen is an error.
 */

#ifndef SNAP_CHANNEL_PEER_H
#define SNAP_CHANNEL_PEER_H

/**
 * SnapPeer: a process
 * @pid: its number
 * @start_time: clock ticks from boot to its start; unique together with @pid
 *              until the next boot
 * @uid: its owner
 * @ancestor: it is an ancestor of this process
 */
typedef struct SnapPeer {
    pid_t pid;
    uint64_t start_time;
    uid_t uid;
    bool ancestor;
} SnapPeer;

/**
 * snap_peer_find: find the process at the other end of @fd
 * @fd: a pipe that is open in one direction, or a connected UNIX socket
 * @in_postcopy: only a process that has a userfaultfd, as a QEMU has from when
 *               it listens to a postcopy until the end of that.  Others that
 *               hold the same end, such as a manager, do not
 * @peer: filled in on success
 *
 * Tries the process that has made a socket first, then our ancestors, then all
 * others, but for children that an ancestor has just forked: what those hold
 * may be closed when they become another program.
 *
 * Returns: true; false with @errp set, to be read after "because"
 */
bool snap_peer_find(int fd, bool in_postcopy, SnapPeer *peer, Error **errp);

/*
 * Whether @fd is connected to a UNIX socket, but nobody has accepted that yet:
 * snap_peer_find() finds nobody then.
 */
bool snap_peer_awaited(int fd);

/**
 * snap_peer_find_listener: find the process that listens at a UNIX socket
 * @path: of the socket, which is not connected to
 * @in_postcopy, @peer: see snap_peer_find()
 *
 * Returns: true; false with @errp set, to be read after "because"
 */
bool snap_peer_find_listener(const char *path, bool in_postcopy,
                             SnapPeer *peer, Error **errp);

/**
 * snap_peer_waits_for_end: whether the process at the other end of a pipe can
 * do nothing until we close it
 * @fd: the pipe, open for writing
 *
 * True if its main thread waits for the end of another one that reads from the
 * pipe; false if this cannot be seen.
 */
bool snap_peer_waits_for_end(int fd);

/* Whether the process is still there; also if it cannot be looked at. */
bool snap_peer_exists(pid_t pid, uint64_t start_time);

/* Returns: newly allocated name of the program, printable */
char *snap_peer_name(const SnapPeer *peer);

/**
 * snap_peer_parse_stat: parse /proc/PID/stat
 * @text: its content
 * @parent, @start_time: filled in on success
 *
 * Returns: whether it is well-formed
 */
bool snap_peer_parse_stat(const char *text, pid_t *parent,
                          uint64_t *start_time);

#endif /* SNAP_CHANNEL_PEER_H */
