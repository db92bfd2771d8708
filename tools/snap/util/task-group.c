/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Several coroutines, and the first error of any of them
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/timer.h"
#include "snap/trace.h"
#include "snap/util/task-group.h"

typedef struct GroupTask {
    SnapTaskGroup *group;
    char *name;
    SnapTaskFunc *func;
    void *opaque;
} GroupTask;

struct SnapTaskGroup {
    /* constant */
    void (*on_first_error)(void *opaque);
    void *opaque;

    unsigned nb_running;
    QemuCoSleep wait_sleep;
    int ret;                    /* of the first task that failed */
    Error *err;
};

SnapTaskGroup *snap_task_group_new(void (*on_first_error)(void *opaque),
                                   void *opaque)
{
    SnapTaskGroup *g = g_new(SnapTaskGroup, 1);

    *g = (SnapTaskGroup) {
        .on_first_error = on_first_error,
        .opaque = opaque,
    };
    return g;
}

void snap_task_group_free(SnapTaskGroup *g)
{
    if (!g) {
        return;
    }
    assert(!g->nb_running);
    error_free(g->err);
    g_free(g);
}

static void task_group_set_error(SnapTaskGroup *g, int ret, Error *err)
{
    assert(err);
    if (g->ret < 0) {
        error_free(err);
        return;
    }
    g->ret = ret;
    g->err = err;
    if (g->on_first_error) {
        g->on_first_error(g->opaque);
    }
}

static void coroutine_fn task_group_entry(void *opaque)
{
    GroupTask *task = opaque;
    SnapTaskGroup *g = task->group;
    Error *err = NULL;
    int ret = task->func(task->opaque, &err);

    trace_snap_task_group_end(task->name, ret);
    g_free(task->name);
    g_free(task);
    if (ret < 0) {
        task_group_set_error(g, ret, err);
    }
    if (!--g->nb_running) {
        qemu_co_sleep_wake(&g->wait_sleep);
    }
}

void coroutine_fn snap_task_group_start(SnapTaskGroup *g, const char *name,
                                        SnapTaskFunc *func, void *opaque)
{
    GroupTask *task = g_new(GroupTask, 1);

    *task = (GroupTask) {
        .group = g,
        .name = g_strdup(name),
        .func = func,
        .opaque = opaque,
    };
    g->nb_running++;
    qemu_coroutine_enter(qemu_coroutine_create(task_group_entry, task));
}

unsigned snap_task_group_nb_running(const SnapTaskGroup *g)
{
    return g->nb_running;
}

int snap_task_group_status(const SnapTaskGroup *g, Error **errp)
{
    if (g->ret < 0) {
        error_propagate(errp, error_copy(g->err));
    }
    return g->ret;
}

int coroutine_fn snap_task_group_wait(SnapTaskGroup *g, Error **errp)
{
    while (g->nb_running) {
        qemu_co_sleep(&g->wait_sleep);
    }
    return snap_task_group_status(g, errp);
}

bool coroutine_fn snap_task_group_wait_until(SnapTaskGroup *g,
                                             int64_t deadline_ns)
{
    int64_t now_ns;

    while (g->nb_running &&
           (now_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME)) < deadline_ns) {
        qemu_co_sleep_ns_wakeable(&g->wait_sleep, QEMU_CLOCK_REALTIME,
                                  deadline_ns - now_ns);
    }
    return !g->nb_running;
}
