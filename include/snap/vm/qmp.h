/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A client of QEMU's monitor (QMP)
 *
 * The folder vm/ has a running QEMU as its monitor shows it, and knows nothing
 * of images or streams.
 *
 * All of it in the main AioContext.  Several coroutines may use a client at
 * the same time.
 */

#ifndef SNAP_VM_QMP_H
#define SNAP_VM_QMP_H

#include "qemu/coroutine.h"
#include "qobject/qdict.h"

typedef struct SnapQMP SnapQMP;

/**
 * SnapQMPFilter: which events to wait for
 * @name: of the event; NULL for any
 * @match: whether an event of that name will do; NULL if all will.  Called when
 *         one has come, must not wait.  @data is empty if the event has none
 */
typedef struct SnapQMPFilter {
    const char *name;
    bool (*match)(const QDict *data, void *opaque);
    void *opaque;
} SnapQMPFilter;

/**
 * snap_qmp_new: a client that is not connected yet
 * @address: "unix:PATH", "PATH" or "fd:N", a connected socket whose greeting
 *           nobody has read; that descriptor stays open
 *
 * Returns: to be freed by snap_qmp_free(); NULL with @errp set
 */
SnapQMP *snap_qmp_new(const char *address, Error **errp);

/**
 * snap_qmp_free: close the connection and free @qmp, which may be NULL
 *
 * What waits in other coroutines fails.  The connection is closed when nobody
 * reads from it any more: at the latest in the next turn of the main loop.
 *
 * Context: main loop; also in coroutines.
 */
void snap_qmp_free(SnapQMP *qmp);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapQMP, snap_qmp_free)

/**
 * snap_qmp_connect: connect, read the greeting and negotiate capabilities
 * @timeout_ns: for all of that, in nanoseconds
 *
 * Only once.  Afterwards, all functions fail in the same way if this did.
 *
 * Returns: 0; -errno with @errp set: -ETIMEDOUT if QEMU does not answer, which
 * is usually so because its monitor serves another client; -EPROTO if what is
 * there is not QMP; -ECANCELED after snap_qmp_cancel()
 */
int coroutine_fn snap_qmp_connect(SnapQMP *qmp, int64_t timeout_ns,
                                  Error **errp);

/* Whether QEMU can execute commands out-of-band; after snap_qmp_connect(). */
bool snap_qmp_has_oob(const SnapQMP *qmp);

/**
 * snap_qmp_execute: execute a command and wait for its reply
 * @command: its name
 * @arguments: taken over, also on errors; NULL if there are none
 * @result: set on success, to be unreferenced by the caller; may be NULL
 *
 * Waits until QEMU answers, without limit.  Commands of several coroutines are
 * executed one after the other.
 *
 * Returns: 0; -errno with @errp set: -EREMOTEIO if QEMU has refused the
 * command, in QEMU's words and with the class of its error (error_get_class());
 * -EPROTO if what it sent is not valid; -ECONNRESET if it has closed the
 * connection; -ECANCELED after snap_qmp_cancel(): QEMU may execute the command
 * nevertheless
 */
int coroutine_fn snap_qmp_execute(SnapQMP *qmp, const char *command,
                                  QDict *arguments, QObject **result,
                                  Error **errp);

/**
 * snap_qmp_execute_fd: the same, with a descriptor for QEMU
 * @fd: stays the caller's; QEMU gets a duplicate, for "getfd" and "add-fd"
 */
int coroutine_fn snap_qmp_execute_fd(SnapQMP *qmp, const char *command,
                                     QDict *arguments, int fd,
                                     QObject **result, Error **errp);

/**
 * snap_qmp_execute_oob: the same out-of-band, ahead of commands that QEMU is
 * executing
 *
 * Returns: see snap_qmp_execute(); -ENOTSUP unless snap_qmp_has_oob()
 */
int coroutine_fn snap_qmp_execute_oob(SnapQMP *qmp, const char *command,
                                      QDict *arguments, QObject **result,
                                      Error **errp);

/**
 * snap_qmp_wait_event: wait for an event
 * @filter: which one
 * @timeout_ns: in nanoseconds; negative to wait without limit
 * @event: set on success, as QEMU has sent it ("event", "data", "timestamp");
 *         to be unreferenced by the caller; may be NULL
 *
 * Takes the oldest event that nobody has taken.  Of those that nobody waits
 * for, the last SNAP_QMP_MAX_EVENTS are kept (and less if they are large).
 *
 * Returns: 0; -errno with @errp set: -ETIMEDOUT; otherwise as
 * snap_qmp_execute().  Events that came before the connection ended can still
 * be taken.
 */
int coroutine_fn snap_qmp_wait_event(SnapQMP *qmp, const SnapQMPFilter *filter,
                                     int64_t timeout_ns, QDict **event,
                                     Error **errp);
#define SNAP_QMP_MAX_EVENTS 1024

/* Drop the events that nobody has taken, before a command that causes some. */
void snap_qmp_discard_events(SnapQMP *qmp);

/**
 * snap_qmp_cancel: fail all that waits with -ECANCELED, now and from now on
 *
 * QEMU does not notice: it goes on with the commands that it has got.  Those
 * that wait return before this does.
 *
 * Context: main loop; also in coroutines.
 */
void snap_qmp_cancel(SnapQMP *qmp);

/**
 * snap_qmp_reset_cancel: undo snap_qmp_cancel(), so that commands can be
 * executed which put things right
 *
 * Late replies to commands that were cancelled are ignored.  Only a command
 * that was cancelled when a part of it had been sent makes all that follow
 * fail.
 */
void snap_qmp_reset_cancel(SnapQMP *qmp);

#endif /* SNAP_VM_QMP_H */
