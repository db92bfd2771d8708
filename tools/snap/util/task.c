/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Running a coroutine to its end from outside of coroutines
 */

#include "qemu/osdep.h"
#include "block/aio.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "snap/util/task.h"

typedef struct Task {
    SnapTaskFunc *func;
    void *opaque;
    int ret;
    Error *err;
    bool done;
} Task;

static void coroutine_fn task_entry(void *opaque)
{
    Task *task = opaque;

    task->ret = task->func(task->opaque, &task->err);
    if (task->ret < 0 && !task->err) {
        error_setg_errno(&task->err, -task->ret, "Input or output failed");
    }
    task->done = true;
}

void coroutine_fn snap_task_pause(void)
{
    aio_co_schedule(qemu_get_current_aio_context(), qemu_coroutine_self());
    qemu_coroutine_yield();
}

int snap_task_run(SnapTaskFunc *func, void *opaque, const bool *interrupted,
                  Error **errp)
{
    /* Not on the stack: an interrupted coroutine still refers to it. */
    Task *task = g_new(Task, 1);
    int ret;

    *task = (Task) { .func = func, .opaque = opaque };
    qemu_coroutine_enter(qemu_coroutine_create(task_entry, task));
    while (!task->done) {
        if (interrupted && *interrupted) {
            error_setg(errp, "Interrupted");
            return -EINTR;
        }
        aio_poll(qemu_get_aio_context(), true);
    }
    ret = task->ret;
    error_propagate(errp, task->err);
    g_free(task);
    return ret;
}
