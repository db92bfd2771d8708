/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Saving: from a migration stream to a snapshot image
 *
 * The folder verb/ has what the verbs do, without a command line: each ties the
 * folders below together, and returns errors.  (embed is a single call of
 * image/update.)
 */

#ifndef SNAP_VERB_SAVE_H
#define SNAP_VERB_SAVE_H

#include "snap/channel/transport.h"
#include "snap/storage/target.h"
#include "snap/transfer/stats.h"

/**
 * SnapSaveOptions: what to save and how
 * @max_ram: bytes of RAM that may come, 0 for any number
 * @page_bits: log2 of the target page size for streams that do not say it
 * @progress: show progress on stderr
 * @quiet: do not warn of what may be no fault
 */
typedef struct SnapSaveOptions {
    uint64_t max_ram;
    unsigned page_bits;
    bool progress;
    bool quiet;
} SnapSaveOptions;

typedef struct SnapSave SnapSave;

/**
 * snap_save_new: prepare a save
 * @target: where to, taken over
 * @transport: where from, connected; taken over
 */
SnapSave *snap_save_new(const SnapSaveOptions *options, SnapTarget *target,
                        SnapTransport *transport);

/**
 * snap_save_run: carry out the save
 * @stats: filled in on success
 *
 * Runs the main loop until all is done.  On success the snapshot is complete
 * and on stable storage; on failure nothing is left of it, and a source that
 * waits for an answer has got it, unless the save was interrupted.  Call once.
 *
 * Context: main loop, outside coroutines.
 *
 * Returns: 0 or -errno with @errp set; -ETIMEDOUT if requests are still in
 * flight, see snap_save_interrupt()
 */
int snap_save_run(SnapSave *save, SnapStats *stats, Error **errp);

/**
 * snap_save_free: free the save, and close target and transport
 *
 * At any time outside snap_save_run().  What is in flight keeps what it refers
 * to until it is complete.
 */
void snap_save_free(SnapSave *save);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapSave, snap_save_free)

/**
 * snap_save_interrupt: let snap_save_run() return as soon as possible
 *
 * From the main loop, while it runs.  Storage has some seconds for what is in
 * flight, and a commit as long as it takes; if that is too long, a second call
 * waits for nothing, and -ETIMEDOUT says that something was still in flight.
 * If the snapshot is in place and just the description is to come, the source
 * may have sent that, and believe that it was saved: it is still read as long
 * as it comes, and then the save succeeds.
 */
void snap_save_interrupt(SnapSave *save);

#endif /* SNAP_VERB_SAVE_H */
