/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Several coroutines, and the first error of any of them
 *
 * All of it in one AioContext.
 */

#ifndef SNAP_UTIL_TASK_GROUP_H
#define SNAP_UTIL_TASK_GROUP_H

#include "snap/util/task.h"

typedef struct SnapTaskGroup SnapTaskGroup;

/**
 * snap_task_group_new: a group without tasks
 * @on_first_error: called once, when the first task fails: shuts down whatever
 *                  the others wait for, so that they end too; may be NULL
 */
SnapTaskGroup *snap_task_group_new(void (*on_first_error)(void *opaque),
                                   void *opaque);

/* No task may be running. */
void snap_task_group_free(SnapTaskGroup *group);

/**
 * snap_task_group_start: run @func in a coroutine of its own
 * @name: for traces, copied
 *
 * Returns when @func first waits for something.
 */
void coroutine_fn snap_task_group_start(SnapTaskGroup *group, const char *name,
                                        SnapTaskFunc *func, void *opaque);

/* How many tasks were started and have not ended yet. */
unsigned snap_task_group_nb_running(const SnapTaskGroup *group);

/**
 * snap_task_group_status: whether a task has failed
 *
 * Returns: 0; what the first one that failed returned, with a copy of its
 * error in @errp
 */
int snap_task_group_status(const SnapTaskGroup *group, Error **errp);

/**
 * snap_task_group_wait: wait until no task is running
 *
 * Only one coroutine may wait for a group at a time.
 *
 * Returns: see snap_task_group_status()
 */
int coroutine_fn snap_task_group_wait(SnapTaskGroup *group, Error **errp);

/**
 * snap_task_group_wait_until: the same, with a deadline
 * @deadline_ns: QEMU_CLOCK_REALTIME
 *
 * Returns: whether no task is running
 */
bool coroutine_fn snap_task_group_wait_until(SnapTaskGroup *group,
                                             int64_t deadline_ns);

#endif /* SNAP_UTIL_TASK_GROUP_H */
