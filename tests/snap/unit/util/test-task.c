/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tasks: their results, and what becomes of them when they are cancelled
 */

#include "qemu/osdep.h"
#include "block/aio.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "snap/util/task.h"

/* More than any test takes */
#define LONG_NS (600 * NANOSECONDS_PER_SECOND)
#define SHORT_NS (10 * SCALE_MS)

/**
 * Job: what a coroutine does
 * @task: that it runs in, NULL for none
 * @cancelled: what it waits for fails
 * @deaf: it waits for something else, until @answered
 * @grace_ns: cancel it while it waits; 0 for not at all
 * @ret: what it returns, with an error if negative
 */
typedef struct Job {
    SnapTask *task;
    QemuCoSleep sleep;
    bool cancelled;
    bool deaf;
    bool answered;
    int64_t grace_ns;
    int ret;
    unsigned nb_cancels;
    unsigned nb_released;
    bool returned;
} Job;

static void job_cancel(void *opaque)
{
    Job *job = opaque;

    job->nb_cancels++;
    job->cancelled = true;
    qemu_co_sleep_wake(&job->sleep);
}

static void job_release(void *opaque)
{
    Job *job = opaque;

    g_assert_false(qemu_in_coroutine());
    job->nb_released++;
}

static void job_init(Job *job)
{
    *job = (Job) { };
    job->task = snap_task_new(job_cancel, job);
}

static void job_free(Job *job)
{
    snap_task_free(job->task, job_release, job);
}

static void cancel_bh(void *opaque)
{
    Job *job = opaque;

    snap_task_cancel(job->task, job->grace_ns);
}

static int coroutine_fn job_func(void *opaque, Error **errp)
{
    Job *job = opaque;

    snap_co_pause();
    if (job->grace_ns) {
        aio_bh_schedule_oneshot(qemu_get_aio_context(), cancel_bh, job);
    }
    while (job->grace_ns && (job->deaf ? !job->answered : !job->cancelled)) {
        qemu_co_sleep(&job->sleep);
    }
    if (job->ret < 0) {
        error_setg(errp, "Job failed");
    }
    job->returned = true;
    return job->ret;
}

static void assert_error(Error *err, const char *text)
{
    g_assert_nonnull(err);
    g_assert_cmpstr(error_get_pretty(err), ==, text);
    error_free(err);
}

static void test_result_is_returned(void)
{
    Error *err = NULL;
    Job job;

    job_init(&job);
    g_assert_cmpint(snap_task_run(job_func, &job, NULL, &error_abort), ==, 0);
    g_assert_cmpint(snap_task_run(job_func, &job, job.task, &error_abort), ==,
                    0);
    job.ret = 7;
    g_assert_cmpint(snap_task_run(job_func, &job, job.task, &error_abort), ==,
                    7);
    job.ret = -EIO;
    g_assert_cmpint(snap_task_run(job_func, &job, job.task, &err), ==, -EIO);
    assert_error(err, "Job failed");
    g_assert_cmpint(snap_task_run(job_func, &job, job.task, NULL), ==, -EIO);
    job_free(&job);
    g_assert_cmpuint(job.nb_released, ==, 1);
}

static void test_free_before_run(void)
{
    Job job;

    job_init(&job);
    job_free(&job);
    g_assert_cmpuint(job.nb_released, ==, 1);
}

/* It fails because it was cancelled, whatever it says. */
static void test_cancelled_failure_is_interruption(void)
{
    Error *err = NULL;
    Job job;

    job_init(&job);
    job.grace_ns = LONG_NS;
    job.ret = -EIO;
    g_assert_cmpint(snap_task_run(job_func, &job, job.task, &err), ==, -EINTR);
    assert_error(err, "Interrupted");
    g_assert_true(job.returned);
    g_assert_false(snap_task_is_left(job.task));
    job_free(&job);
    g_assert_cmpuint(job.nb_cancels, ==, 1);
    g_assert_cmpuint(job.nb_released, ==, 1);
}

static void test_cancelled_too_late_succeeds(void)
{
    Job job;

    job_init(&job);
    job.grace_ns = LONG_NS;
    g_assert_cmpint(snap_task_run(job_func, &job, job.task, &error_abort), ==,
                    0);
    job_free(&job);
}

static void answer(Job *job)
{
    job->answered = true;
    qemu_co_sleep_wake(&job->sleep);
    g_assert_true(job->returned);
}

/* Leave a job that does not react. */
static void leave(Job *job)
{
    Error *err = NULL;

    job_init(job);
    job->deaf = true;
    job->grace_ns = SHORT_NS;
    job->ret = -EIO;
    g_assert_cmpint(snap_task_run(job_func, job, job->task, &err), ==,
                    -ETIMEDOUT);
    assert_error(err, "Interrupted, and storage does not answer");
    g_assert_true(snap_task_is_left(job->task));
    g_assert_false(job->returned);
}

/* What it refers to is kept until it returns. */
static void test_left_and_freed(void)
{
    Job job;

    leave(&job);
    job_free(&job);
    g_assert_cmpuint(job.nb_released, ==, 0);
    answer(&job);
    while (!job.nb_released) {
        aio_poll(qemu_get_aio_context(), true);
    }
    g_assert_cmpuint(job.nb_released, ==, 1);
}

static void test_left_and_returned(void)
{
    Job job;

    leave(&job);
    answer(&job);
    g_assert_false(snap_task_is_left(job.task));
    job_free(&job);
    g_assert_cmpuint(job.nb_released, ==, 1);
}

static void cancel_again_bh(void *opaque)
{
    Job *job = opaque;

    snap_task_cancel(job->task, LONG_NS);
    snap_task_cancel(job->task, 0);
}

static int coroutine_fn job_cancelled_twice(void *opaque, Error **errp)
{
    aio_bh_schedule_oneshot(qemu_get_aio_context(), cancel_again_bh, opaque);
    return job_func(opaque, errp);
}

static void test_second_cancel_does_not_wait(void)
{
    Error *err = NULL;
    Job job;

    job_init(&job);
    job.deaf = true;
    job.grace_ns = LONG_NS;
    g_assert_cmpint(snap_task_run(job_cancelled_twice, &job, job.task, &err),
                    ==, -ETIMEDOUT);
    error_free(err);
    answer(&job);
    job_free(&job);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_set_nonfatal_assertions();
    qemu_init_main_loop(&error_abort);
    g_test_add_func("/snap/task/result-is-returned", test_result_is_returned);
    g_test_add_func("/snap/task/may-be-freed-before-it-runs",
                    test_free_before_run);
    g_test_add_func("/snap/task/cancel/failure-is-an-interruption",
                    test_cancelled_failure_is_interruption);
    g_test_add_func("/snap/task/cancel/success-stays-one",
                    test_cancelled_too_late_succeeds);
    g_test_add_func("/snap/task/cancel/second-one-does-not-wait",
                    test_second_cancel_does_not_wait);
    g_test_add_func("/snap/task/left/may-be-freed", test_left_and_freed);
    g_test_add_func("/snap/task/left/may-return", test_left_and_returned);
    return g_test_run();
}
