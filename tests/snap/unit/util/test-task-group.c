/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of several coroutines with one first error
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "snap/util/task-group.h"
#include "snap-coroutine.h"

#define NB_TASKS 3

/* Longer than any test takes */
#define LONG_NS (3600 * NANOSECONDS_PER_SECOND)

/**
 * Task: waits, unless it is shut down, and then ends
 * @nb_pauses: how often it lets others run; -1: until it is shut down
 * @ret: what it returns
 * @ended: it has returned
 */
typedef struct Task {
    int nb_pauses;
    int ret;
    const bool *shut;
    bool ended;
} Task;

typedef struct Fixture {
    SnapTaskGroup *group;
    Task tasks[NB_TASKS];
    unsigned nb_errors;         /* calls of on_first_error */
    bool shut;
} Fixture;

static void on_first_error(void *opaque)
{
    Fixture *f = opaque;

    f->nb_errors++;
    f->shut = true;
}

static int coroutine_fn task_entry(void *opaque, Error **errp)
{
    Task *task = opaque;

    for (int i = 0; i != task->nb_pauses && !*task->shut; i++) {
        snap_co_pause();
    }
    task->ended = true;
    if (task->ret < 0) {
        error_setg(errp, "Task has failed with %d", task->ret);
    }
    return task->ret;
}

static void set_up(Fixture *f, gconstpointer data)
{
    f->group = snap_task_group_new(on_first_error, f);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    snap_task_group_free(f->group);
}

static void coroutine_fn start_task(Fixture *f, unsigned i, int nb_pauses,
                                    int ret)
{
    f->tasks[i] = (Task) { nb_pauses, ret, &f->shut };
    snap_task_group_start(f->group, "task", task_entry, &f->tasks[i]);
}

/* That the group has failed with the error of the task that returned @ret */
static void assert_first_error(Fixture *f, int ret)
{
    g_autofree char *text = g_strdup_printf("Task has failed with %d", ret);
    Error *err = NULL;

    g_assert_cmpint(snap_task_group_status(f->group, &err), ==, ret);
    g_assert_cmpstr(error_get_pretty(err), ==, text);
    error_free(err);
    g_assert_cmpuint(f->nb_errors, ==, 1);
}

static void coroutine_fn empty_entry(void *opaque)
{
    Fixture *f = opaque;

    g_assert_cmpuint(snap_task_group_nb_running(f->group), ==, 0);
    g_assert_cmpint(snap_task_group_wait(f->group, &error_abort), ==, 0);
    g_assert_true(snap_task_group_wait_until(f->group, 0));
}

static void coroutine_fn success_entry(void *opaque)
{
    Fixture *f = opaque;

    for (unsigned i = 0; i < NB_TASKS; i++) {
        start_task(f, i, i + 1, 0);
    }
    g_assert_cmpuint(snap_task_group_nb_running(f->group), ==, NB_TASKS);
    g_assert_cmpint(snap_task_group_wait(f->group, &error_abort), ==, 0);
    g_assert_cmpuint(snap_task_group_nb_running(f->group), ==, 0);
    g_assert_cmpuint(f->nb_errors, ==, 0);
    for (unsigned i = 0; i < NB_TASKS; i++) {
        g_assert_true(f->tasks[i].ended);
    }
}

/* One that ends before it waits for anything has ended when it was started. */
static void coroutine_fn at_once_entry(void *opaque)
{
    Fixture *f = opaque;

    start_task(f, 0, 0, 0);
    g_assert_cmpuint(snap_task_group_nb_running(f->group), ==, 0);
    start_task(f, 1, 0, -EIO);
    assert_first_error(f, -EIO);
}

static void coroutine_fn first_error_entry(void *opaque)
{
    Fixture *f = opaque;

    start_task(f, 0, -1, -ECONNABORTED);
    start_task(f, 1, 2, -EINVAL);
    start_task(f, 2, -1, 0);
    g_assert_cmpint(snap_task_group_status(f->group, &error_abort), ==, 0);
    g_assert_cmpint(snap_task_group_wait(f->group, NULL), ==, -EINVAL);
    g_assert_true(f->tasks[0].ended);
    g_assert_true(f->tasks[2].ended);
    assert_first_error(f, -EINVAL);
    /* It can be asked for again. */
    assert_first_error(f, -EINVAL);
}

/* The error is known while others are still running. */
static void coroutine_fn still_running_entry(void *opaque)
{
    Fixture *f = opaque;

    start_task(f, 0, -1, 0);
    start_task(f, 1, 0, -EPIPE);
    g_assert_cmpuint(snap_task_group_nb_running(f->group), ==, 1);
    assert_first_error(f, -EPIPE);
    g_assert_cmpint(snap_task_group_wait(f->group, NULL), ==, -EPIPE);
}

static void coroutine_fn deadline_entry(void *opaque)
{
    Fixture *f = opaque;
    int64_t now_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);

    start_task(f, 0, -1, 0);
    g_assert_false(snap_task_group_wait_until(f->group, now_ns));
    g_assert_false(snap_task_group_wait_until(f->group, now_ns + SCALE_MS));
    g_assert_cmpuint(snap_task_group_nb_running(f->group), ==, 1);
    f->shut = true;
    g_assert_true(snap_task_group_wait_until(f->group, now_ns + LONG_NS));
}

static void coroutine_fn again_entry(void *opaque)
{
    Fixture *f = opaque;

    start_task(f, 0, 1, 0);
    snap_task_group_wait(f->group, &error_abort);
    start_task(f, 0, 1, -EIO);
    g_assert_cmpint(snap_task_group_wait(f->group, NULL), ==, -EIO);
    assert_first_error(f, -EIO);
}

static void test_entry(Fixture *f, gconstpointer data)
{
    run_in_coroutine((void coroutine_fn (*)(void *))data, f);
}

static void add(const char *name, void coroutine_fn (*entry)(void *opaque))
{
    g_autofree char *path = g_strdup_printf("/snap/task-group/%s", name);

    g_test_add(path, Fixture, entry, set_up, test_entry, tear_down);
}

int main(int argc, char **argv)
{
    qemu_init_main_loop(&error_abort);
    g_test_init(&argc, &argv, NULL);

    add("empty-group-has-ended", empty_entry);
    add("wait-is-for-all", success_entry);
    add("task-may-end-at-once", at_once_entry);
    add("first-error-is-kept", first_error_entry);
    add("error-is-known-while-others-run", still_running_entry);
    add("wait-ends-at-its-deadline", deadline_entry);
    add("group-may-be-used-again", again_entry);
    return g_test_run();
}
