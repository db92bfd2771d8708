/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Running a coroutine to its end from outside of coroutines
 *
 * The folder util/ has what knows nothing of snapshots: coroutines (task,
 * task-group), signals (interrupt), limits, progress on stderr, histograms.
 */

#ifndef SNAP_UTIL_TASK_H
#define SNAP_UTIL_TASK_H

#include "qemu/coroutine.h"

/* What runs in the coroutine. Returns: 0 or -errno with @errp set */
typedef int coroutine_fn SnapTaskFunc(void *opaque, Error **errp);

/*
 * Something that can be cancelled: its functions run one after the other.
 *
 * A coroutine cannot be ended from outside.  What it waits for has to fail, so
 * that it returns and everything can be freed.  Storage can only be waited
 * for, and may hang; after snap_task_cancel() that is limited, and what the
 * coroutine still refers to is kept until it returns.
 */
typedef struct SnapTask SnapTask;

/**
 * snap_task_new: nothing runs yet
 * @cancel: makes what the coroutine waits for fail, now and later
 */
SnapTask *snap_task_new(void (*cancel)(void *opaque), void *opaque);

/**
 * snap_task_run: run @func in a coroutine, and the main AioContext until it
 * has returned
 * @task: may be NULL for what cannot be cancelled; nothing of it may run
 *
 * A function that fails after snap_task_cancel() was interrupted, whatever its
 * own error.
 *
 * Context: main loop, outside coroutines.
 *
 * Returns: what @func returned; -EINTR with @errp set if it was interrupted;
 * -ETIMEDOUT with @errp set if it still runs, because storage does not answer
 */
int snap_task_run(SnapTaskFunc *func, void *opaque, SnapTask *task,
                  Error **errp);

/**
 * snap_task_cancel: let snap_task_run() return soon
 * @grace_ns: how long to wait for the coroutine, in nanoseconds
 *
 * May be called again for a shorter time.
 *
 * Context: main loop, outside coroutines.
 */
void snap_task_cancel(SnapTask *task, int64_t grace_ns);

/* Whether the coroutine was given up, and has not returned since. */
bool snap_task_is_left(const SnapTask *task);

/**
 * snap_task_free: free @task, and what its coroutine refers to
 * @release: frees the latter: called at once, or in the main loop when a
 *           coroutine that was left has returned
 */
void snap_task_free(SnapTask *task, void (*release)(void *opaque),
                    void *opaque);

/* Let the main AioContext handle what is pending, from within a coroutine. */
void coroutine_fn snap_co_pause(void);

#endif /* SNAP_UTIL_TASK_H */
