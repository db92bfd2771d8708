/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The channel to QEMU: stdin and stdout, a unix socket, or a descriptor
 */

#include "qemu/osdep.h"
#include <poll.h>
#include <sys/un.h>
#include "io/channel-file.h"
#include "io/channel-socket.h"
#include "qapi/error.h"
#include "qapi/qapi-types-sockets.h"
#include "qemu/ctype.h"
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "snap/channel/cancel-channel.h"
#include "snap/channel/transport.h"
#include "snap/trace.h"

/* Connections that may wait until they are accepted. */
#define BACKLOG 256

/* How long the last bytes wait for room, in milliseconds */
#define LAST_BYTES_MS 100

/**
 * SnapDirection: one way through the channel
 * @ioc: NULL if there is no such direction
 * @file, @input: of an output, an input; NULL until first requested
 * @fd: descriptor of @ioc, which owns it
 * @made_nonblocking: O_NONBLOCK was clear before @file or @input
 */
typedef struct SnapDirection {
    QIOChannel *ioc;
    QEMUFile *file;
    SnapInput *input;
    int fd;
    bool made_nonblocking;
} SnapDirection;

struct SnapTransport {
    char *name;
    char *uri;                  /* as given, for messages */
    SnapInterrupt *interrupt;
    char *path;                 /* of the socket, or NULL */
    bool listen;                /* there, instead of connecting */
    QIOChannelSocket *listener; /* until all connections are accepted */
    dev_t socket_dev;           /* what @listener has made */
    ino_t socket_ino;
    SnapDirection input;
    SnapDirection output;
    SnapDirection preempt;
    GPtrArray *channels;        /* further ones, each a QIOChannel */
};

/* Takes over the caller's reference to @ioc, whose descriptor is @fd. */
static void direction_init(SnapDirection *direction, QIOChannel *ioc, int fd,
                           const char *name)
{
    direction->ioc = snap_cancel_channel_new(ioc);
    /* Waiting belongs into the AioContext of the coroutine that waits. */
    qio_channel_set_follow_coroutine_ctx(direction->ioc, true);
    qio_channel_set_name(direction->ioc, name);
    direction->fd = fd;
}

/* Returns: a descriptor that is not one of stdio, -1 with @errp set */
static int duplicate_fd(int fd, Error **errp)
{
    int dup_fd = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);

    if (dup_fd < 0) {
        error_setg_errno(errp, errno, "Could not duplicate descriptor %d", fd);
    }
    return dup_fd;
}

static bool direction_init_dup(SnapDirection *direction, int fd,
                               const char *name, Error **errp)
{
    int dup_fd = duplicate_fd(fd, errp);

    if (dup_fd < 0) {
        return false;
    }
    direction_init(direction, QIO_CHANNEL(qio_channel_file_new_fd(dup_fd)),
                   dup_fd, name);
    return true;
}

/* The flag is shared by all who hold the descriptor: change it late. */
static void direction_set_nonblocking(SnapDirection *direction)
{
    int flags = fcntl(direction->fd, F_GETFL);

    if (flags >= 0 && !(flags & O_NONBLOCK)) {
        direction->made_nonblocking =
            fcntl(direction->fd, F_SETFL, flags | O_NONBLOCK) == 0;
    }
}

static void direction_restore(SnapDirection *direction)
{
    int flags;

    if (direction->made_nonblocking) {
        flags = fcntl(direction->fd, F_GETFL);
        if (flags >= 0) {
            fcntl(direction->fd, F_SETFL, flags & ~O_NONBLOCK);
        }
    }
}

static void direction_destroy(SnapDirection *direction)
{
    if (direction->file) {
        /* Flushing could wait indefinitely: with an error set, nothing is. */
        qemu_file_set_error(direction->file, -ECANCELED);
        qemu_fclose(direction->file);
    }
    snap_input_free(direction->input);
    if (direction->ioc) {
        object_unref(OBJECT(direction->ioc));
    }
}

/* Returns: 0 if @direction is not a pipe */
static int direction_pipe_size(const SnapDirection *direction)
{
    int size = direction->ioc ? fcntl(direction->fd, F_GETPIPE_SZ) : -1;

    return MAX(size, 0);
}

static int direction_resize(const SnapDirection *direction, int bytes)
{
    int size;

    if (!direction_pipe_size(direction)) {
        return -ENOTSUP;
    }
    size = fcntl(direction->fd, F_SETPIPE_SZ, bytes);
    return size < 0 ? -errno : size;
}

/* Of a local socket, only what the sender may have in flight counts. */
static int direction_resize_socket(const SnapDirection *direction, int bytes)
{
    socklen_t size = sizeof(bytes);

    if (!direction->ioc) {
        return -ENOTSUP;
    }
    if (setsockopt(direction->fd, SOL_SOCKET, SO_SNDBUF, &bytes, size) < 0 ||
        getsockopt(direction->fd, SOL_SOCKET, SO_SNDBUF, &bytes, &size) < 0) {
        return errno == ENOTSOCK ? -ENOTSUP : -errno;
    }
    return bytes;
}

/* Whether @fd is something that bytes can be read from or written to. */
static bool is_byte_stream(int fd)
{
    struct stat st;

    if (fstat(fd, &st) < 0) {
        return false;
    }
    return S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode) ||
           S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) ||
           (S_ISCHR(st.st_mode) && !isatty(fd));
}

/* @refused: O_WRONLY to test for reading, O_RDONLY to test for writing */
static bool can_transfer(int fd, int refused)
{
    int flags = fcntl(fd, F_GETFL);

    return flags >= 0 && !(flags & O_PATH) && (flags & O_ACCMODE) != refused &&
           is_byte_stream(fd);
}

/*
 * Two channels even if both descriptors are the same: event handlers are
 * set by descriptor, and each channel has one of its own.
 */
static bool transport_init_files(SnapTransport *transport, int in, int out,
                                 Error **errp)
{
    if (can_transfer(in, O_WRONLY) &&
        !direction_init_dup(&transport->input, in, "snap-input", errp)) {
        return false;
    }
    if (can_transfer(out, O_RDONLY) &&
        !direction_init_dup(&transport->output, out, "snap-output", errp)) {
        return false;
    }
    if (!transport->input.ioc && !transport->output.ioc) {
        error_setg(errp, "There is no socket, pipe or file to read from or "
                   "write to");
        return false;
    }
    return true;
}

/* Returns: a channel for a duplicate of @fd, NULL with @errp set */
static QIOChannelSocket *duplicate_socket(int fd, Error **errp)
{
    QIOChannelSocket *sioc;
    int dup_fd = duplicate_fd(fd, errp);

    if (dup_fd < 0) {
        return NULL;
    }
    sioc = qio_channel_socket_new_fd(dup_fd, errp);
    if (!sioc) {
        close(dup_fd);
    }
    return sioc;
}

/* Takes over the caller's reference to @sioc. */
static bool transport_init_socket(SnapTransport *transport,
                                  QIOChannelSocket *sioc, Error **errp)
{
    QIOChannelSocket *input;

    /* Requests for pages are small and urgent. */
    qio_channel_set_delay(QIO_CHANNEL(sioc), false);
    direction_init(&transport->output, QIO_CHANNEL(sioc), sioc->fd,
                   "snap-socket-output");
    /* See transport_init_files(). */
    input = duplicate_socket(sioc->fd, errp);
    if (!input) {
        return false;
    }
    direction_init(&transport->input, QIO_CHANNEL(input), input->fd,
                   "snap-socket-input");
    return true;
}

static bool check_connected_stream(int fd, Error **errp)
{
    int type = 0, listening = 0;
    socklen_t size = sizeof(int);

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &size) < 0) {
        error_setg_errno(errp, errno, "Could not query the socket");
        return false;
    }
    if (type != SOCK_STREAM || listening) {
        error_setg(errp, "Not a connected stream socket");
        return false;
    }
    return true;
}

static bool transport_init_socket_fd(SnapTransport *transport, int fd,
                                     Error **errp)
{
    QIOChannelSocket *sioc;

    if (!check_connected_stream(fd, errp)) {
        return false;
    }
    sioc = duplicate_socket(fd, errp);
    return sioc && transport_init_socket(transport, sioc, errp);
}

static bool transport_init_fd(SnapTransport *transport, const char *number,
                              Error **errp)
{
    struct stat st;
    int fd;

    /* qemu_strtoi() would take white space and a sign as well. */
    if (!qemu_isdigit(number[0]) || qemu_strtoi(number, NULL, 10, &fd) < 0) {
        error_setg(errp, "Invalid descriptor number '%s'", number);
        return false;
    }
    if (fstat(fd, &st) < 0) {
        error_setg_errno(errp, errno, "No such descriptor");
        return false;
    }
    if (S_ISSOCK(st.st_mode)) {
        return transport_init_socket_fd(transport, fd, errp);
    }
    return transport_init_files(transport, fd, fd, errp);
}

/* A socket that is in the way is replaced, but nothing else is. */
static bool check_stale_socket(const char *path, Error **errp)
{
    struct stat st;

    if (lstat(path, &st) == 0 && !S_ISSOCK(st.st_mode)) {
        error_setg(errp, "The file exists and is not a socket");
        return false;
    }
    return true;
}

/* Where to listen until the socket is ready; @path if its name is too long. */
static char *unready_path(const char *path)
{
    g_autofree char *unready = g_strdup_printf("%s.%d", path, getpid());

    return strlen(unready) < sizeof(((struct sockaddr_un *)NULL)->sun_path) ?
           g_steal_pointer(&unready) : g_strdup(path);
}

/* Returns: NULL with @errp set */
static QIOChannelSocket *listen_private(char *path, Error **errp)
{
    g_autoptr(QIOChannelSocket) listener = qio_channel_socket_new();
    SocketAddress address = {
        .type = SOCKET_ADDRESS_TYPE_UNIX,
        .u.q_unix.path = path,
    };
    mode_t mask = umask(0077);
    int ret = qio_channel_socket_listen_sync(listener, &address, BACKLOG, errp);

    umask(mask);
    return ret < 0 ? NULL : g_steal_pointer(&listener);
}

/* Whoever finds the path can connect: it appears when that is accepted. */
static bool listen_at(SnapTransport *transport, Error **errp)
{
    g_autofree char *unready = unready_path(transport->path);
    struct stat st;

    if (!check_stale_socket(transport->path, errp)) {
        return false;
    }
    transport->listener = listen_private(unready, errp);
    if (!transport->listener) {
        return false;
    }
    if (lstat(unready, &st) < 0 || rename(unready, transport->path) < 0) {
        error_setg_errno(errp, errno, "Could not rename socket '%s'", unready);
        return false;
    }
    transport->socket_dev = st.st_dev;
    transport->socket_ino = st.st_ino;
    trace_snap_transport_listen(transport->path);
    return true;
}

/* Unless somebody else listens there by now */
static void remove_socket(SnapTransport *transport)
{
    struct stat st;

    if (transport->listener && lstat(transport->path, &st) == 0 &&
        st.st_dev == transport->socket_dev &&
        st.st_ino == transport->socket_ino) {
        unlink(transport->path);
    }
}

static void stop_listening(SnapTransport *transport)
{
    if (transport->listener) {
        remove_socket(transport);
        qio_channel_close(QIO_CHANNEL(transport->listener), NULL);
        g_clear_pointer(&transport->listener, object_unref);
    }
}

static QIOChannelSocket *accept_one(SnapTransport *transport, Error **errp)
{
    QIOChannelSocket *sioc;

    snap_interrupt_begin_blocking(transport->interrupt);
    sioc = qio_channel_socket_accept(transport->listener, errp);
    snap_interrupt_end_blocking(transport->interrupt);
    return sioc;
}

static QIOChannelSocket *connect_one(SnapTransport *transport, Error **errp)
{
    g_autoptr(QIOChannelSocket) sioc = qio_channel_socket_new();
    SocketAddress address = {
        .type = SOCKET_ADDRESS_TYPE_UNIX,
        .u.q_unix.path = transport->path,
    };
    int ret;

    /* If the peer's backlog is full, this waits for it to accept. */
    snap_interrupt_begin_blocking(transport->interrupt);
    ret = qio_channel_socket_connect_sync(sioc, &address, errp);
    snap_interrupt_end_blocking(transport->interrupt);
    return ret < 0 ? NULL : g_steal_pointer(&sioc);
}

/*
 * Cut ",server=on|off" off @path.  All other commas belong to the path, as in
 * QEMU's own migration URIs.
 */
static bool parse_server(char *path, bool *server, Error **errp)
{
    char *option = g_strrstr(path, ",server=");

    if (option) {
        if (!qapi_bool_parse("server", strchr(option, '=') + 1, server, errp)) {
            return false;
        }
        *option = '\0';
    }
    if (!path[0]) {
        error_setg(errp, "The path is empty");
        return false;
    }
    return true;
}

static bool transport_init_unix(SnapTransport *transport, const char *address,
                                bool server, Error **errp)
{
    transport->path = g_strdup(address);
    if (!parse_server(transport->path, &server, errp)) {
        return false;
    }
    transport->listen = server;
    g_free(transport->name);
    transport->name = g_strdup_printf("unix:%s", transport->path);
    return true;
}

static bool transport_init(SnapTransport *transport, const char *uri,
                           bool listen, Error **errp)
{
    const char *rest;

    if (!uri) {
        return transport_init_files(transport, STDIN_FILENO, STDOUT_FILENO,
                                    errp);
    }
    if (strstart(uri, "unix:", &rest)) {
        return transport_init_unix(transport, rest, listen, errp);
    }
    if (strstart(uri, "fd:", &rest)) {
        return transport_init_fd(transport, rest, errp);
    }
    error_setg(errp, "Unknown channel, expected unix:PATH[,server=on|off] or "
               "fd:N");
    return false;
}

static void transport_abandon(void *opaque)
{
    snap_transport_abandon(opaque);
}

SnapTransport *snap_transport_open(const char *uri, bool listen,
                                   SnapInterrupt *interrupt, Error **errp)
{
    ERRP_GUARD();
    g_autoptr(SnapTransport) transport = g_new0(SnapTransport, 1);

    GLOBAL_STATE_CODE();
    assert(!qemu_in_coroutine());
    transport->name = g_strdup(uri ?: (listen ? "stdin" : "stdout"));
    transport->uri = g_strdup(uri ?: "stdin and stdout");
    transport->interrupt = interrupt;
    transport->channels = g_ptr_array_new_with_free_func(object_unref);
    if (!transport_init(transport, uri, listen, errp)) {
        error_prepend(errp, "Could not open channel '%s': ", transport->uri);
        return NULL;
    }
    snap_interrupt_add(interrupt, transport_abandon, transport);
    return g_steal_pointer(&transport);
}

bool snap_transport_connect(SnapTransport *transport, Error **errp)
{
    ERRP_GUARD();
    QIOChannelSocket *sioc = NULL;

    GLOBAL_STATE_CODE();
    assert(!qemu_in_coroutine());
    if (transport->path) {
        if (!transport->listen) {
            sioc = connect_one(transport, errp);
        } else if (listen_at(transport, errp)) {
            sioc = accept_one(transport, errp);
        }
        if (!sioc || !transport_init_socket(transport, sioc, errp)) {
            error_prepend(errp, "Could not open channel '%s': ",
                          transport->uri);
            return false;
        }
    }
    trace_snap_transport_open(transport->name, !!transport->input.ioc,
                              !!transport->output.ioc);
    return true;
}

void snap_transport_abandon(SnapTransport *transport)
{
    trace_snap_transport_abandon(transport->name);
    remove_socket(transport);
    direction_restore(&transport->input);
    direction_restore(&transport->output);
}

void snap_transport_close(SnapTransport *transport)
{
    if (!transport) {
        return;
    }
    trace_snap_transport_close(transport->name);
    snap_interrupt_remove(transport->interrupt, transport_abandon, transport);
    stop_listening(transport);
    /* Both while their descriptors, which may share the flag, are there. */
    direction_restore(&transport->input);
    direction_restore(&transport->output);
    direction_destroy(&transport->input);
    direction_destroy(&transport->output);
    direction_destroy(&transport->preempt);
    g_ptr_array_unref(transport->channels);
    g_free(transport->path);
    g_free(transport->uri);
    g_free(transport->name);
    g_free(transport);
}

const char *snap_transport_name(const SnapTransport *transport)
{
    return transport->name;
}

SnapInput *snap_transport_input(SnapTransport *transport)
{
    SnapDirection *input = &transport->input;

    if (input->ioc && !input->input) {
        direction_set_nonblocking(input);
        input->input = snap_input_new(input->ioc);
    }
    return input->input;
}

QEMUFile *snap_transport_output(SnapTransport *transport)
{
    SnapDirection *output = &transport->output;

    if (output->ioc && !output->file) {
        direction_set_nonblocking(output);
        output->file = qemu_file_new_output(output->ioc);
    }
    return output->file;
}

void snap_transport_put_last_bytes(SnapTransport *transport, const void *data,
                                   size_t length)
{
    SnapDirection *output = &transport->output;
    struct pollfd pollfd = { .fd = output->fd, .events = POLLOUT };

    if (output->ioc &&
        RETRY_ON_EINTR(poll(&pollfd, 1, LAST_BYTES_MS)) > 0 &&
        RETRY_ON_EINTR(write(output->fd, data, length)) < 0) {
        trace_snap_transport_no_last_bytes(transport->name, errno);
    }
}

const char *snap_transport_connect_path(const SnapTransport *transport)
{
    return transport->listen ? NULL : transport->path;
}

/* A descriptor that leads to the sender, if there is one */
static int peer_fd(const SnapTransport *transport)
{
    return transport->input.ioc ? transport->input.fd : transport->output.fd;
}

bool snap_transport_find_peer(const SnapTransport *transport, bool in_postcopy,
                              SnapPeer *peer, Error **errp)
{
    return snap_peer_find(peer_fd(transport), in_postcopy, peer, errp);
}

bool snap_transport_peer_waits(const SnapTransport *transport)
{
    return transport->output.ioc &&
           snap_peer_waits_for_end(transport->output.fd);
}

bool snap_transport_peer_awaited(const SnapTransport *transport)
{
    return snap_peer_awaited(peer_fd(transport));
}

QEMUFile *snap_transport_open_preempt(SnapTransport *transport, Error **errp)
{
    SnapDirection *preempt = &transport->preempt;
    QIOChannelSocket *sioc;

    if (!snap_transport_connect_path(transport)) {
        error_setg(errp, "A second channel needs a socket to connect to, "
                   "--uri=unix:PATH");
        return NULL;
    }
    sioc = connect_one(transport, errp);
    if (!sioc) {
        return NULL;
    }
    trace_snap_transport_open_preempt(transport->name);
    direction_init(preempt, QIO_CHANNEL(sioc), sioc->fd, "snap-socket-preempt");
    direction_set_nonblocking(preempt);
    preempt->file = qemu_file_new_output(preempt->ioc);
    return preempt->file;
}

/* Takes over the caller's reference to @sioc. */
static void add_channel(SnapTransport *transport, QIOChannelSocket *sioc)
{
    QIOChannel *ioc = snap_cancel_channel_new(QIO_CHANNEL(sioc));

    qio_channel_set_follow_coroutine_ctx(ioc, true);
    qio_channel_set_blocking(QIO_CHANNEL(sioc), false, NULL);
    qio_channel_set_name(ioc, "snap-socket-channel");
    g_ptr_array_add(transport->channels, ioc);
}

/* Whether a connection waits to be accepted. */
static bool has_connection(QIOChannelSocket *listener)
{
    struct pollfd pollfd = { .fd = listener->fd, .events = POLLIN };

    return RETRY_ON_EINTR(poll(&pollfd, 1, 0)) > 0;
}

static bool has_bytes(QIOChannelSocket *sioc)
{
    uint8_t byte;

    return RETRY_ON_EINTR(recv(sioc->fd, &byte, 1,
                               MSG_PEEK | MSG_DONTWAIT)) > 0;
}

GPtrArray *snap_transport_accept_channels(SnapTransport *transport,
                                          Error **errp)
{
    for (unsigned i = 0; i < BACKLOG && transport->listener &&
                         has_connection(transport->listener); i++) {
        QIOChannelSocket *sioc =
            qio_channel_socket_accept(transport->listener, errp);

        if (!sioc) {
            return NULL;
        }
        if (has_bytes(sioc)) {
            add_channel(transport, sioc);
        } else {
            object_unref(OBJECT(sioc));
        }
    }
    stop_listening(transport);
    trace_snap_transport_channels(transport->name, transport->channels->len);
    return transport->channels;
}

GPtrArray *snap_transport_open_channels(SnapTransport *transport, unsigned nb,
                                        Error **errp)
{
    if (!snap_transport_connect_path(transport)) {
        error_setg(errp, "Several channels need a socket to connect to, "
                   "--uri=unix:PATH");
        return NULL;
    }
    while (nb--) {
        QIOChannelSocket *sioc = connect_one(transport, errp);

        if (!sioc) {
            return NULL;
        }
        add_channel(transport, sioc);
    }
    trace_snap_transport_channels(transport->name, transport->channels->len);
    return transport->channels;
}

static void direction_cancel(SnapDirection *direction)
{
    if (direction->ioc) {
        snap_cancel_channel_cancel(direction->ioc);
    }
}

void snap_transport_cancel(SnapTransport *transport)
{
    trace_snap_transport_cancel(transport->name);
    direction_cancel(&transport->input);
    direction_cancel(&transport->output);
    direction_cancel(&transport->preempt);
    for (unsigned i = 0; i < transport->channels->len; i++) {
        snap_cancel_channel_cancel(g_ptr_array_index(transport->channels, i));
    }
}

void snap_transport_shutdown_channels(SnapTransport *transport)
{
    for (unsigned i = 0; i < transport->channels->len; i++) {
        qio_channel_shutdown(g_ptr_array_index(transport->channels, i),
                             QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
    }
}

void snap_transport_shutdown_input(SnapTransport *transport)
{
    if (transport->input.ioc) {
        qio_channel_shutdown(transport->input.ioc, QIO_CHANNEL_SHUTDOWN_READ,
                             NULL);
    }
}

void snap_transport_shutdown_output(SnapTransport *transport)
{
    if (transport->output.ioc) {
        qio_channel_shutdown(transport->output.ioc,
                             QIO_CHANNEL_SHUTDOWN_WRITE, NULL);
    }
}

int snap_transport_resize_input(SnapTransport *transport, int bytes)
{
    int ret = direction_resize(&transport->input, bytes);

    trace_snap_transport_resize(transport->name, bytes, ret);
    return ret;
}

int snap_transport_resize_output(SnapTransport *transport, int bytes)
{
    int ret = direction_resize(&transport->output, bytes);

    if (ret == -ENOTSUP) {
        ret = direction_resize_socket(&transport->output, bytes);
    }
    trace_snap_transport_resize(transport->name, bytes, ret);
    return ret;
}

int snap_transport_input_size(const SnapTransport *transport)
{
    return direction_pipe_size(&transport->input);
}
