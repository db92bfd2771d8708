/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The channel to QEMU: pipes, sockets, descriptors
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include "block/aio.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qemu/coroutine.h"
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "snap/channel/transport.h"
#include "test-table.h"

static char *fd_uri(int fd)
{
    return g_strdup_printf("fd:%d", fd);
}

static SnapTransport *open_fd(int fd)
{
    g_autofree char *uri = fd_uri(fd);

    return snap_transport_open(uri, false, NULL, &error_abort);
}

static void make_pipe(int fds[2])
{
    g_assert_true(g_unix_open_pipe(fds, FD_CLOEXEC, NULL));
}

static void make_socket_pair(int fds[2])
{
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds),
                    ==, 0);
}

static void close_both(int fds[2])
{
    close(fds[0]);
    close(fds[1]);
}

static bool is_nonblocking(int fd)
{
    return fcntl(fd, F_GETFL) & O_NONBLOCK;
}

static SnapTransport *open_connected(const char *uri, bool listen)
{
    SnapTransport *transport = snap_transport_open(uri, listen, NULL,
                                                   &error_abort);

    g_assert_true(snap_transport_connect(transport, &error_abort));
    return transport;
}

static void assert_refused(const char *uri, const char *why)
{
    SnapTransport *transport;
    Error *err = NULL;

    transport = snap_transport_open(uri, false, NULL, &err);
    g_assert_false(transport && snap_transport_connect(transport, &err));
    snap_transport_close(transport);
    g_assert_nonnull(strstr(error_get_pretty(err), uri));
    g_assert_nonnull(strstr(error_get_pretty(err), why));
    error_free(err);
}

/* A value that is written to @output, or read from @input */
typedef struct Exchange {
    SnapInput *input;
    QEMUFile *output;
    uint32_t value;
    bool done;
} Exchange;

static void coroutine_fn co_read(void *opaque)
{
    Exchange *x = opaque;

    x->value = snap_input_get_be32(x->input);
    x->done = true;
}

static void coroutine_fn co_write(void *opaque)
{
    Exchange *x = opaque;

    qemu_put_be32(x->output, x->value);
    g_assert_cmpint(qemu_fflush(x->output), ==, 0);
    x->done = true;
}

static void start(Exchange *x, CoroutineEntry *entry)
{
    aio_co_enter(qemu_get_aio_context(), qemu_coroutine_create(entry, x));
}

static void finish(Exchange *x)
{
    while (!x->done) {
        aio_poll(qemu_get_aio_context(), true);
    }
}

static void write_be32(int fd, uint32_t value)
{
    value = cpu_to_be32(value);
    g_assert_cmpint(write(fd, &value, sizeof(value)), ==, sizeof(value));
}

static uint32_t read_be32(int fd)
{
    uint32_t value;

    g_assert_cmpint(read(fd, &value, sizeof(value)), ==, sizeof(value));
    return be32_to_cpu(value);
}

static void assert_reads(SnapTransport *transport, int peer)
{
    Exchange x = { .input = snap_transport_input(transport) };

    write_be32(peer, 0x12345678);
    start(&x, co_read);
    finish(&x);
    g_assert_cmphex(x.value, ==, 0x12345678);
}

static void assert_writes(SnapTransport *transport, int peer)
{
    Exchange x = {
        .output = snap_transport_output(transport), .value = 0x87654321,
    };

    start(&x, co_write);
    finish(&x);
    g_assert_cmphex(read_be32(peer), ==, 0x87654321);
}

static void test_pipe_input(void)
{
    g_autoptr(SnapTransport) transport = NULL;
    int fds[2];

    make_pipe(fds);
    transport = open_fd(fds[0]);
    g_assert_null(snap_transport_output(transport));
    assert_reads(transport, fds[1]);
    close_both(fds);
}

static void test_pipe_output(void)
{
    g_autoptr(SnapTransport) transport = NULL;
    int fds[2];

    make_pipe(fds);
    transport = open_fd(fds[1]);
    g_assert_null(snap_transport_input(transport));
    assert_writes(transport, fds[0]);
    close_both(fds);
}

/* Waiting for data lets the rest of the program run. */
static void test_wait_in_coroutine(void)
{
    g_autoptr(SnapTransport) transport = NULL;
    Exchange x = { };
    int fds[2];

    make_pipe(fds);
    transport = open_fd(fds[0]);
    x.input = snap_transport_input(transport);
    start(&x, co_read);
    g_assert_false(x.done);
    aio_poll(qemu_get_aio_context(), false);
    g_assert_false(x.done);
    write_be32(fds[1], 1);
    finish(&x);
    g_assert_cmphex(x.value, ==, 1);
    close_both(fds);
}

static void check_timeout(int fds[2])
{
    g_autoptr(SnapTransport) transport = open_fd(fds[0]);
    Exchange x = { .input = snap_transport_input(transport) };

    snap_input_set_timeout(x.input, 1);
    assert_reads(transport, fds[1]);
    g_assert_false(snap_input_ended(x.input));

    snap_input_set_timeout(x.input, -1);
    start(&x, co_read);
    g_assert_false(x.done);
    write_be32(fds[1], 3);
    finish(&x);
    g_assert_cmphex(x.value, ==, 3);
    g_assert_false(snap_input_ended(x.input));

    snap_input_set_timeout(x.input, 1);
    x.done = false;
    start(&x, co_read);
    g_assert_false(x.done);
    finish(&x);
    g_assert_cmpint(snap_input_error(x.input, NULL), ==, -EIO);
    g_assert_true(snap_input_ended(x.input));
}

/* Silence is the end if there is a timeout, and others run meanwhile. */
static void test_timeout(void)
{
    int fds[2];

    make_pipe(fds);
    check_timeout(fds);
    close_both(fds);
    make_socket_pair(fds);
    check_timeout(fds);
    close_both(fds);
}

static void test_same_file_each_time(void)
{
    g_autoptr(SnapTransport) transport = NULL;
    int fds[2];

    make_socket_pair(fds);
    transport = open_fd(fds[0]);
    g_assert_true(snap_transport_input(transport) ==
                  snap_transport_input(transport));
    g_assert_true(snap_transport_output(transport) ==
                  snap_transport_output(transport));
    close_both(fds);
}

static void test_socket_both_ways(void)
{
    g_autoptr(SnapTransport) transport = NULL;
    int fds[2];

    make_socket_pair(fds);
    transport = open_fd(fds[0]);
    assert_reads(transport, fds[1]);
    assert_writes(transport, fds[1]);
    close_both(fds);
}

/* A reader that waits does not keep a writer from the same socket. */
static void test_socket_write_while_reading(void)
{
    g_autoptr(SnapTransport) transport = NULL;
    Exchange x = { };
    int fds[2];

    make_socket_pair(fds);
    transport = open_fd(fds[0]);
    x.input = snap_transport_input(transport);
    start(&x, co_read);
    assert_writes(transport, fds[1]);
    write_be32(fds[1], 2);
    finish(&x);
    g_assert_cmphex(x.value, ==, 2);
    close_both(fds);
}

static void test_nonblock_restored(void)
{
    SnapTransport *transport;
    int fds[2];

    make_socket_pair(fds);
    transport = open_fd(fds[0]);
    g_assert_nonnull(snap_transport_input(transport));
    g_assert_nonnull(snap_transport_output(transport));
    g_assert_true(is_nonblocking(fds[0]));
    snap_transport_close(transport);
    g_assert_false(is_nonblocking(fds[0]));
    close_both(fds);
}

static void test_nonblock_kept(void)
{
    SnapTransport *transport;
    int fds[2];

    make_pipe(fds);
    g_assert_true(g_unix_set_fd_nonblocking(fds[0], true, NULL));
    transport = open_fd(fds[0]);
    g_assert_nonnull(snap_transport_input(transport));
    snap_transport_close(transport);
    g_assert_true(is_nonblocking(fds[0]));
    close_both(fds);
}

/* stdout may be the terminal of stderr, and is of no use to every save. */
static void test_nonblock_not_before_use(void)
{
    g_autoptr(SnapTransport) transport = NULL;
    int fds[2];

    make_pipe(fds);
    transport = open_fd(fds[1]);
    g_assert_false(is_nonblocking(fds[1]));
    close_both(fds);
}

static void test_close_drops_unflushed(void)
{
    SnapTransport *transport;
    char c;
    int fds[2];

    make_pipe(fds);
    transport = open_fd(fds[1]);
    qemu_put_be32(snap_transport_output(transport), 1);
    snap_transport_close(transport);
    close(fds[1]);
    g_assert_cmpint(read(fds[0], &c, 1), ==, 0);
    close(fds[0]);
}

static void test_descriptor_stays_open(void)
{
    int fds[2];

    make_pipe(fds);
    snap_transport_close(open_fd(fds[0]));
    g_assert_cmpint(fcntl(fds[0], F_GETFD), >=, 0);
    close_both(fds);
}

/* Run @test with @in and @out as stdin and stdout. */
static void with_stdio(int in, int out, void (*test)(SnapTransport *, int),
                       int peer)
{
    int saved_in = dup(STDIN_FILENO), saved_out = dup(STDOUT_FILENO);
    SnapTransport *transport;

    fflush(stdout);
    g_assert_cmpint(dup2(in, STDIN_FILENO), ==, STDIN_FILENO);
    g_assert_cmpint(dup2(out, STDOUT_FILENO), ==, STDOUT_FILENO);
    transport = snap_transport_open(NULL, true, NULL, &error_abort);
    test(transport, peer);
    snap_transport_close(transport);
    dup2(saved_in, STDIN_FILENO);
    dup2(saved_out, STDOUT_FILENO);
    close(saved_in);
    close(saved_out);
}

static void check_both_ways(SnapTransport *transport, int peer)
{
    g_assert_cmpstr(snap_transport_name(transport), ==, "stdin");
    assert_reads(transport, peer);
    assert_writes(transport, peer);
}

static void test_stdio_same_socket(void)
{
    int fds[2];

    make_socket_pair(fds);
    with_stdio(fds[0], fds[0], check_both_ways, fds[1]);
    g_assert_false(is_nonblocking(fds[0]));
    close_both(fds);
}

static void check_input_only(SnapTransport *transport, int peer)
{
    g_assert_null(snap_transport_output(transport));
    assert_reads(transport, peer);
}

static void test_stdio_output_not_writable(void)
{
    int fds[2];

    make_pipe(fds);
    with_stdio(fds[0], fds[0], check_input_only, fds[1]);
    close_both(fds);
}

static void test_pipe_size(void)
{
    g_autoptr(SnapTransport) transport = NULL;
    int fds[2];

    make_pipe(fds);
    transport = open_fd(fds[0]);
    g_assert_cmpint(snap_transport_resize_input(transport, 4096), ==,
                    MAX(4096, qemu_real_host_page_size()));
    g_assert_cmpint(snap_transport_input_size(transport), ==,
                    fcntl(fds[1], F_GETPIPE_SZ));
    g_assert_cmpint(snap_transport_resize_output(transport, 4096), ==,
                    -ENOTSUP);
    close_both(fds);
}

static void test_pipe_size_output(void)
{
    g_autoptr(SnapTransport) transport = NULL;
    int fds[2];

    make_pipe(fds);
    transport = open_fd(fds[1]);
    g_assert_cmpint(snap_transport_resize_output(transport, 128 * KiB), ==,
                    128 * KiB);
    g_assert_cmpint(fcntl(fds[0], F_GETPIPE_SZ), ==, 128 * KiB);
    g_assert_cmpint(snap_transport_resize_input(transport, 4096), ==,
                    -ENOTSUP);
    close_both(fds);
}

static void test_pipe_size_busy(void)
{
    g_autoptr(SnapTransport) transport = NULL;
    g_autofree char *data = g_malloc0(64 * KiB);
    int fds[2];

    make_pipe(fds);
    g_assert_true(g_unix_set_fd_nonblocking(fds[1], true, NULL));
    g_assert_cmpint(write(fds[1], data, 64 * KiB), >, 4096);
    transport = open_fd(fds[0]);
    g_assert_cmpint(snap_transport_resize_input(transport, 4096), ==, -EBUSY);
    close_both(fds);
}

static void test_pipe_size_socket(void)
{
    g_autoptr(SnapTransport) transport = NULL;
    int fds[2];

    make_socket_pair(fds);
    transport = open_fd(fds[0]);
    g_assert_cmpint(snap_transport_resize_input(transport, 4096), ==,
                    -ENOTSUP);
    g_assert_cmpint(snap_transport_input_size(transport), ==, 0);
    close_both(fds);
}

/* Bytes that @fd takes without waiting */
static size_t fill_socket(int fd)
{
    char data[1024] = { };
    size_t total = 0;
    ssize_t ret;

    while ((ret = send(fd, data, sizeof(data), MSG_DONTWAIT)) > 0) {
        total += ret;
    }
    return total;
}

/* What is in flight on a socket that was resized to @bytes */
static size_t in_flight(int bytes)
{
    g_autoptr(SnapTransport) transport = NULL;
    size_t total;
    int fds[2];

    make_socket_pair(fds);
    transport = open_fd(fds[0]);
    g_assert_cmpint(snap_transport_resize_output(transport, bytes), >=, bytes);
    total = fill_socket(fds[0]);
    close_both(fds);
    return total;
}

/* Each message costs more than its bytes, and the last one is not counted. */
static void test_socket_size_output(void)
{
    g_assert_cmpuint(in_flight(16 * KiB), <=, 64 * KiB);
    g_assert_cmpuint(in_flight(128 * KiB), >, 64 * KiB);
}

/* There is a limit to what a user may ask for (net.core.wmem_max). */
static void test_socket_size_giant(void)
{
    g_autoptr(SnapTransport) transport = NULL;
    socklen_t size = sizeof(int);
    int fds[2], ret, actual = 0;

    make_socket_pair(fds);
    transport = open_fd(fds[0]);
    ret = snap_transport_resize_output(transport, 1 * GiB - 1);
    g_assert_cmpint(getsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &actual, &size),
                    ==, 0);
    if (ret != -EPERM) {
        g_assert_cmpint(ret, >, 0);
        g_assert_cmpint(ret, <=, actual);
    }
    close_both(fds);
}

static void test_file_size_output(void)
{
    SnapTransport *transport;
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("test-snap-transport-XXXXXX", &path, NULL);

    transport = open_fd(fd);
    g_assert_cmpint(snap_transport_resize_output(transport, 64 * KiB), ==,
                    -ENOTSUP);
    snap_transport_close(transport);
    close(fd);
    unlink(path);
}

#define NB_CHANNELS 20

/* A directory with a name for a socket in it. */
typedef struct UnixFixture {
    char *dir;
    char *path;
    char *uri;
} UnixFixture;

static void unix_set_up(UnixFixture *f, gconstpointer data)
{
    f->dir = g_dir_make_tmp("test-snap-transport-XXXXXX", NULL);
    g_assert_nonnull(f->dir);
    f->path = g_build_filename(f->dir, "sock,et", NULL);
    f->uri = g_strdup_printf("unix:%s", f->path);
}

static void unix_tear_down(UnixFixture *f, gconstpointer data)
{
    unlink(f->path);
    g_assert_cmpint(g_rmdir(f->dir), ==, 0);
    g_free(f->dir);
    g_free(f->path);
    g_free(f->uri);
}

static int unix_socket(const UnixFixture *f, struct sockaddr_un *addr)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    *addr = (struct sockaddr_un) { .sun_family = AF_UNIX };
    pstrcpy(addr->sun_path, sizeof(addr->sun_path), f->path);
    return fd;
}

static int unix_connect(const UnixFixture *f)
{
    struct sockaddr_un addr;
    int fd = unix_socket(f, &addr);

    g_assert_cmpint(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), ==,
                    0);
    return fd;
}

static int unix_listen(const UnixFixture *f)
{
    struct sockaddr_un addr;
    int fd = unix_socket(f, &addr);

    g_assert_cmpint(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(listen(fd, NB_CHANNELS), ==, 0);
    return fd;
}

/* Connects as soon as somebody listens; returns the descriptor. */
static void *connect_thread(void *opaque)
{
    const UnixFixture *f = opaque;
    struct sockaddr_un addr;
    int fd = unix_socket(f, &addr);
    struct stat st;

    while (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
        g_usleep(1000);
    }
    if (lstat(f->path, &st) == 0) {
        g_assert_cmpuint(st.st_mode & 077, ==, 0);
    }
    return GINT_TO_POINTER(fd);
}

static SnapTransport *open_listener(UnixFixture *f, const char *uri,
                                    bool listen, int *fd)
{
    GThread *thread = g_thread_new("connect", connect_thread, f);
    SnapTransport *transport = open_connected(uri, listen);

    *fd = GPOINTER_TO_INT(g_thread_join(thread));
    return transport;
}

static void assert_no_path(const UnixFixture *f)
{
    g_assert_cmpint(access(f->path, F_OK), ==, -1);
}

static void check_listen(UnixFixture *f, const char *uri, bool listen)
{
    int fd;
    SnapTransport *transport = open_listener(f, uri, listen, &fd);

    g_assert_cmpstr(snap_transport_name(transport), ==, f->uri);
    /* There may be more connections. */
    g_assert_cmpint(access(f->path, F_OK), ==, 0);
    assert_reads(transport, fd);
    assert_writes(transport, fd);
    snap_transport_close(transport);
    assert_no_path(f);
    close(fd);
}

static void test_unix_listen(UnixFixture *f, gconstpointer data)
{
    mode_t mask = umask(0);

    check_listen(f, f->uri, true);
    g_assert_cmpuint(umask(mask), ==, 0);
}

static void test_unix_listen_option(UnixFixture *f, gconstpointer data)
{
    g_autofree char *uri = g_strdup_printf("%s,server=on", f->uri);

    check_listen(f, uri, false);
}

static void test_unix_stale_socket(UnixFixture *f, gconstpointer data)
{
    close(unix_listen(f));
    check_listen(f, f->uri, true);
}

static void test_unix_listen_keeps_file(UnixFixture *f, gconstpointer data)
{
    g_autofree char *uri = g_strdup_printf("%s,server=on", f->uri);

    g_assert_true(g_file_set_contents(f->path, "precious", -1, NULL));
    assert_refused(uri, "is not a socket");
    g_assert_cmpint(access(f->path, F_OK), ==, 0);
}

static void check_connect(UnixFixture *f, const char *uri, bool listen)
{
    int listener = unix_listen(f);
    SnapTransport *transport = open_connected(uri, listen);
    int fd = accept(listener, NULL, NULL);

    assert_reads(transport, fd);
    assert_writes(transport, fd);
    snap_transport_close(transport);
    close(fd);
    close(listener);
}

static void test_unix_connect(UnixFixture *f, gconstpointer data)
{
    check_connect(f, f->uri, false);
}

static void test_unix_connect_option(UnixFixture *f, gconstpointer data)
{
    g_autofree char *uri = g_strdup_printf("%s,server=off", f->uri);

    check_connect(f, uri, true);
}

static void test_unix_nobody_listens(UnixFixture *f, gconstpointer data)
{
    assert_refused(f->uri, "Failed to connect");
}

/* A second connection, whose peer is the second to be accepted. */
typedef struct Preempt {
    int listener;
    SnapTransport *transport;
    QEMUFile *file;
    int main_fd;
    int preempt_fd;
} Preempt;

static void preempt_begin(Preempt *u, UnixFixture *f)
{
    u->listener = unix_listen(f);
    u->transport = open_connected(f->uri, false);
    u->file = snap_transport_open_preempt(u->transport, &error_abort);
    g_assert_nonnull(u->file);
    u->main_fd = accept(u->listener, NULL, NULL);
    u->preempt_fd = accept(u->listener, NULL, NULL);
}

static void preempt_end(Preempt *u)
{
    snap_transport_close(u->transport);
    close(u->main_fd);
    close(u->preempt_fd);
    close(u->listener);
}

static void assert_nothing_to_read(int fd)
{
    char c;

    g_assert_cmpint(recv(fd, &c, 1, MSG_DONTWAIT), ==, -1);
    g_assert_cmpint(errno, ==, EAGAIN);
}

static void test_preempt(UnixFixture *f, gconstpointer data)
{
    Exchange x = { .value = 0x11223344 };
    Preempt u;

    preempt_begin(&u, f);
    x.output = u.file;
    start(&x, co_write);
    finish(&x);
    g_assert_cmphex(read_be32(u.preempt_fd), ==, 0x11223344);
    assert_nothing_to_read(u.main_fd);
    assert_writes(u.transport, u.main_fd);
    assert_reads(u.transport, u.main_fd);
    assert_nothing_to_read(u.preempt_fd);
    preempt_end(&u);
}

static void coroutine_fn co_write_much(void *opaque)
{
    Exchange *x = opaque;
    g_autofree uint8_t *data = g_malloc0(4 * MiB);

    qemu_put_buffer(x->output, data, 4 * MiB);
    g_assert_cmpint(qemu_fflush(x->output), ==, 0);
    x->done = true;
}

/* A peer that does not read is waited for in the coroutine only. */
static void test_preempt_waits_in_coroutine(UnixFixture *f, gconstpointer data)
{
    g_autofree char *buf = g_malloc(64 * KiB);
    Exchange x = { };
    size_t left = 4 * MiB;
    Preempt u;

    preempt_begin(&u, f);
    x.output = u.file;
    start(&x, co_write_much);
    g_assert_false(x.done);
    assert_writes(u.transport, u.main_fd);
    g_assert_false(x.done);
    while (left) {
        ssize_t ret = recv(u.preempt_fd, buf, 64 * KiB, MSG_DONTWAIT);

        left -= MAX(ret, 0);
        aio_poll(qemu_get_aio_context(), false);
    }
    finish(&x);
    preempt_end(&u);
}

/* The peer sees the end of both connections, and nothing before it. */
static void test_preempt_close(UnixFixture *f, gconstpointer data)
{
    Preempt u;
    char c;

    preempt_begin(&u, f);
    qemu_put_be32(u.file, 1);
    snap_transport_close(u.transport);
    u.transport = NULL;
    g_assert_cmpint(read(u.preempt_fd, &c, 1), ==, 0);
    g_assert_cmpint(read(u.main_fd, &c, 1), ==, 0);
    preempt_end(&u);
}

static void assert_no_preempt(SnapTransport *transport)
{
    Error *err = NULL;

    g_assert_null(snap_transport_open_preempt(transport, &err));
    g_assert_nonnull(err);
    error_free(err);
}

static void test_preempt_nobody_listens(UnixFixture *f, gconstpointer data)
{
    int listener = unix_listen(f);
    SnapTransport *transport = open_connected(f->uri, false);
    int fd = accept(listener, NULL, NULL);

    close(listener);
    assert_no_preempt(transport);
    assert_writes(transport, fd);
    snap_transport_close(transport);
    close(fd);
}

/* Who listened has no address to connect to. */
static void test_preempt_of_listener(UnixFixture *f, gconstpointer data)
{
    int fd;
    SnapTransport *transport = open_listener(f, f->uri, true, &fd);

    assert_no_preempt(transport);
    assert_writes(transport, fd);
    snap_transport_close(transport);
    close(fd);
}

static void test_preempt_of_descriptor(void)
{
    SnapTransport *transport;
    int fds[2];

    make_socket_pair(fds);
    transport = open_fd(fds[0]);
    assert_no_preempt(transport);
    assert_writes(transport, fds[1]);
    snap_transport_close(transport);
    close_both(fds);

    make_pipe(fds);
    transport = open_fd(fds[1]);
    assert_no_preempt(transport);
    snap_transport_close(transport);
    close_both(fds);
}

static void check_no_preempt(SnapTransport *transport, int peer)
{
    assert_no_preempt(transport);
}

static void test_preempt_of_stdio(void)
{
    int fds[2];

    make_socket_pair(fds);
    with_stdio(fds[0], fds[0], check_no_preempt, fds[1]);
    close_both(fds);
}

/* A socket that listens, and what is connected to it */
typedef struct Listener {
    SnapTransport *transport;
    int main_fd;
    int fds[NB_CHANNELS];
    unsigned nb_fds;
} Listener;

static void listener_begin(Listener *l, UnixFixture *f)
{
    l->nb_fds = 0;
    l->transport = open_listener(f, f->uri, true, &l->main_fd);
}

static void listener_end(Listener *l)
{
    snap_transport_close(l->transport);
    close(l->main_fd);
    for (unsigned i = 0; i < l->nb_fds; i++) {
        close(l->fds[i]);
    }
}

/* Connect one more channel, which is silent. */
static int add_connection(Listener *l, UnixFixture *f)
{
    l->fds[l->nb_fds] = unix_connect(f);
    return l->fds[l->nb_fds++];
}

static GPtrArray *accept_channels(SnapTransport *transport)
{
    return snap_transport_accept_channels(transport, &error_abort);
}

static uint32_t take_be32(QIOChannel *ioc)
{
    uint32_t value;

    g_assert_cmpint(qio_channel_read(ioc, (char *)&value, sizeof(value),
                                     &error_abort), ==, sizeof(value));
    return be32_to_cpu(value);
}

/* That reading does not wait where there is nothing */
static void assert_would_block(QIOChannel *ioc)
{
    char c;

    g_assert_cmpint(qio_channel_read(ioc, &c, 1, &error_abort), ==,
                    QIO_CHANNEL_ERR_BLOCK);
}

static void assert_at_end(int fd)
{
    char c;

    g_assert_cmpint(read(fd, &c, 1), ==, 0);
}

static void test_no_channels(UnixFixture *f, gconstpointer data)
{
    Listener l;

    listener_begin(&l, f);
    g_assert_cmpuint(accept_channels(l.transport)->len, ==, 0);
    assert_no_path(f);
    assert_reads(l.transport, l.main_fd);
    assert_writes(l.transport, l.main_fd);
    listener_end(&l);
}

/* In the order in which they were connected */
static void test_channels(UnixFixture *f, gconstpointer data)
{
    GPtrArray *channels;
    Listener l;

    listener_begin(&l, f);
    for (unsigned i = 0; i < NB_CHANNELS; i++) {
        write_be32(add_connection(&l, f), i);
    }
    channels = accept_channels(l.transport);
    assert_no_path(f);
    g_assert_cmpuint(channels->len, ==, NB_CHANNELS);
    for (unsigned i = 0; i < NB_CHANNELS; i++) {
        QIOChannel *ioc = g_ptr_array_index(channels, i);

        g_assert_cmpuint(take_be32(ioc), ==, i);
        assert_would_block(ioc);
        write_be32(l.fds[i], i + 1);
        g_assert_cmpuint(take_be32(ioc), ==, i + 1);
    }
    assert_reads(l.transport, l.main_fd);
    listener_end(&l);
}

/* Who says nothing is sent away, and it is no matter how many do. */
static void test_channels_silent(UnixFixture *f, gconstpointer data)
{
    GPtrArray *channels;
    Listener l;

    listener_begin(&l, f);
    for (unsigned i = 0; i < NB_CHANNELS; i++) {
        int fd = add_connection(&l, f);

        if (i % 7 == 3) {
            write_be32(fd, i);
        }
    }
    channels = accept_channels(l.transport);
    g_assert_cmpuint(channels->len, ==, 3);
    for (unsigned i = 0; i < channels->len; i++) {
        g_assert_cmpuint(take_be32(g_ptr_array_index(channels, i)), ==,
                         7 * i + 3);
    }
    for (unsigned i = 0; i < NB_CHANNELS; i++) {
        if (i % 7 != 3) {
            assert_at_end(l.fds[i]);
        }
    }
    listener_end(&l);
}

/* Such as a probe whether somebody listens */
static void test_channels_closed(UnixFixture *f, gconstpointer data)
{
    GPtrArray *channels;
    Listener l;

    listener_begin(&l, f);
    close(unix_connect(f));
    write_be32(add_connection(&l, f), 1);
    close(unix_connect(f));
    channels = accept_channels(l.transport);
    g_assert_cmpuint(channels->len, ==, 1);
    listener_end(&l);
}

/* Some that were not accepted, and the path, go when the transport does. */
static void check_not_accepted(UnixFixture *f, bool abandon)
{
    Listener l;
    char c;

    listener_begin(&l, f);
    write_be32(add_connection(&l, f), 1);
    add_connection(&l, f);
    if (abandon) {
        snap_transport_abandon(l.transport);
        assert_no_path(f);
    }
    snap_transport_close(l.transport);
    l.transport = NULL;
    assert_no_path(f);
    g_assert_cmpint(read(l.fds[0], &c, 1), <=, 0);
    g_assert_cmpint(read(l.fds[1], &c, 1), <=, 0);
    listener_end(&l);
}

static void test_channels_not_accepted(UnixFixture *f, gconstpointer data)
{
    check_not_accepted(f, false);
    check_not_accepted(f, true);
}

/* The peers see the end of all channels. */
static void test_channels_close(UnixFixture *f, gconstpointer data)
{
    Listener l;
    char c;

    listener_begin(&l, f);
    for (unsigned i = 0; i < 3; i++) {
        write_be32(add_connection(&l, f), i);
    }
    accept_channels(l.transport);
    snap_transport_close(l.transport);
    l.transport = NULL;
    for (unsigned i = 0; i < 3; i++) {
        g_assert_cmpint(read(l.fds[i], &c, 1), <=, 0);
    }
    listener_end(&l);
}

/* Only what listens has further ones. */
static void test_channels_of_connection(UnixFixture *f, gconstpointer data)
{
    int listener = unix_listen(f);
    SnapTransport *transport = open_connected(f->uri, false);

    g_assert_cmpuint(accept_channels(transport)->len, ==, 0);
    g_assert_cmpint(access(f->path, F_OK), ==, 0);
    snap_transport_close(transport);
    g_assert_cmpint(access(f->path, F_OK), ==, 0);
    close(listener);
}

static void check_no_channels(SnapTransport *transport, int peer)
{
    Error *err = NULL;

    g_assert_cmpuint(accept_channels(transport)->len, ==, 0);
    g_assert_null(snap_transport_open_channels(transport, 1, &err));
    g_assert_nonnull(strstr(error_get_pretty(err), "--uri=unix:PATH"));
    error_free(err);
    assert_reads(transport, peer);
}

static void test_channels_of_descriptor(void)
{
    SnapTransport *transport;
    int fds[2];

    make_socket_pair(fds);
    transport = open_fd(fds[0]);
    check_no_channels(transport, fds[1]);
    snap_transport_close(transport);
    with_stdio(fds[0], fds[0], check_no_channels, fds[1]);
    close_both(fds);
}

static void test_channels_of_listener(UnixFixture *f, gconstpointer data)
{
    Listener l;

    listener_begin(&l, f);
    check_no_channels(l.transport, l.main_fd);
    listener_end(&l);
}

static void test_open_channels(UnixFixture *f, gconstpointer data)
{
    int listener = unix_listen(f);
    SnapTransport *transport = open_connected(f->uri, false);
    int main_fd = accept(listener, NULL, NULL);
    GPtrArray *channels = snap_transport_open_channels(transport, NB_CHANNELS,
                                                       &error_abort);

    g_assert_cmpuint(channels->len, ==, NB_CHANNELS);
    for (unsigned i = 0; i < NB_CHANNELS; i++) {
        QIOChannel *ioc = g_ptr_array_index(channels, i);
        uint32_t value = cpu_to_be32(i);
        int fd = accept(listener, NULL, NULL);

        g_assert_cmpint(qio_channel_write_all(ioc, (char *)&value,
                                              sizeof(value), &error_abort),
                        ==, 0);
        g_assert_cmpuint(read_be32(fd), ==, i);
        assert_would_block(ioc);
        close(fd);
    }
    assert_nothing_to_read(main_fd);
    assert_writes(transport, main_fd);
    snap_transport_close(transport);
    assert_at_end(main_fd);
    close(main_fd);
    close(listener);
}

static void test_open_no_channels(UnixFixture *f, gconstpointer data)
{
    int listener = unix_listen(f);
    SnapTransport *transport = open_connected(f->uri, false);

    g_assert_cmpuint(snap_transport_open_channels(transport, 0,
                                                  &error_abort)->len, ==, 0);
    snap_transport_close(transport);
    close(listener);
}

static void test_open_channels_nobody(UnixFixture *f, gconstpointer data)
{
    int listener = unix_listen(f);
    SnapTransport *transport = open_connected(f->uri, false);
    int fd = accept(listener, NULL, NULL);
    Error *err = NULL;

    close(listener);
    g_assert_null(snap_transport_open_channels(transport, 2, &err));
    g_assert_nonnull(err);
    error_free(err);
    assert_writes(transport, fd);
    snap_transport_close(transport);
    close(fd);
}

static void test_bad_uri(void)
{
    assert_refused("tcp:localhost:1", "Unknown channel");
    assert_refused("", "Unknown channel");
    assert_refused("unix:", "The path is empty");
    assert_refused("unix:,server=on", "The path is empty");
    assert_refused("unix:/nowhere,server=maybe", "server");
}

static void test_bad_descriptor(void)
{
    assert_refused("fd:", "number");
    assert_refused("fd:-1", "number");
    assert_refused("fd: 0", "number");
    assert_refused("fd:1x", "number");
    assert_refused("fd:99999999999999999999", "number");
    assert_refused("fd:2147483647", "No such descriptor");
}

static void check_socket_refused(int type, bool listening)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    g_autofree char *uri = fd_uri(fd);

    if (listening) {
        /* only the family: Linux picks an abstract name */
        g_assert_cmpint(bind(fd, (struct sockaddr *)&addr,
                             sizeof(addr.sun_family)), ==, 0);
        g_assert_cmpint(listen(fd, 1), ==, 0);
    }
    assert_refused(uri, "Not a connected stream socket");
    close(fd);
}

static void test_descriptor_listens(void)
{
    check_socket_refused(SOCK_STREAM, true);
}

static void test_descriptor_datagram(void)
{
    check_socket_refused(SOCK_DGRAM, false);
}

static void test_descriptor_directory(void)
{
    int fd = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    g_autofree char *uri = fd_uri(fd);

    assert_refused(uri, "no socket, pipe or file");
    close(fd);
}

/* --- cancelled --- */

/* A coroutine that reads, or writes until it cannot any more */
typedef struct Waiter {
    SnapTransport *transport;
    bool done;
    int ret;
} Waiter;

static void coroutine_fn co_read_error(void *opaque)
{
    Waiter *w = opaque;
    SnapInput *input = snap_transport_input(w->transport);

    snap_input_get_byte(input);
    w->ret = snap_input_error(input, NULL);
    g_assert_false(snap_input_ended(input));
    w->done = true;
}

static void coroutine_fn co_write_error(void *opaque)
{
    g_autofree uint8_t *data = g_malloc0(1 * MiB);
    Waiter *w = opaque;
    QEMUFile *output = snap_transport_output(w->transport);

    do {
        qemu_put_buffer(output, data, 1 * MiB);
        w->ret = qemu_fflush(output);
    } while (!w->ret);
    w->done = true;
}

/* The peer of @transport neither reads nor writes. */
static void check_cancel(SnapTransport *transport, bool reads, bool writes)
{
    Waiter reader = { .transport = transport, .done = !reads };
    Waiter writer = { .transport = transport, .done = !writes };

    for (unsigned i = 0; i < 2; i++) {
        if (reads) {
            aio_co_enter(qemu_get_aio_context(),
                         qemu_coroutine_create(co_read_error, &reader));
        }
        if (writes) {
            aio_co_enter(qemu_get_aio_context(),
                         qemu_coroutine_create(co_write_error, &writer));
        }
        if (i == 0) {
            g_assert_true(reader.done == !reads && writer.done == !writes);
            snap_transport_cancel(transport);
        }
        g_assert_true(reader.done && writer.done);
        g_assert_true(!reads || reader.ret < 0);
        g_assert_true(!writes || writer.ret < 0);
        reader.done = !reads;
        writer.done = !writes;
    }
    snap_transport_close(transport);
}

static void test_cancel_pipe(void)
{
    int fds[2];

    make_pipe(fds);
    check_cancel(open_fd(fds[0]), true, false);
    check_cancel(open_fd(fds[1]), false, true);
    close_both(fds);
}

/* It can be used on: the peer has not noticed. */
static void test_cancel_socket(void)
{
    SnapTransport *transport;
    int fds[2];

    make_socket_pair(fds);
    check_cancel(open_fd(fds[0]), true, true);
    check_cancel(open_fd(fds[0]), true, false);
    transport = open_fd(fds[0]);
    assert_reads(transport, fds[1]);
    snap_transport_close(transport);
    close_both(fds);
}

static void test_cancel_channels(UnixFixture *f, gconstpointer data)
{
    GPtrArray *channels;
    Listener l;
    uint32_t value;

    listener_begin(&l, f);
    write_be32(add_connection(&l, f), 1);
    channels = accept_channels(l.transport);
    g_assert_cmpint(qio_channel_read(g_ptr_array_index(channels, 0),
                                     (char *)&value, sizeof(value),
                                     &error_abort), ==, sizeof(value));
    snap_transport_cancel(l.transport);
    g_assert_cmpint(qio_channel_read(g_ptr_array_index(channels, 0),
                                     (char *)&value, sizeof(value), NULL),
                    ==, -1);
    listener_end(&l);
}

static const Test tests[] = {
    { "pipe/input-is-read", test_pipe_input },
    { "pipe/output-is-written", test_pipe_output },
    { "pipe/is-waited-for-in-a-coroutine", test_wait_in_coroutine },
    { "size/of-a-pipe-can-be-set-by-its-reader", test_pipe_size },
    { "size/of-a-pipe-can-be-set-by-its-writer", test_pipe_size_output },
    { "size/of-a-busy-pipe-stays", test_pipe_size_busy },
    { "size/of-a-socket-cannot-be-set-for-input", test_pipe_size_socket },
    { "size/of-a-socket-limits-what-is-in-flight", test_socket_size_output },
    { "size/of-a-socket-is-what-the-system-allows", test_socket_size_giant },
    { "size/a-file-has-none", test_file_size_output },
    { "socket/descriptor-has-no-preempt-channel", test_preempt_of_descriptor },
    { "socket/descriptor-has-no-multifd-channels",
      test_channels_of_descriptor },
    { "socket/is-read-and-written", test_socket_both_ways },
    { "socket/is-written-while-a-reader-waits",
      test_socket_write_while_reading },
    { "socket/has-one-input-and-one-output", test_same_file_each_time },
    { "timeout/silence-is-the-end", test_timeout },
    { "nonblock/flag-is-restored", test_nonblock_restored },
    { "nonblock/flag-that-was-set-stays", test_nonblock_kept },
    { "nonblock/flag-is-not-set-before-use", test_nonblock_not_before_use },
    { "close/drops-what-was-not-flushed", test_close_drops_unflushed },
    { "close/leaves-a-descriptor-open", test_descriptor_stays_open },
    { "stdio/may-be-one-socket", test_stdio_same_socket },
    { "stdio/output-that-is-not-writable-is-none",
      test_stdio_output_not_writable },
    { "stdio/has-no-preempt-channel", test_preempt_of_stdio },
    { "cancel/ends-waits-for-a-pipe", test_cancel_pipe },
    { "cancel/ends-waits-for-a-socket", test_cancel_socket },
    { "refused/unknown-uri", test_bad_uri },
    { "refused/bad-descriptor-number", test_bad_descriptor },
    { "refused/descriptor-that-listens", test_descriptor_listens },
    { "refused/descriptor-of-a-datagram-socket", test_descriptor_datagram },
    { "refused/descriptor-of-a-directory", test_descriptor_directory },
};

static const struct {
    const char *path;
    void (*fn)(UnixFixture *f, gconstpointer data);
} unix_tests[] = {
    { "listen/peer-is-accepted-at-a-private-path", test_unix_listen },
    { "listen/option-wins", test_unix_listen_option },
    { "listen/stale-socket-is-replaced", test_unix_stale_socket },
    { "listen/other-file-is-refused", test_unix_listen_keeps_file },
    { "connect/to-who-listens", test_unix_connect },
    { "connect/option-wins", test_unix_connect_option },
    { "connect/to-nobody-is-refused", test_unix_nobody_listens },
    { "preempt/is-a-second-connection", test_preempt },
    { "preempt/is-waited-for-in-a-coroutine", test_preempt_waits_in_coroutine },
    { "preempt/ends-with-the-transport", test_preempt_close },
    { "preempt/fails-if-nobody-listens", test_preempt_nobody_listens },
    { "preempt/fails-for-a-listener", test_preempt_of_listener },
    { "channels/come-in-the-order-of-connections", test_channels },
    { "channels/there-may-be-none", test_no_channels },
    { "channels/silent-ones-are-sent-away", test_channels_silent },
    { "channels/closed-ones-are-left-out", test_channels_closed },
    { "channels/go-with-the-transport-if-not-accepted",
      test_channels_not_accepted },
    { "channels/end-with-the-transport", test_channels_close },
    { "channels/connection-accepts-none", test_channels_of_connection },
    { "channels/listener-opens-none", test_channels_of_listener },
    { "channels/connection-opens-them", test_open_channels },
    { "channels/connection-may-open-none", test_open_no_channels },
    { "channels/opening-fails-if-nobody-listens", test_open_channels_nobody },
    { "cancel/ends-reads-of-channels", test_cancel_channels },
};

int main(int argc, char **argv)
{
    main_loop_tests_init(&argc, &argv);
    ADD_TESTS("/snap/transport/", tests, call_test);
    ADD_FIXTURE_TESTS("/snap/transport/unix/", unix_tests, UnixFixture,
                      unix_set_up, unix_tear_down);
    return g_test_run();
}
