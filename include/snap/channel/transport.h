/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The channel to QEMU: stdin and stdout, a unix socket, or a descriptor
 *
 * The folder channel/ carries bytes from and to QEMU.  A transport opens both
 * directions: it is read through an input, and written through a QEMUFile.
 * backpressure decides how much a pipe may hold, and peer finds out who is at
 * the other end.
 */

#ifndef SNAP_CHANNEL_TRANSPORT_H
#define SNAP_CHANNEL_TRANSPORT_H

#include "io/channel.h"
#include "migration/qemu-file.h"
#include "snap/channel/input.h"
#include "snap/channel/peer.h"
#include "snap/util/interrupt.h"

typedef struct SnapTransport SnapTransport;

/**
 * snap_transport_open: open the channel to QEMU, without waiting for QEMU
 * @uri: NULL for stdin and stdout; "unix:PATH[,server=on|off]"; "fd:N"
 * @listen: what unix: does without ",server=": listen and accept (save), or
 *          connect (load)
 * @interrupt: signals while a connection is waited for; may be NULL.  If they
 *             end the process, snap_transport_abandon() is called
 *
 * Descriptors that were given stay open and owned by the caller: the transport
 * works on duplicates.  A direction is made non-blocking when first requested,
 * and snap_transport_close() restores the flag, since inherited descriptors
 * share it with their other holders (stdout may be the same pipe as stderr).
 *
 * Context: main loop, outside coroutines, with SIGPIPE ignored.
 *
 * Returns: the transport, NULL with @errp set
 */
SnapTransport *snap_transport_open(const char *uri, bool listen,
                                   SnapInterrupt *interrupt, Error **errp);

/**
 * snap_transport_connect: connect or accept, if the channel is a unix socket
 *
 * A listening socket is reachable by its owner only.  Its path appears when
 * connections are accepted, so that a peer that waits for it can connect; it is
 * removed by snap_transport_accept_channels(), or at the end.  Waits for the
 * connection.  Call once, before all that follows.
 *
 * Context: main loop, outside coroutines.
 *
 * Returns: false with @errp set
 */
bool snap_transport_connect(SnapTransport *transport, Error **errp);

/**
 * snap_transport_connect_path: the path that snap_transport_connect() uses
 *
 * Returns: its path; NULL if it connects to nothing
 */
const char *snap_transport_connect_path(const SnapTransport *transport);

/* Never waits: output that was not flushed is dropped. */
void snap_transport_close(SnapTransport *transport);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapTransport, snap_transport_close)

/**
 * snap_transport_abandon: remove the socket's path and restore the descriptors'
 * flags, no more
 *
 * For a process that ends, possibly while a coroutine or another thread waits
 * for the channel.  Only snap_transport_close() may follow.
 */
void snap_transport_abandon(SnapTransport *transport);

/* What to call the other end in messages, such as "stdin" or "unix:PATH". */
const char *snap_transport_name(const SnapTransport *transport);

/**
 * snap_transport_input, snap_transport_output: the two directions
 *
 * The same at each call, owned by the transport.
 *
 * Returns: NULL if the channel has no such direction (a descriptor opened
 * for one direction only, or stdin or stdout that is closed or a terminal)
 */
SnapInput *snap_transport_input(SnapTransport *transport);
QEMUFile *snap_transport_output(SnapTransport *transport);

/**
 * snap_transport_put_last_bytes: write a few bytes past the QEMUFile
 *
 * For a process that ends, as snap_transport_abandon().  Does nothing if there
 * is no output, or no room for them within 100 ms.
 */
void snap_transport_put_last_bytes(SnapTransport *transport, const void *data,
                                   size_t length);

/**
 * snap_transport_find_peer: find the process at the other end
 * @in_postcopy, @peer: see snap_peer_find()
 *
 * If the two directions lead to different processes, it is the one that input
 * comes from.
 *
 * Returns: true; false with @errp set, to be read after "because"
 */
bool snap_transport_find_peer(const SnapTransport *transport, bool in_postcopy,
                              SnapPeer *peer, Error **errp);

/* Whether it waits for the end of our output, see snap_peer_waits_for_end(). */
bool snap_transport_peer_waits(const SnapTransport *transport);

/* Whether it is too early to find it, see snap_peer_awaited(). */
bool snap_transport_peer_awaited(const SnapTransport *transport);

/**
 * snap_transport_open_preempt: make a second connection to the same socket
 *
 * For the capability postcopy-preempt: QEMU takes the first connection for the
 * main one (migration/migration.c:migration_ioc_process_incoming).  Call once;
 * waits for the connection.
 *
 * Returns: its output, owned by the transport; NULL with @errp set, also if the
 * transport is not a unix socket that was connected to
 */
QEMUFile *snap_transport_open_preempt(SnapTransport *transport, Error **errp);

/**
 * snap_transport_accept_channels: accept further connections to a listener
 *
 * Takes those that have sent something so far; others are closed.
 * A source with multifd makes all of them, and begins to send on each, before
 * RAM's START section is over (migration/ram.c:ram_save_setup).  Call once;
 * does not wait.
 *
 * Returns: the channels, not blocking, each a QIOChannel; owned by the
 * transport.  NULL with @errp set
 */
GPtrArray *snap_transport_accept_channels(SnapTransport *transport,
                                          Error **errp);

/**
 * snap_transport_open_channels: make further connections to the same socket
 * @nb: how many
 *
 * Call once; waits for the connections.
 *
 * Returns: the channels, not blocking, each a QIOChannel; owned by the
 * transport.  NULL with @errp set, also if the transport is not a unix socket
 * that was connected to
 */
GPtrArray *snap_transport_open_channels(SnapTransport *transport, unsigned nb,
                                        Error **errp);

/**
 * snap_transport_cancel: let all that reads or writes return an error
 *
 * Now and from now on, in both directions and on all channels.  The peer does
 * not notice until snap_transport_close().
 *
 * Context: main loop; also in coroutines.
 */
void snap_transport_cancel(SnapTransport *transport);

/*
 * Shut down the further channels, or one direction of the main one: readers
 * find the end, writers get an error.
 */
void snap_transport_shutdown_channels(SnapTransport *transport);
void snap_transport_shutdown_input(SnapTransport *transport);
void snap_transport_shutdown_output(SnapTransport *transport);

/**
 * snap_transport_resize_input, snap_transport_resize_output: request another
 * capacity of a pipe; for an output that is a socket, of what may be in flight
 * @bytes: capacity
 *
 * Returns: the new capacity in bytes, which may be more; -EBUSY if the pipe
 * holds more than @bytes at the moment; -EPERM if the user is not allowed
 * that much; -ENOTSUP if that direction is neither
 */
int snap_transport_resize_input(SnapTransport *transport, int bytes);
int snap_transport_resize_output(SnapTransport *transport, int bytes);

/* Capacity in bytes of the input, 0 if that is not a pipe. */
int snap_transport_input_size(const SnapTransport *transport);

#endif /* SNAP_CHANNEL_TRANSPORT_H */
