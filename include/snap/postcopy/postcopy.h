/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Loading by postcopy: the guest runs first, its RAM follows
 *
 * The folder postcopy/ has all of that.  The sequence of commands is here.
 * Pages are sent by the pusher, the most urgent ones first: those that the
 * destination requests are read by demand; what comes next of all others is
 * decided by a push-plan, and read ahead by prefetch.  What is requested may be
 * recorded, and pushed first the next time (recording).  Whoever sends a page
 * marks it as sent in the page-map first, so that no page is sent twice.
 */

#ifndef SNAP_POSTCOPY_POSTCOPY_H
#define SNAP_POSTCOPY_POSTCOPY_H

#include "snap/postcopy/pusher.h"
#include "snap/transfer/send.h"
#include "snap/util/progress.h"

typedef struct SnapPostcopy SnapPostcopy;

/**
 * SnapPostcopyOptions: how to load by postcopy
 * @percent: of the pages with data, what is sent before the guest runs
 * @preempt: send requested pages on a second connection
 * @resume: go on with a load that was broken off
 * @resumed: UUID of the snapshot that it was of; null if that was not said
 * @load_records: where to note what is loaded, see snap_load_record_store();
 *                NULL: note nothing, and resume any load
 * @host_pages: see snap_host_pages_init()
 * @working_set: file that a working set is read from, if it exists, and
 *               recorded to; may be NULL
 * @record: record the working set
 * @push: how to push; without the working set
 */
typedef struct SnapPostcopyOptions {
    unsigned percent;
    bool preempt;
    bool resume;
    QemuUUID resumed;
    const char *load_records;
    char *const *host_pages;
    const char *working_set;
    bool record;
    SnapPusherOptions push;
} SnapPostcopyOptions;

/**
 * snap_postcopy_new: prepare a load
 * @sender, @transport, @options, @progress: not owned
 *
 * Returns: NULL with @errp set on failure
 */
SnapPostcopy *snap_postcopy_new(SnapSender *sender, SnapTransport *transport,
                                const SnapPostcopyOptions *options,
                                SnapProgress *progress, Error **errp);
void snap_postcopy_free(SnapPostcopy *postcopy);

/**
 * snap_postcopy_run: load, up to the destination's word that it has all
 *
 * Connects the preempt channel first, and verifies that a load that is resumed
 * is the one that broke off.  Call once.  Nothing is in flight afterwards, and
 * the transport is cancelled.
 *
 * Returns: 0 on success, -errno with @errp set
 */
int coroutine_fn snap_postcopy_run(SnapPostcopy *postcopy, Error **errp);

/**
 * snap_postcopy_cancel: let snap_postcopy_run() fail soon
 *
 * The transport has to be cancelled, too.  Call outside coroutines.
 */
void snap_postcopy_cancel(SnapPostcopy *postcopy);

/* Whether the destination's guest has begun to run, so that it must go on. */
bool snap_postcopy_guest_runs(const SnapPostcopy *postcopy);

#endif /* SNAP_POSTCOPY_POSTCOPY_H */
