/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that the destination waits for, and those around them
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/queue.h"
#include "qemu/timer.h"
#include "snap/postcopy/demand.h"
#include "snap/trace.h"

/* Reads in flight, or ready and not taken yet. */
#define MAX_REQUESTED    16
#define MAX_FAULT_AROUND 8

/* Fault-around of older requests than these is dropped. */
#define MAX_FAULT_AROUND_WAITING 32

/* Requests go all over RAM: 8 MiB, for 4 GiB of it. */
#define TABLE_CHUNKS 128

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
    SnapRAMSource source;
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

SnapDemand *snap_demand_new(SnapImage *image, SnapPageMap *map,
                            SnapPostcopyStats *stats,
                            void (*ready)(void *opaque), void *opaque)
{
    SnapDemand *d = g_new0(SnapDemand, 1);

    snap_ram_source_init(&d->source, image, TABLE_CHUNKS,
                         MAX_REQUESTED + MAX_FAULT_AROUND, largest_read(map));
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
    snap_ram_read_end(&d->source, &fetch->read);
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
    snap_ram_source_destroy(&d->source);
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

static SnapFetch *fetch_new(SnapDemand *d, int block, uint64_t offset,
                            uint64_t length, SnapPushReason reason)
{
    const SnapRAMBlocks *ram = d->map->ram;
    SnapFetch *fetch = g_new(SnapFetch, 1);

    *fetch = (SnapFetch) {
        .first = snap_ram_page(ram, &ram->blocks[block], offset),
        .nb_pages = length >> ram->page_bits,
        .request_ns = d->last_ns,
        .run = {
            .block = block,
            .offset = offset,
            .length = length,
            .reason = reason,
        },
        .piece = { .block = block, .offset = offset, .reason = reason },
    };
    return fetch;
}

/* Queue the pages after a requested host page, up to one that was sent. */
static void add_fault_around(SnapDemand *d, const SnapFetch *request)
{
    const SnapRAMRun *run = &request->run;
    uint64_t wanted = (uint64_t)d->fault_around_pages <<
                      d->map->ram->page_bits;
    uint64_t start = run->offset + run->length;
    uint64_t offset = start;
    uint64_t length;
    SnapFetch *fetch;

    wanted = ROUND_DOWN(wanted, run->length);
    if (!wanted ||
        start >= d->map->ram->blocks[run->block].length ||
        !snap_page_map_next_unsent(d->map, run->block, &offset, &length) ||
        offset >= start + wanted) {
        return;
    }
    fetch = fetch_new(d, run->block, offset,
                      MIN(length, start + wanted - offset),
                      SNAP_PUSH_FAULT_AROUND);
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

static bool must_be_streamed(const SnapFetch *fetch)
{
    return fetch->run.length > SNAP_DEMAND_MAX_READ;
}

static void coroutine_fn read_fetch(SnapDemand *d, SnapFetch *fetch)
{
    fetch->ret = snap_ram_read_start(&d->source, &fetch->read, &fetch->run,
                                     &fetch->err);
    if (!fetch->ret) {
        fetch->ret = snap_ram_read_wait(&d->source, &fetch->read,
                                        &fetch->piece, NULL, &fetch->err);
    }
}

/* A coroutine that reads until nothing waits in its queue. */
typedef struct Worker {
    SnapDemand *demand;
    Queue *queue;
} Worker;

static void coroutine_fn worker_entry(void *opaque)
{
    Worker *worker = opaque;
    SnapDemand *d = worker->demand;
    Queue *queue = worker->queue;

    while (!QTAILQ_EMPTY(&queue->waiting) &&
           queue->nb_reading < queue->max_reading) {
        SnapFetch *fetch = QTAILQ_FIRST(&queue->waiting);

        QTAILQ_REMOVE(&queue->waiting, fetch, next);
        queue->nb_waiting--;
        queue->nb_reading++;
        queue->nb_unread++;
        if (!must_be_streamed(fetch)) {
            read_fetch(d, fetch);
        }
        trace_snap_demand_ready(fetch->first, fetch->nb_pages,
                                fetch->run.reason, fetch->ret);
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
    while (!QTAILQ_EMPTY(&queue->waiting) &&
           queue->nb_reading < queue->max_reading) {
        Worker *worker = g_new(Worker, 1);

        *worker = (Worker) { .demand = d, .queue = queue };
        d->nb_workers++;
        qemu_coroutine_enter(qemu_coroutine_create(worker_entry, worker));
    }
}

static void request_host_page(SnapDemand *d, int block, uint64_t offset,
                              uint64_t length)
{
    SnapFetch *fetch = fetch_new(d, block, offset, length, SNAP_PUSH_REQUESTED);
    bool first = snap_page_map_request(d->map, fetch->first);

    d->stats->requests++;
    if (first && d->record && d->record->len < d->max_record) {
        g_array_append_val(d->record, fetch->first);
    }
    if (snap_page_map_is_sent(d->map, fetch->first)) {
        d->stats->already_sent++;
    } else if (!first) {
        d->stats->duplicate++;
    } else {
        add_fault_around(d, fetch);
        QTAILQ_INSERT_TAIL(&d->requested.waiting, fetch, next);
        d->requested.nb_waiting++;
        return;
    }
    fetch_free(d, fetch);
}

int coroutine_fn snap_demand_request(SnapDemand *d, int block, uint64_t offset,
                                     uint64_t length, Error **errp)
{
    uint64_t host_page = snap_host_pages_size(d->map->host_pages, block);

    trace_snap_demand_request(block, offset, length);
    d->last_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    for (uint64_t done = 0; done < length; done += host_page) {
        if (d->requested.nb_waiting == SNAP_DEMAND_MAX_WAITING) {
            error_setg(errp, "The destination requests too many pages at once");
            return -ENOBUFS;
        }
        request_host_page(d, block, offset + done, host_page);
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
    queue_of(d, fetch->run.reason)->nb_reading--;
    fetch_free(d, fetch);
}

void coroutine_fn snap_demand_put(SnapDemand *d, SnapFetch *fetch)
{
    Queue *queue = queue_of(d, fetch->run.reason);

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

bool snap_demand_is_quiet(const SnapDemand *d)
{
    return !d->nb_workers;
}

int64_t snap_demand_last_ns(const SnapDemand *d)
{
    return d->last_ns;
}
