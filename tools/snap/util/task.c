/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Running a coroutine to its end from outside of coroutines
 */

#include "qemu/osdep.h"
#include "block/aio.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "snap/util/task.h"

struct SnapTask {
    /* constant */
    void (*cancel)(void *opaque);
    void *opaque;

    bool running;               /* a coroutine has not returned */
    bool left;                  /* and nobody waits for it any more */
    bool cancelled;
    bool given_up;              /* past @deadline */
    QEMUTimer *deadline;

    /* what to do when a coroutine that was left returns */
    void (*release)(void *opaque);
    void *release_opaque;
};

/* A function that runs; on the heap, as its coroutine may be left. */
typedef struct Call {
    SnapTaskFunc *func;
    void *opaque;
    SnapTask *task;             /* or NULL */
    bool done;
    int ret;
    Error *err;
} Call;

static void task_give_up(void *opaque)
{
    SnapTask *task = opaque;

    task->given_up = true;
}

SnapTask *snap_task_new(void (*cancel)(void *opaque), void *opaque)
{
    SnapTask *task = g_new0(SnapTask, 1);

    task->cancel = cancel;
    task->opaque = opaque;
    task->deadline = aio_timer_new(qemu_get_aio_context(), QEMU_CLOCK_REALTIME,
                                   SCALE_NS, task_give_up, task);
    return task;
}

static void task_release(void *opaque)
{
    SnapTask *task = opaque;

    task->release(task->release_opaque);
    timer_free(task->deadline);
    g_free(task);
}

void snap_task_free(SnapTask *task, void (*release)(void *opaque),
                    void *opaque)
{
    task->release = release;
    task->release_opaque = opaque;
    if (!task->running) {
        task_release(task);
    }
}

void snap_task_cancel(SnapTask *task, int64_t grace_ns)
{
    GLOBAL_STATE_CODE();
    assert(!qemu_in_coroutine());
    task->cancelled = true;
    timer_mod_anticipate_ns(task->deadline,
                            qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + grace_ns);
    task->cancel(task->opaque);
}

bool snap_task_is_left(const SnapTask *task)
{
    return task->left;
}

/* A coroutine that was left has returned. */
static void call_end_left(Call *call)
{
    SnapTask *task = call->task;

    error_free(call->err);
    g_free(call);
    task->left = false;
    if (task->release) {
        aio_bh_schedule_oneshot(qemu_get_aio_context(), task_release, task);
    }
}

static void coroutine_fn task_entry(void *opaque)
{
    Call *call = opaque;

    call->ret = call->func(call->opaque, &call->err);
    assert(call->ret >= 0 || call->err);
    call->done = true;
    if (call->task) {
        call->task->running = false;
        timer_del(call->task->deadline);
    }
    if (call->task && call->task->left) {
        call_end_left(call);
    }
}

static int call_result(Call *call, Error **errp)
{
    if (call->ret < 0 && call->task && call->task->cancelled) {
        error_free(call->err);
        error_setg(errp, "Interrupted");
        return -EINTR;
    }
    error_propagate(errp, call->err);
    return call->ret;
}

int snap_task_run(SnapTaskFunc *func, void *opaque, SnapTask *task,
                  Error **errp)
{
    Call *call = g_new0(Call, 1);
    int ret;

    GLOBAL_STATE_CODE();
    assert(!qemu_in_coroutine());
    call->func = func;
    call->opaque = opaque;
    call->task = task;
    if (task) {
        assert(!task->running);
        task->running = true;
    }
    qemu_coroutine_enter(qemu_coroutine_create(task_entry, call));
    while (!call->done && !(task && task->given_up)) {
        aio_poll(qemu_get_aio_context(), true);
    }
    if (!call->done) {
        task->left = true;
        error_setg(errp, "Interrupted, and storage does not answer");
        return -ETIMEDOUT;
    }
    ret = call_result(call, errp);
    g_free(call);
    return ret;
}

void coroutine_fn snap_co_pause(void)
{
    aio_co_schedule(qemu_get_current_aio_context(), qemu_coroutine_self());
    qemu_coroutine_yield();
}
