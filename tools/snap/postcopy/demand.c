/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that the destination waits for, and those around them
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/queue.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "snap/postcopy/demand.h"
#include "snap/trace.h"

/* Reads in flight, or ready and not taken yet. */
#define MAX_REQUESTED    16
#define MAX_FAULT_AROUND 8

/* Fault-around of older requests than these is dropped. */
#define MAX_FAULT_AROUND_WAITING 32

/* Requests go all over RAM: entries of 4 GiB of it. */
#define LOOKUP_SIZE (8 * MiB)

typedef QTAILQ_HEAD(, SnapFetch) FetchList;

/* Fetches for one reason. */
typedef struct Queue {
    FetchList waiting;
    FetchList ready;
    unsigned nb_waiting;
    unsigned nb_reading;        /* being read, ready, or taken */
    unsigned nb_unread;         /* of these, not ready yet */
    unsigned max_reading;
} Queue;

struct SnapDemand {
    /* constant */
    SnapPageReader *reader;
    SnapPageMap *map;
    SnapPostcopyStats *stats;
    void (*ready)(void *opaque);
    void *opaque;

    /* set by the user */
    unsigned fault_around_pages;
    GArray *record;
    unsigned max_record;

    Queue requested;
    Queue fault_around;
    unsigned nb_workers;
    bool stopped;               /* by snap_demand_stop() */
    int64_t last_ns;
};

static void queue_init(Queue *queue, unsigned max_reading)
{
    QTAILQ_INIT(&queue->waiting);
    QTAILQ_INIT(&queue->ready);
    queue->max_reading = max_reading;
}

/* Bytes of the largest host page that is to be read as a whole. */
static size_t largest_read(const SnapPageMap *map)
{
    size_t largest = (size_t)SNAP_DEMAND_MAX_FAULT_AROUND <<
                     map->ram->page_bits;

    for (int i = 0; i < map->ram->nb_blocks; i++) {
        uint64_t size = snap_host_pages_size(map->host_pages, i);

        if (size <= SNAP_DEMAND_MAX_READ) {
            largest = MAX(largest, size);
        }
    }
    return largest;
}

SnapDemand *snap_demand_new(SnapPageSource *source, SnapPageMap *map,
                            SnapPostcopyStats *stats,
                            void (*ready)(void *opaque), void *opaque)
{
    SnapDemand *d = g_new0(SnapDemand, 1);
    const SnapPageReaderLimits limits = {
        .nb_reads = MAX_REQUESTED + MAX_FAULT_AROUND,
        .read_size = largest_read(map),
        .lookup_size = LOOKUP_SIZE,
    };

    d->reader = snap_page_reader_open(source, &limits);
    d->map = map;
    d->stats = stats;
    d->ready = ready;
    d->opaque = opaque;
    queue_init(&d->requested, MAX_REQUESTED);
    queue_init(&d->fault_around, MAX_FAULT_AROUND);
    return d;
}

static void fetch_free(SnapDemand *d, SnapFetch *fetch)
{
    snap_page_reader_release(d->reader, &fetch->read);
    error_free(fetch->err);
    g_free(fetch);
}

static void list_free(SnapDemand *d, FetchList *list)
{
    SnapFetch *fetch, *next;

    QTAILQ_FOREACH_SAFE(fetch, list, next, next) {
        fetch_free(d, fetch);
    }
}

void snap_demand_free(SnapDemand *d)
{
    if (!d) {
        return;
    }
    list_free(d, &d->requested.waiting);
    list_free(d, &d->requested.ready);
    list_free(d, &d->fault_around.waiting);
    list_free(d, &d->fault_around.ready);
    snap_page_reader_close(d->reader);
    g_free(d);
}

void snap_demand_set_fault_around(SnapDemand *d, unsigned nb_pages)
{
    d->fault_around_pages = MIN(nb_pages, SNAP_DEMAND_MAX_FAULT_AROUND);
}

void snap_demand_record(SnapDemand *d, GArray *pages, unsigned max_pages)
{
    d->record = pages;
    d->max_record = max_pages;
}

static Queue *queue_of(SnapDemand *d, SnapPushReason reason)
{
    return reason == SNAP_PUSH_REQUESTED ? &d->requested : &d->fault_around;
}

static SnapFetch *fetch_new(SnapDemand *d, SnapPageRange range,
                            SnapPushReason reason)
{
    SnapFetch *fetch = g_new(SnapFetch, 1);

    *fetch = (SnapFetch) {
        .item = { .pages.range = range, .reason = reason },
        .request_ns = d->last_ns,
    };
    return fetch;
}

/* Queue the pages after a requested host page, up to one that was sent. */
static void add_fault_around(SnapDemand *d, SnapPageRange requested)
{
    const SnapRAMBlocks *ram = d->map->ram;
    const SnapRAMBlock *block = snap_ram_block_of(ram, requested.first);
    uint64_t start = requested.first + requested.count;
    uint64_t end = start + ROUND_DOWN(d->fault_around_pages, requested.count);
    SnapPageRange range;
    SnapFetch *fetch;

    if (!snap_page_map_next_unsent(d->map, start,
                                   MIN(end, snap_ram_block_end(ram, block)),
                                   &range)) {
        return;
    }
    fetch = fetch_new(d, range, SNAP_PUSH_FAULT_AROUND);
    /* The newest first: the guest is there now. */
    QTAILQ_INSERT_HEAD(&d->fault_around.waiting, fetch, next);
    d->fault_around.nb_waiting++;
}

/* Fault-around for old requests is stale: drop it. */
static void drop_old_fault_around(SnapDemand *d)
{
    while (d->fault_around.nb_waiting > MAX_FAULT_AROUND_WAITING) {
        SnapFetch *old = QTAILQ_LAST(&d->fault_around.waiting);

        QTAILQ_REMOVE(&d->fault_around.waiting, old, next);
        d->fault_around.nb_waiting--;
        fetch_free(d, old);
    }
}

static bool must_be_streamed(const SnapDemand *d, const SnapFetch *fetch)
{
    return fetch->item.pages.range.count >
           SNAP_DEMAND_MAX_READ >> d->map->ram->page_bits;
}

static void coroutine_fn read_fetch(SnapDemand *d, SnapFetch *fetch)
{
    fetch->ret = snap_page_reader_start(d->reader, &fetch->read,
                                        fetch->item.pages.range, &fetch->err);
    if (!fetch->ret) {
        fetch->ret = snap_page_reader_wait(d->reader, &fetch->read,
                                           &fetch->err);
        fetch->item.pages = fetch->read.pages;
    }
}

/* A coroutine that reads until nothing waits in its queue. */
typedef struct Worker {
    SnapDemand *demand;
    Queue *queue;
} Worker;

static bool demand_may_read(const SnapDemand *d, const Queue *queue)
{
    return !d->stopped && !QTAILQ_EMPTY(&queue->waiting) &&
           queue->nb_reading < queue->max_reading;
}

static void coroutine_fn worker_entry(void *opaque)
{
    Worker *worker = opaque;
    SnapDemand *d = worker->demand;
    Queue *queue = worker->queue;

    while (demand_may_read(d, queue)) {
        SnapFetch *fetch = QTAILQ_FIRST(&queue->waiting);

        QTAILQ_REMOVE(&queue->waiting, fetch, next);
        queue->nb_waiting--;
        queue->nb_reading++;
        queue->nb_unread++;
        if (!must_be_streamed(d, fetch)) {
            read_fetch(d, fetch);
        }
        trace_snap_demand_ready(fetch->item.pages.range.first,
                                fetch->item.pages.range.count,
                                fetch->item.reason, fetch->ret);
        queue->nb_unread--;
        QTAILQ_INSERT_TAIL(&queue->ready, fetch, next);
        d->ready(d->opaque);
    }
    d->nb_workers--;
    g_free(worker);
}

/* Start to read what waits, up to the limit of the queue. */
static void coroutine_fn start_reading(SnapDemand *d, Queue *queue)
{
    while (demand_may_read(d, queue)) {
        Worker *worker = g_new(Worker, 1);

        *worker = (Worker) { .demand = d, .queue = queue };
        d->nb_workers++;
        qemu_coroutine_enter(qemu_coroutine_create(worker_entry, worker));
    }
}

static void request_host_page(SnapDemand *d, SnapPageRange host_page)
{
    uint64_t page = host_page.first;
    bool first = snap_page_map_request(d->map, page);
    SnapFetch *fetch;

    d->stats->requests++;
    if (first && d->record && d->record->len < d->max_record) {
        g_array_append_val(d->record, page);
    }
    if (snap_page_map_is_sent(d->map, page)) {
        d->stats->already_sent++;
        return;
    }
    if (!first) {
        d->stats->duplicate++;
        return;
    }
    add_fault_around(d, host_page);
    fetch = fetch_new(d, host_page, SNAP_PUSH_REQUESTED);
    QTAILQ_INSERT_TAIL(&d->requested.waiting, fetch, next);
    d->requested.nb_waiting++;
}

int coroutine_fn snap_demand_request(SnapDemand *d, SnapPageRange pages,
                                     Error **errp)
{
    SnapPageRange host_page = snap_page_map_host_page(d->map, pages.first);
    uint64_t end = pages.first + pages.count;

    trace_snap_demand_request(pages.first, pages.count);
    d->last_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    for (; host_page.first < end; host_page.first += host_page.count) {
        if (d->requested.nb_waiting == SNAP_DEMAND_MAX_WAITING) {
            error_setg(errp, "The destination requests too many pages at once");
            return -ENOBUFS;
        }
        request_host_page(d, host_page);
    }
    drop_old_fault_around(d);
    start_reading(d, &d->requested);
    start_reading(d, &d->fault_around);
    return 0;
}

SnapFetch *snap_demand_take(SnapDemand *d, SnapPushReason reason)
{
    FetchList *ready = &queue_of(d, reason)->ready;
    SnapFetch *fetch = QTAILQ_FIRST(ready);

    if (fetch) {
        QTAILQ_REMOVE(ready, fetch, next);
    }
    return fetch;
}

void snap_demand_drop(SnapDemand *d, SnapFetch *fetch)
{
    queue_of(d, fetch->item.reason)->nb_reading--;
    fetch_free(d, fetch);
}

void coroutine_fn snap_demand_put(SnapDemand *d, SnapFetch *fetch)
{
    Queue *queue = queue_of(d, fetch->item.reason);

    snap_demand_drop(d, fetch);
    start_reading(d, queue);
}

bool snap_demand_is_idle(const SnapDemand *d)
{
    return !d->requested.nb_waiting && !d->requested.nb_reading &&
           !d->fault_around.nb_waiting && !d->fault_around.nb_reading;
}

bool snap_demand_is_queued(const SnapDemand *d)
{
    return d->requested.nb_waiting;
}

bool snap_demand_is_reading(const SnapDemand *d)
{
    return d->requested.nb_unread;
}

void snap_demand_stop(SnapDemand *d)
{
    d->stopped = true;
}

bool snap_demand_is_quiet(const SnapDemand *d)
{
    return !d->nb_workers;
}

int64_t snap_demand_last_ns(const SnapDemand *d)
{
    return d->last_ns;
}
