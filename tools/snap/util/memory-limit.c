/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Living within a limit of the address space (RLIMIT_AS, "ulimit -v")
 */

#include "qemu/osdep.h"
#include <malloc.h>
#include <sys/resource.h>
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/units.h"
#include "snap/trace.h"
#include "snap/util/memory-limit.h"

/* A pool of 64 threads, each with a stack of 8 MiB and an arena, fits this. */
#define ENOUGH      (4 * GiB)

/* Measured: saves and loads with one channel take up to 220 MiB. */
#define LEAST       (320 * MiB)

/* Of the thread pool, below a limit */
#define MAX_THREADS 4

bool snap_memory_limit_respect(Error **errp)
{
    struct rlimit limit;

    GLOBAL_STATE_CODE();
    if (getrlimit(RLIMIT_AS, &limit) < 0 || limit.rlim_cur >= ENOUGH) {
        return true;
    }
    trace_snap_memory_limit(limit.rlim_cur);
    if (limit.rlim_cur < LEAST) {
        error_setg(errp, "The limit of the address space (ulimit -v) is "
                   "%" PRIu64 " KiB, and at least %" PRIu64 " KiB are needed",
                   (uint64_t)limit.rlim_cur / KiB, (uint64_t)LEAST / KiB);
        return false;
    }
#ifdef M_ARENA_MAX
    mallopt(M_ARENA_MAX, 1);
#endif
    aio_context_set_thread_pool_params(qemu_get_aio_context(), 0, MAX_THREADS,
                                       &error_abort);
    return true;
}
