/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that nobody has requested yet, read ahead in the order of a plan
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "snap/postcopy/prefetch.h"
#include "snap/util/task.h"

/*
 * Pieces are small, because a read from the page cache may keep the whole
 * thread busy.
 */
#define PIECE_SIZE (128 * KiB)

/* Pieces without data that are passed over before others get their turn. */
#define MAX_EMPTY_PIECES 16

struct SnapPrefetch {
    /* constant */
    const SnapPageMap *map;
    SnapRAMReader *reader;
    void (*ready)(void *opaque);
    void *opaque;

    bool running;
    bool stopped;               /* by snap_prefetch_stop() */
    QemuCoSleep sleep;
    SnapPrefetched next;
    bool has_next;
    int ret;                    /* of the last read: 1, 0 at the end, -errno */
    Error *err;
};

SnapPrefetch *snap_prefetch_new(SnapImage *image, const SnapPageMap *map,
                                SnapPushPlan *plan,
                                void (*ready)(void *opaque), void *opaque)
{
    SnapPrefetch *p = g_new0(SnapPrefetch, 1);

    p->map = map;
    p->ready = ready;
    p->opaque = opaque;
    p->ret = 1;
    p->reader = snap_ram_reader_new(image, PIECE_SIZE, snap_push_plan_next,
                                    plan);
    return p;
}

void snap_prefetch_free(SnapPrefetch *p)
{
    if (!p) {
        return;
    }
    assert(!p->running);
    snap_ram_reader_free(p->reader);
    error_free(p->err);
    g_free(p);
}

/* Whether there is nothing to send of a piece. */
static bool prefetch_is_empty(const SnapPrefetch *p, const SnapRAMPiece *piece)
{
    return !piece->data && !snap_push_sends_zero_pages(piece->reason) &&
           snap_host_pages_targets(p->map->host_pages, piece->block) == 1;
}

static int coroutine_fn prefetch_read(SnapPrefetch *p)
{
    unsigned nb_empty = 0;
    int ret;

    while ((ret = snap_ram_reader_next(p->reader, &p->next.piece,
                                       &p->err)) > 0 &&
           !p->stopped && prefetch_is_empty(p, &p->next.piece)) {
        if (++nb_empty % MAX_EMPTY_PIECES == 0) {
            snap_task_pause();
        }
    }
    return ret;
}

static void coroutine_fn prefetch_entry(void *opaque)
{
    SnapPrefetch *p = opaque;

    while (!p->stopped && (p->ret = prefetch_read(p)) > 0) {
        p->next.pos = 0;
        p->has_next = true;
        p->ready(p->opaque);
        while (p->has_next && !p->stopped) {
            qemu_co_sleep(&p->sleep);
        }
    }
    snap_ram_reader_abort(p->reader);
    p->running = false;
    p->ready(p->opaque);
}

void coroutine_fn snap_prefetch_start(SnapPrefetch *p)
{
    p->running = true;
    qemu_coroutine_enter(qemu_coroutine_create(prefetch_entry, p));
}

void snap_prefetch_stop(SnapPrefetch *p)
{
    p->stopped = true;
    qemu_co_sleep_wake(&p->sleep);
}

bool snap_prefetch_is_running(const SnapPrefetch *p)
{
    return p->running;
}

SnapPrefetched *snap_prefetch_peek(SnapPrefetch *p)
{
    return p->has_next ? &p->next : NULL;
}

void snap_prefetch_advance(SnapPrefetch *p)
{
    if (p->next.pos == p->next.piece.nb_pages) {
        p->has_next = false;
        qemu_co_sleep_wake(&p->sleep);
    }
}

int snap_prefetch_status(SnapPrefetch *p, Error **errp)
{
    if (p->has_next || p->ret > 0) {
        return 1;
    }
    error_propagate(errp, g_steal_pointer(&p->err));
    return p->ret;
}
