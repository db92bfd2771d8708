/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sends the pages of a load by postcopy, the most urgent ones first
 *
 * Theory of operation
 * ===================
 *
 * The sender's loop, snap_pusher_run(), takes one step after another, and lets
 * the return path be read in between.  A step is the first of these that there
 * is something to do for:
 *
 *   step                                      held back by
 *   ----------------------------------------  --------------------------------
 *   the rest of a host page that was begun    rate, channel
 *   requested pages that have been read       nothing (with a preempt channel,
 *                                             a coroutine of its own sends them
 *                                             there)
 *   a piece of a list: working set, arrivals  requests, rate, recording,
 *                                             channel
 *   pages around the newest request           the same
 *   a piece of the rest                       the same
 *
 * Requests hold other pages back while one is queued, or has been read for less
 * than MAX_CLEAR_NS; the rate, until it allows the next piece; a recording,
 * until its time is over; the channel, while it is too full.
 *
 * If there is nothing to do or all is held back, the loop sleeps until that
 * time is over or it is woken:
 *
 *   event                                       wakes
 *   ------------------------------------------  ------------------------------
 *   demand has read a page                      both coroutines
 *   prefetch has read a piece, or has ended     both
 *   the preempt channel has sent something      the loop, which may have waited
 *   or has failed                               only for that
 *   snap_pusher_stop()                          both, and they end
 *
 * What a step sends over the main channel is one section, or one for each piece
 * of a large host page, as a destination holds RCU while one is open.  Whoever
 * sends a page marks it as sent in the page map first, and does not yield in
 * between, so that none is sent twice.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "snap/postcopy/pacing.h"
#include "snap/postcopy/prefetch.h"
#include "snap/postcopy/pusher.h"
#include "snap/ram/walk.h"
#include "snap/trace.h"
#include "snap/transfer/send.h"
#include "snap/util/task-group.h"

/* A large host page is read in pieces of this size. */
#define STREAMED_PIECE_SIZE (1 * MiB)

/* How long to keep the channel clear for a page that is being read. */
#define MAX_CLEAR_NS   (INT64_C(200) * SCALE_US)

/* How long to wait before trying again to shrink a full channel. */
#define RETRY_NS       (INT64_C(50) * SCALE_US)

struct SnapPusher {
    /* constant */
    SnapPusherParts parts;
    SnapPusherOptions options;
    uint64_t nb_stored;                 /* pages with data in the snapshot */

    /* set by snap_pusher_stop() */
    bool stopped;

    /* snap_pusher_run() */
    QemuCoSleep sleep;
    SnapPacing pacing;
    bool recording;                     /* nothing is pushed meanwhile */
    uint64_t host_page_left;            /* target pages that must come next */
    SnapFetch *fault_around;            /* being sent */

    /* what nobody waits for */
    SnapPrefetch *prefetch;

    /* the coroutine for the preempt channel */
    QemuCoSleep preempt_sleep;
    SnapTaskGroup *preempt_task;
};

void snap_pusher_wake(SnapPusher *p)
{
    qemu_co_sleep_wake(&p->preempt_sleep);
    qemu_co_sleep_wake(&p->sleep);
}

static void pusher_wake(void *opaque)
{
    snap_pusher_wake(opaque);
}

SnapPusher *snap_pusher_new(const SnapPusherParts *parts,
                            const SnapPusherOptions *options)
{
    SnapPusher *p = g_new0(SnapPusher, 1);

    p->parts = *parts;
    p->options = *options;
    p->nb_stored = snap_image_stored_pages(parts->sender->image);
    p->prefetch = snap_prefetch_new(parts->sender->source, parts->map,
                                    parts->plan, pusher_wake, p);
    p->preempt_task = snap_task_group_new(pusher_wake, p);
    snap_pacing_init(&p->pacing, parts->transport, options->rate,
                     options->backlog);
    return p;
}

void snap_pusher_free(SnapPusher *p)
{
    if (!p) {
        return;
    }
    snap_task_group_free(p->preempt_task);
    if (p->fault_around) {
        /* The destination left before all of it was sent. */
        snap_demand_drop(p->parts.demand, p->fault_around);
    }
    snap_prefetch_free(p->prefetch);
    snap_pacing_destroy(&p->pacing);
    g_free(p);
}

void snap_pusher_stop(SnapPusher *p)
{
    p->stopped = true;
    snap_pusher_wake(p);
    snap_prefetch_stop(p->prefetch);
    snap_demand_stop(p->parts.demand);
}

void coroutine_fn snap_pusher_end(SnapPusher *p)
{
    snap_pusher_stop(p);
    snap_task_group_wait(p->preempt_task, NULL);
    while (snap_prefetch_is_running(p->prefetch) ||
           !snap_demand_is_quiet(p->parts.demand)) {
        qemu_co_sleep(&p->sleep);
    }
}

/* --- records --- */

/* Returns: whether it was a page with data */
static bool coroutine_fn pusher_put_page(SnapSender *to,
                                         const SnapPushItem *item)
{
    SnapPostcopyStats *stats = &to->stats->postcopy;
    bool stored = snap_send_page(to, &item->pages, item->pos);

    stats->zero_requested += !stored && item->reason == SNAP_PUSH_REQUESTED;
    stats->sent[item->reason]++;
    return stored;
}

/* Whether the next page of @item has to be sent, when a host page begins. */
static bool pusher_is_wanted(const SnapPusher *p, const SnapPushItem *item,
                             uint64_t nb_target_pages)
{
    uint64_t entry = item->pages.entries[item->pos];

    if (snap_page_map_is_sent(p->parts.map,
                              item->pages.range.first + item->pos)) {
        return false;
    }
    /* A request must be answered, with a zero page if nothing was sent. */
    return nb_target_pages > 1 || snap_page_is_stored(entry) ||
           item->reason == SNAP_PUSH_REQUESTED ||
           (entry == SNAP_PAGE_ZERO &&
            snap_push_sends_zero_pages(item->reason));
}

/*
 * Send pages of @item: @max of them, and the rest of a host page that was
 * begun.  Pages that were sent meanwhile are skipped.
 *
 * Returns: how many pages with data were sent
 */
static unsigned coroutine_fn pusher_put_pages(SnapPusher *p, SnapSender *to,
                                              SnapPushItem *item, unsigned max,
                                              uint64_t *host_page_left)
{
    uint64_t first = item->pages.range.first;
    uint64_t nb_target_pages =
        snap_page_map_host_page(p->parts.map, first).count;
    unsigned nb = 0;
    unsigned nb_stored = 0;

    for (; item->pos < item->pages.range.count && (nb < max || *host_page_left);
         item->pos++) {
        if (!*host_page_left) {
            if (!pusher_is_wanted(p, item, nb_target_pages)) {
                continue;
            }
            snap_page_map_send(p->parts.map, (SnapPageRange) {
                .first = first + item->pos, .count = nb_target_pages,
            });
            *host_page_left = nb_target_pages;
        }
        nb_stored += pusher_put_page(to, item);
        --*host_page_left;
        nb++;
    }
    return nb_stored;
}

/* --- requested pages --- */

static int coroutine_fn pusher_plan_once(void *opaque, SnapPageRange *range,
                                         Error **errp)
{
    SnapPageRange *once = opaque;

    *range = *once;
    once->count = 0;
    return range->count > 0;
}

/* Begin and end a section on the main channel; the other one has none. */
static void coroutine_fn pusher_begin_section(SnapPusher *p, SnapSender *to)
{
    if (to == p->parts.sender) {
        snap_stream_begin_ram(to->writer, false);
    }
}

static void coroutine_fn pusher_end_section(SnapPusher *p, SnapSender *to)
{
    if (to == p->parts.sender) {
        snap_stream_end_ram(to->writer);
    }
}

/* A host page that is too large to be read as a whole. */
static int coroutine_fn pusher_send_streamed(SnapPusher *p, SnapSender *to,
                                             SnapPageRange host_page,
                                             Error **errp)
{
    SnapPageRange once = host_page;
    uint64_t left = host_page.count;
    g_autoptr(SnapRAMWalk) walk =
        snap_ram_walk_new(to->source, STREAMED_PIECE_SIZE, pusher_plan_once,
                          &once);
    SnapPushItem item = { .reason = SNAP_PUSH_REQUESTED };
    int ret;

    snap_page_map_send(p->parts.map, host_page);
    while ((ret = snap_ram_walk_next(walk, &item.pages, errp)) > 0) {
        item.pos = 0;
        pusher_begin_section(p, to);
        pusher_put_pages(p, to, &item, item.pages.range.count, &left);
        pusher_end_section(p, to);
        ret = snap_stream_flush(to->writer, errp);
        if (ret < 0) {
            break;
        }
    }
    if (ret < 0) {
        snap_ram_walk_abort(walk);
    }
    return ret;
}

static void coroutine_fn pusher_fetch_done(SnapPusher *p, SnapFetch *fetch,
                                           int64_t now_ns)
{
    uint64_t us = MAX(now_ns - fetch->request_ns, 0) / SCALE_US;

    snap_histogram_add(&p->parts.sender->stats->postcopy.latency, us);
    trace_snap_pusher_answered(fetch->item.pages.range.first, us);
    snap_demand_put(p->parts.demand, fetch);
}

/* Returns: 0, or -errno with @errp set */
static int coroutine_fn pusher_put_fetch(SnapPusher *p, SnapSender *to,
                                         SnapFetch *fetch, Error **errp)
{
    SnapPageRange range = fetch->item.pages.range;
    uint64_t left = 0;

    if (fetch->ret < 0) {
        error_propagate(errp, g_steal_pointer(&fetch->err));
        return fetch->ret;
    }
    if (!fetch->item.pages.entries) {
        return pusher_send_streamed(p, to, range, errp);
    }
    pusher_begin_section(p, to);
    pusher_put_pages(p, to, &fetch->item, range.count, &left);
    pusher_end_section(p, to);
    return 0;
}

/*
 * Answer what is ready, together; at most @nb fetches, into @done.
 *
 * Returns: how many were taken, including those that need no answer any more;
 * -errno with @errp set
 */
static int coroutine_fn pusher_put_ready(SnapPusher *p, SnapSender *to,
                                         SnapFetch **done, unsigned *nb,
                                         Error **errp)
{
    unsigned max = *nb;
    SnapFetch *fetch;
    int nb_taken = 0;

    *nb = 0;
    while (*nb < max &&
           (fetch = snap_demand_take(p->parts.demand, SNAP_PUSH_REQUESTED))) {
        int ret;

        nb_taken++;
        if (!fetch->ret &&
            snap_page_map_is_sent(p->parts.map,
                                  fetch->item.pages.range.first)) {
            to->stats->postcopy.already_sent++;
            snap_demand_put(p->parts.demand, fetch);
            continue;
        }
        ret = pusher_put_fetch(p, to, fetch, errp);
        if (ret < 0) {
            snap_demand_put(p->parts.demand, fetch);
            return ret;
        }
        done[(*nb)++] = fetch;
    }
    return nb_taken;
}

/* Returns: how many fetches are over, -errno with @errp set */
static int coroutine_fn pusher_send_requested(SnapPusher *p, SnapSender *to,
                                              Error **errp)
{
    SnapFetch *done[8];
    unsigned nb = ARRAY_SIZE(done);
    int64_t now_ns;
    int ret = pusher_put_ready(p, to, done, &nb, errp);

    if (nb) {
        int flush_ret = snap_stream_flush(to->writer, ret < 0 ? NULL : errp);

        ret = ret >= 0 && flush_ret < 0 ? flush_ret : ret;
    }
    now_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    for (unsigned i = 0; i < nb; i++) {
        pusher_fetch_done(p, done[i], now_ns);
    }
    return ret;
}

static int coroutine_fn pusher_preempt_entry(void *opaque, Error **errp)
{
    SnapPusher *p = opaque;

    while (!p->stopped) {
        int ret = pusher_send_requested(p, p->parts.preempt, errp);

        if (ret < 0) {
            return ret;
        }
        /* The main loop may have waited for this one only. */
        qemu_co_sleep_wake(&p->sleep);
        if (!ret) {
            qemu_co_sleep(&p->preempt_sleep);
        }
    }
    return 0;
}

/* --- pages that nobody waits for --- */

/* Send a batch of @item. Returns: 0, or -errno with @errp set */
static int coroutine_fn pusher_send_batch(SnapPusher *p, SnapPushItem *item,
                                          int64_t now_ns, Error **errp)
{
    SnapSender *to = p->parts.sender;
    uint64_t nb_stored;

    pusher_begin_section(p, to);
    nb_stored = pusher_put_pages(p, to, item, snap_pacing_batch(&p->pacing),
                                 &p->host_page_left);
    pusher_end_section(p, to);
    snap_pacing_sent(&p->pacing, nb_stored << p->parts.map->ram->page_bits,
                     now_ns);
    snap_progress_show(p->parts.progress, to->stats->stored_pages,
                       p->nb_stored);
    return snap_stream_flush(to->writer, errp);
}

static int coroutine_fn pusher_send_fault_around(SnapPusher *p, int64_t now_ns,
                                                 Error **errp)
{
    SnapFetch *fetch = p->fault_around;
    int ret = fetch->ret;

    if (ret < 0) {
        error_propagate(errp, g_steal_pointer(&fetch->err));
    } else {
        ret = pusher_send_batch(p, &fetch->item, now_ns, errp);
    }
    if (ret < 0 || fetch->item.pos == fetch->item.pages.range.count) {
        p->fault_around = NULL;
        snap_demand_put(p->parts.demand, fetch);
    }
    return ret;
}

static int coroutine_fn pusher_send_prefetched(SnapPusher *p,
                                               SnapPushItem *next,
                                               int64_t now_ns, Error **errp)
{
    int ret = pusher_send_batch(p, next, now_ns, errp);

    snap_prefetch_advance(p->prefetch);
    return ret;
}

/* Whether what is to be pushed next comes from a list: it goes first. */
static bool pusher_has_listed_piece(const SnapPusher *p)
{
    const SnapPushItem *next = snap_prefetch_peek(p->prefetch);

    return next && next->reason != SNAP_PUSH_LINEAR;
}

/* Take the newest pages around a request, unless some are being sent. */
static bool coroutine_fn pusher_has_fault_around(SnapPusher *p)
{
    if (p->host_page_left || pusher_has_listed_piece(p)) {
        return false;
    }
    if (!p->fault_around) {
        p->fault_around = snap_demand_take(p->parts.demand,
                                           SNAP_PUSH_FAULT_AROUND);
    }
    return p->fault_around;
}

static void coroutine_fn pusher_wait_for_work(SnapPusher *p, int64_t ns)
{
    if (p->stopped) {
        /* While something was read or written: nobody will wake it again. */
        return;
    }
    if (ns > 0) {
        qemu_co_sleep_ns_wakeable(&p->sleep, QEMU_CLOCK_REALTIME, ns);
    } else {
        qemu_co_sleep(&p->sleep);
    }
}

/* Once the time of a recording is over, all is pushed. */
static void pusher_end_recording(SnapPusher *p, int64_t now_ns)
{
    if (p->recording && snap_pacing_delay_ns(&p->pacing, now_ns) <= 0) {
        p->recording = false;
        snap_demand_set_fault_around(p->parts.demand, p->options.fault_around);
    }
}

/*
 * Whether the channel must be kept clear for requested pages that are not ready
 * yet.  Slow storage must not stop everything, though.
 */
static bool pusher_must_keep_clear(const SnapPusher *p, int64_t now_ns)
{
    return snap_demand_is_queued(p->parts.demand) ||
           (snap_demand_is_reading(p->parts.demand) &&
            now_ns - snap_demand_last_ns(p->parts.demand) < MAX_CLEAR_NS);
}

/* Send something that nobody waits for, or wait. */
static int coroutine_fn pusher_push_unrequested(SnapPusher *p, Error **errp)
{
    int64_t now_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    SnapPushItem *next = snap_prefetch_peek(p->prefetch);
    bool around = pusher_has_fault_around(p);
    int64_t delay_ns;

    pusher_end_recording(p, now_ns);
    if (!around && !next) {
        pusher_wait_for_work(p, 0);
        return 0;
    }
    if (!p->host_page_left && pusher_must_keep_clear(p, now_ns)) {
        pusher_wait_for_work(p, MAX_CLEAR_NS);
        return 0;
    }
    delay_ns = snap_pacing_delay_ns(&p->pacing, now_ns);
    if (delay_ns > 0) {
        pusher_wait_for_work(p, delay_ns);
        return 0;
    }
    if (!snap_pacing_adapt(&p->pacing, snap_demand_last_ns(p->parts.demand),
                           now_ns)) {
        pusher_wait_for_work(p, RETRY_NS);
        return 0;
    }
    return around ? pusher_send_fault_around(p, now_ns, errp) :
                    pusher_send_prefetched(p, next, now_ns, errp);
}

/* Do the most urgent thing, or wait. */
static int coroutine_fn pusher_push_once(SnapPusher *p, Error **errp)
{
    int ret = snap_prefetch_status(p->prefetch, errp);

    if (ret >= 0) {
        ret = snap_task_group_status(p->preempt_task, errp);
    }
    if (ret < 0) {
        return ret;
    }
    if (!p->parts.preempt && !p->host_page_left) {
        ret = pusher_send_requested(p, p->parts.sender, errp);
    }
    if (!ret) {
        ret = pusher_push_unrequested(p, errp);
    }
    /* Let the return path be read. */
    snap_co_pause();
    return MIN(ret, 0);
}

/* Whether all was sent. Returns: 1, 0, or -errno with @errp set */
static int coroutine_fn pusher_is_over(SnapPusher *p, Error **errp)
{
    int ret;

    if (p->fault_around || !snap_demand_is_idle(p->parts.demand)) {
        return 0;
    }
    ret = snap_prefetch_status(p->prefetch, errp);
    if (ret) {
        return MIN(ret, 0);
    }
    if (p->options.reasons & (1u << SNAP_PUSH_LINEAR)) {
        return 1;
    }
    ret = snap_push_plan_rest(p->parts.plan, errp);
    return ret < 0 ? ret : !ret;
}

/* For a while, only what is requested is sent, so that it is recorded. */
static void pusher_start_recording(SnapPusher *p)
{
    int64_t now_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);

    snap_pacing_hold(&p->pacing, now_ns + p->options.record_ns);
    p->recording = true;
    pusher_end_recording(p, now_ns);
}

int coroutine_fn snap_pusher_run(SnapPusher *p, Error **errp)
{
    int ret = 0;

    pusher_start_recording(p);
    if (p->parts.preempt) {
        snap_task_group_start(p->preempt_task, "preempt channel",
                              pusher_preempt_entry, p);
    }
    snap_prefetch_start(p->prefetch);
    while (!ret && !p->stopped) {
        ret = pusher_is_over(p, errp);
        if (!ret) {
            ret = pusher_push_once(p, errp);
        }
    }
    if (ret >= 0 && p->stopped) {
        ret = -ECONNABORTED;
    }
    trace_snap_pusher_over(ret);
    return MIN(ret, 0);
}
