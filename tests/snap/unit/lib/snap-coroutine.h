/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests that run in a coroutine
 */

#ifndef SNAP_TESTS_SNAP_COROUTINE_H
#define SNAP_TESTS_SNAP_COROUTINE_H

#include "qapi/error.h"
#include "snap/util/task.h"

/* What is called in the coroutine, and with what. */
typedef struct CoroutineCall {
    void coroutine_fn (*fn)(void *opaque);
    void *opaque;
} CoroutineCall;

static int coroutine_fn coroutine_call(void *opaque, Error **errp)
{
    const CoroutineCall *call = opaque;

    call->fn(call->opaque);
    return 0;
}

/* Run @fn in a coroutine, and the main loop until it has returned. */
static void run_in_coroutine(void coroutine_fn (*fn)(void *opaque),
                             void *opaque)
{
    CoroutineCall call = { .fn = fn, .opaque = opaque };

    snap_task_run(coroutine_call, &call, NULL, &error_abort);
}

/* That a call failed with @code and said why; takes the error. */
static inline void assert_failed(int ret, int code, Error **err)
{
    g_assert_cmpint(ret, ==, code);
    g_assert_nonnull(*err);
    error_free(*err);
    *err = NULL;
}

#endif /* SNAP_TESTS_SNAP_COROUTINE_H */
