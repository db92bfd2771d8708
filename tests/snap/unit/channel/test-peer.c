/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of who is at the other end of a pipe or socket
 */

#include "qemu/osdep.h"
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <linux/userfaultfd.h>
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "snap/channel/peer.h"

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

/* --- other processes --- */

/* A process that does nothing, and has @fds only */
static pid_t start_holder(const int *fds, unsigned nb_fds, bool in_postcopy)
{
    int ready[2];
    pid_t pid;
    char c;

    g_assert_cmpint(pipe(ready), ==, 0);
    pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (!pid) {
        for (int fd = 0; fd < 256; fd++) {
            bool kept = fd == ready[1];

            for (unsigned i = 0; i < nb_fds; i++) {
                kept |= fd == fds[i];
            }
            if (!kept) {
                close(fd);
            }
        }
        if (in_postcopy &&
            syscall(__NR_userfaultfd, UFFD_USER_MODE_ONLY) < 0) {
            _exit(1);
        }
        if (write(ready[1], "", 1) != 1) {
            _exit(1);
        }
        close(ready[1]);
        while (true) {
            pause();
        }
    }
    close(ready[1]);
    g_assert_cmpint(read(ready[0], &c, 1), ==, 1);
    close(ready[0]);
    return pid;
}

static void end_holder(pid_t pid)
{
    kill(pid, SIGKILL);
    g_assert_cmpint(waitpid(pid, NULL, 0), ==, pid);
}

static void assert_found(int fd, bool in_postcopy, pid_t pid)
{
    SnapPeer peer = { };

    g_assert_true(snap_peer_find(fd, in_postcopy, &peer, &error_abort));
    g_assert_cmpint(peer.pid, ==, pid);
    g_assert_cmpint(peer.uid, ==, geteuid());
    g_assert_cmpuint(peer.start_time, >, 0);
    g_assert_false(peer.ancestor);
    g_assert_true(snap_peer_exists(peer.pid, peer.start_time));
    g_assert_false(snap_peer_exists(peer.pid, peer.start_time + 1));
}

static void assert_unknown(int fd, bool in_postcopy, const char *cause)
{
    SnapPeer peer;
    Error *err = NULL;

    g_assert_false(snap_peer_find(fd, in_postcopy, &peer, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), cause));
    error_free(err);
}

static void close_both(const int fds[2])
{
    close(fds[0]);
    close(fds[1]);
}

/* --- pipes --- */

static void test_pipe(gconstpointer opaque)
{
    int other = GPOINTER_TO_INT(opaque);
    int fds[2], both[2];
    pid_t pid, same;

    g_assert_cmpint(pipe(fds), ==, 0);
    g_assert_cmpint(pipe(both), ==, 0);
    /* Who has inherited our end, such as a shell, is not the one. */
    same = start_holder(&fds[!other], 1, false);
    pid = start_holder(&fds[other], 1, false);
    close(fds[other]);
    assert_found(fds[!other], false, pid);
    end_holder(pid);
    assert_unknown(fds[!other], false, "no process");
    end_holder(same);
    close(fds[!other]);
    close_both(both);
}

static void test_own_pipe(void)
{
    int fds[2];

    g_assert_cmpint(pipe(fds), ==, 0);
    assert_unknown(fds[0], false, "no process");
    close_both(fds);
}

/* What the child of a process sees that has forked once more */
static bool child_finds_nobody(int fd)
{
    pid_t pid = fork();
    int status;

    g_assert_cmpint(pid, >=, 0);
    if (!pid) {
        assert_unknown(fd, false, "no process");
        _exit(0);
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void test_copy_of_ancestor(void)
{
    pid_t copy;
    int fds[2];

    g_assert_cmpint(pipe(fds), ==, 0);
    copy = start_holder(&fds[1], 1, false);
    close(fds[1]);
    g_assert_true(child_finds_nobody(fds[0]));
    end_holder(copy);
    close(fds[0]);
}

static void test_in_postcopy(void)
{
    pid_t manager, emulator;
    int fds[2];

    g_assert_cmpint(pipe(fds), ==, 0);
    manager = start_holder(&fds[1], 1, false);
    assert_unknown(fds[0], true, "' at the other end of the channel is not in "
                   "the state postcopy-paused");
    emulator = start_holder(&fds[1], 1, true);
    close(fds[1]);
    assert_found(fds[0], true, emulator);
    end_holder(emulator);
    assert_found(fds[0], false, manager);
    end_holder(manager);
    close(fds[0]);
}

/* A userfaultfd alone makes no peer. */
static void test_in_another_postcopy(void)
{
    int fds[2], other[2];
    pid_t pid;

    g_assert_cmpint(pipe(fds), ==, 0);
    g_assert_cmpint(pipe(other), ==, 0);
    pid = start_holder(&other[1], 1, true);
    assert_unknown(fds[0], true, "no process");
    end_holder(pid);
    close_both(fds);
    close_both(other);
}

static void test_no_channel(void)
{
    g_autofree char *path = g_strdup_printf("/tmp/snap-peer-%d", getpid());
    int fd = open("/dev/null", O_RDWR);

    assert_unknown(fd, false, "neither a pipe nor a socket");
    close(fd);
    assert_unknown(fd, false, "Bad file descriptor");
    g_assert_cmpint(mkfifo(path, 0600), ==, 0);
    fd = open(path, O_RDWR);
    unlink(path);
    g_assert_cmpint(fd, >=, 0);
    assert_unknown(fd, false, "named pipe");
    close(fd);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_unknown(fd, false, "does not tell");
    close(fd);
    fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_unknown(fd, false, "does not tell");
    close(fd);
}

/* --- sockets --- */

static void test_socketpair(void)
{
    pid_t pid, same;
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    same = start_holder(&fds[0], 1, false);
    pid = start_holder(&fds[1], 1, false);
    close(fds[1]);
    assert_found(fds[0], false, pid);
    end_holder(pid);
    end_holder(same);
    close(fds[0]);
}

static int listen_at(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    pstrcpy(address.sun_path, sizeof(address.sun_path), path);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&address, sizeof(address)), ==,
                    0);
    g_assert_cmpint(listen(fd, 1), ==, 0);
    return fd;
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    pstrcpy(address.sun_path, sizeof(address.sun_path), path);
    g_assert_cmpint(connect(fd, (struct sockaddr *)&address, sizeof(address)),
                    ==, 0);
    return fd;
}

static void test_listener(void)
{
    g_autofree char *path = g_strdup_printf("/tmp/snap-peer-%d", getpid());
    g_autofree char *link = g_strdup_printf("%s.link", path);
    int listener = listen_at(path);
    int fd, accepted;
    SnapPeer peer;
    pid_t pid = start_holder(&listener, 1, false);

    g_assert_cmpint(symlink(path, link), ==, 0);
    g_assert_true(snap_peer_find_listener(link, false, &peer, &error_abort));
    g_assert_cmpint(peer.pid, ==, pid);
    g_assert_false(snap_peer_find_listener(link, true, &peer, NULL));
    g_assert_false(snap_peer_find_listener("/dev/null", false, &peer, NULL));
    g_assert_false(snap_peer_find_listener("/nowhere", false, &peer, NULL));
    end_holder(pid);

    /* A connection has nobody at its other end until it is accepted. */
    fd = connect_to(path);
    g_assert_true(snap_peer_awaited(fd));
    assert_unknown(fd, false, "does not tell");
    accepted = accept(listener, NULL, NULL);
    g_assert_false(snap_peer_awaited(fd));
    pid = start_holder(&accepted, 1, false);
    close(accepted);
    assert_found(fd, false, pid);
    end_holder(pid);
    g_assert_false(snap_peer_awaited(fd));
    close(fd);

    fd = connect_to(path);
    close(listener);
    g_assert_false(snap_peer_awaited(fd));
    g_assert_false(snap_peer_find_listener(path, false, &peer, NULL));
    close(fd);
    unlink(link);
    unlink(path);
}

/* --- text --- */

static void test_stat(void)
{
    static const char tail[] = " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 "
                               "18446744073709551615 19 20";
    static const char *const names[] = {
        "cat", "", "a b", ")", "(", ") S 7 (", "\n", ") S 5 1 1 1 1 1 1 1",
    };
    static const char *const bad[] = {
        "", "1", "1 (cat", "1 (cat)", "1 (cat) ", "1 (cat)S 1", "1 (cat) S",
        "1 (cat) S 42", "1 (cat) S 42 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
        "1 (cat) S 42 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 ",
        "1 (cat) S 42 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 -1 2",
        "1 (cat) S 42 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 "
        "18446744073709551616 2",
        "1 (cat) S x 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 2",
        "1 (cat) S -4 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 2",
        "1 (cat) S 4294967296 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 2",
    };
    uint64_t start_time;
    pid_t parent;

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        g_autofree char *text = g_strdup_printf("1 (%s) S 42%s", names[i],
                                                tail);

        parent = start_time = 0;
        g_assert_true(snap_peer_parse_stat(text, &parent, &start_time));
        g_assert_cmpint(parent, ==, 42);
        g_assert_cmpuint(start_time, ==, UINT64_MAX);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        g_assert_false(snap_peer_parse_stat(bad[i], &parent, &start_time));
    }
}

static void test_name(void)
{
    static const char hostile[] = "\033[2J\n\xff";
    int fds[2];
    pid_t pid;

    g_assert_cmpint(pipe(fds), ==, 0);
    pid = start_holder(&fds[0], 1, false);
    {
        g_autofree char *path = g_strdup_printf("/proc/%d/comm", pid);
        const SnapPeer peer = { .pid = pid };
        g_autofree char *name = snap_peer_name(&peer);
        int fd;

        g_assert_cmpstr(name, ==, "test-snap-peer");
        /* Others' names cannot be set, but those of threads can. */
        fd = open(path, O_WRONLY);
        if (fd >= 0 && write(fd, hostile, sizeof(hostile) - 1) > 0) {
            g_free(name);
            name = snap_peer_name(&peer);
            g_assert_cmpstr(name, ==, "?[2J??");
        }
        close(fd);
    }
    end_holder(pid);
    {
        const SnapPeer peer = { .pid = pid };
        g_autofree char *name = snap_peer_name(&peer);

        g_assert_cmpstr(name, ==, "?");
    }
    close_both(fds);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_data_func("/snap/peer/pipe/reader-is-found", GINT_TO_POINTER(0),
                         test_pipe);
    g_test_add_data_func("/snap/peer/pipe/writer-is-found", GINT_TO_POINTER(1),
                         test_pipe);
    g_test_add_func("/snap/peer/pipe/own-process-is-no-peer", test_own_pipe);
    g_test_add_func("/snap/peer/pipe/copy-that-a-fork-has-just-made-is-no-peer",
                    test_copy_of_ancestor);
    g_test_add_func("/snap/peer/postcopy/process-with-a-userfaultfd-is-found",
                    test_in_postcopy);
    g_test_add_func("/snap/peer/postcopy/userfaultfd-alone-makes-no-peer",
                    test_in_another_postcopy);
    g_test_add_func("/snap/peer/other-files-have-no-peer", test_no_channel);
    g_test_add_func("/snap/peer/socket/holder-of-the-other-end-is-found",
                    test_socketpair);
    g_test_add_func("/snap/peer/socket/listener-is-found-by-its-path",
                    test_listener);
    g_test_add_func("/snap/peer/text/stat-is-parsed-whatever-the-name",
                    test_stat);
    g_test_add_func("/snap/peer/text/name-is-printable", test_name);
    return g_test_run();
}
