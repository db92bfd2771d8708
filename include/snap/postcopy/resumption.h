/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a load by postcopy has to remember for the one that resumes it
 *
 * The destination knows which pages it has, but not of which snapshot.  With
 * pages of another one, its memory would be a mixture of two moments.  What the
 * destination itself is asked is in postcopy.c, postcopy_resume().
 */

#ifndef SNAP_POSTCOPY_RESUMPTION_H
#define SNAP_POSTCOPY_RESUMPTION_H

#include "qemu/coroutine.h"
#include "qemu/uuid.h"
#include "snap/channel/transport.h"

typedef struct SnapResumption SnapResumption;

/**
 * snap_resumption_new: for a load of one snapshot
 * @dir: where load records are, see snap_load_record_store()
 * @transport: not owned
 * @uuid: of the snapshot
 */
SnapResumption *snap_resumption_new(const char *dir, SnapTransport *transport,
                                    const QemuUUID *uuid);
void snap_resumption_free(SnapResumption *resumption);

/**
 * snap_resumption_prepare: remember, before the destination's guest can run
 *
 * The destination has answered, so it takes this load.  If what it is cannot
 * be found out, the user has to remember instead.
 */
void snap_resumption_prepare(SnapResumption *resumption);

/* The same after the guest runs, when it is easier to tell the destination. */
void snap_resumption_confirm(SnapResumption *resumption);

/* Forget all, because the load is complete. */
void snap_resumption_end(SnapResumption *resumption);

/**
 * snap_resumption_check: whether the load that broke off was of our snapshot
 * @wanted: what the user says that it was of; null for nothing
 *
 * Nothing may have been sent yet.  Waits for a connection to be accepted, or
 * for snap_resumption_cancel().
 *
 * Returns: true; false with @errp set
 */
bool coroutine_fn snap_resumption_check(SnapResumption *resumption,
                                        const QemuUUID *wanted, Error **errp);
void snap_resumption_cancel(SnapResumption *resumption);

/**
 * snap_resumption_check_listener: the same before the transport is open
 * @dir, @uuid: see snap_resumption_new()
 * @path: of the socket that is going to be connected to
 * @wanted: see snap_resumption_check()
 *
 * A QEMU 7.2 with postcopy-preempt does not survive a connection that comes to
 * nothing (SIGSEGV).  So none is made if it is known to come to nothing; if
 * that cannot be known, snap_resumption_check() has to decide.
 *
 * Returns: true; false with @errp set
 */
bool snap_resumption_check_listener(const char *dir, const char *path,
                                    const QemuUUID *uuid,
                                    const QemuUUID *wanted, Error **errp);

#endif /* SNAP_POSTCOPY_RESUMPTION_H */
