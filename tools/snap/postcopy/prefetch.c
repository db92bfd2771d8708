/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that nobody has requested yet, read ahead in the order of a plan
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "snap/postcopy/prefetch.h"
#include "snap/ram/walk.h"
#include "snap/util/task.h"

/*
 * Pieces are small, because a read from the page cache may keep the whole
 * thread busy.
 */
#define PIECE_SIZE (128 * KiB)

/* Pieces without data that are passed over before others get their turn. */
#define MAX_EMPTY_PIECES 16

/* A range of the plan, all or some of which is being read. */
typedef struct Planned {
    SnapPageRange range;
    SnapPushReason reason;
} Planned;

struct SnapPrefetch {
    /* constant */
    const SnapPageMap *map;
    SnapPushPlan *plan;
    SnapRAMWalk *walk;
    void (*ready)(void *opaque);
    void *opaque;

    bool running;
    bool stopped;               /* by snap_prefetch_stop() */
    QemuCoSleep sleep;

    /* ranges whose pieces have yet to come, in the order of both */
    Planned planned[SNAP_RAM_WALK_AHEAD];
    unsigned head;
    unsigned nb_planned;

    SnapPushItem next;
    bool has_next;
    int ret;                    /* of the last read: 1, 0 at the end, -errno */
    Error *err;
};

/* The plan of the walk: remember why pages are read until they are there. */
static int coroutine_fn prefetch_plan(void *opaque, SnapPageRange *range,
                                      Error **errp)
{
    SnapPrefetch *p = opaque;
    Planned *planned = &p->planned[(p->head + p->nb_planned) %
                                   ARRAY_SIZE(p->planned)];
    int ret;

    /* Of each range, a piece at least is being read, or was taken last. */
    assert(p->nb_planned < ARRAY_SIZE(p->planned));
    ret = snap_push_plan_next(p->plan, &planned->range, &planned->reason, errp);
    if (ret > 0) {
        p->nb_planned++;
        *range = planned->range;
    }
    return ret;
}

static bool range_has(const SnapPageRange *range, uint64_t page)
{
    return page >= range->first && page - range->first < range->count;
}

/* Why the pages that have come were read. */
static SnapPushReason prefetch_reason(SnapPrefetch *p, const SnapPages *pages)
{
    while (!range_has(&p->planned[p->head].range, pages->range.first)) {
        assert(p->nb_planned > 1);
        p->head = (p->head + 1) % ARRAY_SIZE(p->planned);
        p->nb_planned--;
    }
    return p->planned[p->head].reason;
}

SnapPrefetch *snap_prefetch_new(SnapPageSource *source,
                                const SnapPageMap *map, SnapPushPlan *plan,
                                void (*ready)(void *opaque), void *opaque)
{
    SnapPrefetch *p = g_new0(SnapPrefetch, 1);

    p->map = map;
    p->ready = ready;
    p->opaque = opaque;
    p->ret = 1;
    p->plan = plan;
    p->walk = snap_ram_walk_new(source, PIECE_SIZE, prefetch_plan, p);
    return p;
}

void snap_prefetch_free(SnapPrefetch *p)
{
    if (!p) {
        return;
    }
    assert(!p->running);
    snap_ram_walk_free(p->walk);
    error_free(p->err);
    g_free(p);
}

/* Whether there is nothing to send of some pages. */
static bool prefetch_is_empty(const SnapPrefetch *p, const SnapPushItem *item)
{
    return !item->pages.data && !snap_push_sends_zero_pages(item->reason) &&
           snap_page_map_host_page(p->map, item->pages.range.first).count == 1;
}

static int coroutine_fn prefetch_read(SnapPrefetch *p)
{
    unsigned nb_empty = 0;
    int ret;

    while ((ret = snap_ram_walk_next(p->walk, &p->next.pages,
                                     &p->err)) > 0) {
        p->next.reason = prefetch_reason(p, &p->next.pages);
        p->next.pos = 0;
        if (p->stopped || !prefetch_is_empty(p, &p->next)) {
            break;
        }
        if (++nb_empty % MAX_EMPTY_PIECES == 0) {
            snap_co_pause();
        }
    }
    return ret;
}

static void coroutine_fn prefetch_entry(void *opaque)
{
    SnapPrefetch *p = opaque;

    while (!p->stopped && (p->ret = prefetch_read(p)) > 0) {
        p->has_next = true;
        p->ready(p->opaque);
        while (p->has_next && !p->stopped) {
            qemu_co_sleep(&p->sleep);
        }
    }
    snap_ram_walk_abort(p->walk);
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

SnapPushItem *snap_prefetch_peek(SnapPrefetch *p)
{
    return p->has_next ? &p->next : NULL;
}

void snap_prefetch_advance(SnapPrefetch *p)
{
    if (p->next.pos == p->next.pages.range.count) {
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
