/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Running a coroutine to its end from outside of coroutines
 *
 * The folder util/ has what knows nothing of snapshots: coroutines (task),
 * signals (interrupt), limits, progress on stderr, histograms.
 */

#ifndef SNAP_UTIL_TASK_H
#define SNAP_UTIL_TASK_H

#include "qemu/coroutine.h"

/* What runs in the coroutine. Returns: 0 or -errno with @errp set */
typedef int coroutine_fn SnapTaskFunc(void *opaque, Error **errp);

/**
 * snap_task_run: run @func in a coroutine, and the main AioContext until it
 * has returned
 * @interrupted: read between events; may be NULL. Once it is true the
 *               coroutine is left where it is, so that the process can do
 *               little but end
 *
 * Returns: what @func returned, or -EINTR with @errp set
 */
int snap_task_run(SnapTaskFunc *func, void *opaque, const bool *interrupted,
                  Error **errp);

/* Let the main AioContext handle what is pending, from within a coroutine. */
void coroutine_fn snap_task_pause(void);

#endif /* SNAP_UTIL_TASK_H */
