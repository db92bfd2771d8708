/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A bounded window of requests in flight
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/madvise.h"
#include "qemu/memalign.h"
#include "qemu/units.h"
#include "block/reqlist.h"
#include "snap/storage/io-window.h"
#include "snap/trace.h"

/* If hugepages have another size, nothing is lost. */
#define HUGE_PAGE (2 * MiB)

typedef struct Request Request;

struct Request {
    SnapIOBuffer buffer;            /* first: what callers see */
    SnapIOWindow *window;

    /* while in flight */
    BlockReq req;
    bool is_write;
    size_t bytes;
    unsigned page_bits;
    SnapExtent *extents;
    unsigned nb_extents;

    /* after a read, until the next use */
    bool in_flight;
    int ret;

    QSIMPLEQ_ENTRY(Request) next;   /* while free */
};

struct SnapIOWindow {
    /* constant */
    BlockBackend *blk;
    size_t buffer_size;
    uint8_t *memory;                /* of all buffers */
    Request *requests;
    unsigned nb_requests;

    QSIMPLEQ_HEAD(, Request) free_requests;
    BlockReqList writes;            /* in flight, for the order of writes */
    unsigned in_flight;
    int write_ret;                  /* first error of a write */
    CoQueue waiting;                /* the caller, for any request to finish */
};

/*
 * Buffers are mostly run through once, which is mostly waiting for memory: huge
 * pages shorten that.
 */
static uint8_t *alloc_buffers(BlockBackend *blk, size_t size)
{
    size_t align = MAX(HUGE_PAGE, bdrv_opt_mem_align(blk_bs(blk)));
    uint8_t *memory = qemu_memalign(align, size);

    qemu_madvise(memory, size, QEMU_MADV_HUGEPAGE);
    return memory;
}

SnapIOWindow *snap_io_window_new(BlockBackend *blk, unsigned nb_buffers,
                                 size_t buffer_size)
{
    SnapIOWindow *w = g_new0(SnapIOWindow, 1);

    w->blk = blk;
    w->buffer_size = buffer_size;
    w->memory = alloc_buffers(blk, nb_buffers * buffer_size);
    w->requests = g_new0(Request, nb_buffers);
    w->nb_requests = nb_buffers;
    QSIMPLEQ_INIT(&w->free_requests);
    QLIST_INIT(&w->writes);
    qemu_co_queue_init(&w->waiting);

    for (unsigned i = 0; i < nb_buffers; i++) {
        Request *request = &w->requests[i];

        request->window = w;
        request->buffer.data = w->memory + i * buffer_size;
        QSIMPLEQ_INSERT_TAIL(&w->free_requests, request, next);
    }
    return w;
}

void snap_io_window_free(SnapIOWindow *w)
{
    if (!w) {
        return;
    }
    assert(!w->in_flight);
    qemu_vfree(w->memory);
    g_free(w->requests);
    g_free(w);
}

SnapIOBuffer *coroutine_fn snap_io_window_get(SnapIOWindow *w)
{
    Request *request;

    IO_CODE();
    while (QSIMPLEQ_EMPTY(&w->free_requests)) {
        qemu_co_queue_wait(&w->waiting, NULL);
    }
    /* The last one given back is most likely still in the cache. */
    request = QSIMPLEQ_FIRST(&w->free_requests);
    QSIMPLEQ_REMOVE_HEAD(&w->free_requests, next);
    return &request->buffer;
}

void snap_io_window_put(SnapIOWindow *w, SnapIOBuffer *buffer)
{
    Request *request = container_of(buffer, Request, buffer);

    IO_CODE();
    assert(!request->in_flight);
    QSIMPLEQ_INSERT_HEAD(&w->free_requests, request, next);
}

static int coroutine_fn write_extents(Request *request)
{
    for (unsigned i = 0; i < request->nb_extents; i++) {
        const SnapExtent *extent = &request->extents[i];
        size_t start = (size_t)extent->first << request->page_bits;
        int ret = blk_co_pwrite(request->window->blk,
                                request->buffer.offset + start,
                                (int64_t)extent->count << request->page_bits,
                                request->buffer.data + start, 0);

        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

static void coroutine_fn do_write(Request *request)
{
    SnapIOWindow *w = request->window;

    request->ret = write_extents(request);
    g_clear_pointer(&request->extents, g_free);
    if (request->ret < 0 && !w->write_ret) {
        w->write_ret = request->ret;
    }
    reqlist_remove_req(&request->req);
}

static void coroutine_fn do_read(Request *request)
{
    request->ret = blk_co_pread(request->window->blk, request->buffer.offset,
                                request->bytes, request->buffer.data, 0);
}

static void coroutine_fn io_window_entry(void *opaque)
{
    Request *request = opaque;
    SnapIOWindow *w = request->window;

    if (request->is_write) {
        do_write(request);
    } else {
        do_read(request);
    }
    trace_snap_io_window_done(request->buffer.offset, request->is_write,
                              request->ret);

    request->in_flight = false;
    w->in_flight--;
    if (request->is_write) {
        snap_io_window_put(w, &request->buffer);
    }
    qemu_co_queue_restart_all(&w->waiting);
}

static void coroutine_fn io_window_start(Request *request)
{
    SnapIOWindow *w = request->window;

    trace_snap_io_window_start(request->buffer.offset, request->is_write,
                               w->in_flight);
    request->in_flight = true;
    w->in_flight++;
    qemu_coroutine_enter(qemu_coroutine_create(io_window_entry, request));
}

void coroutine_fn snap_io_window_write(SnapIOWindow *w, SnapIOBuffer *buffer,
                                       unsigned page_bits,
                                       const SnapExtent *extents,
                                       unsigned nb_extents)
{
    Request *request = container_of(buffer, Request, buffer);

    IO_CODE();
    reqlist_wait_all(&w->writes, buffer->offset, w->buffer_size, NULL);
    if (!nb_extents || w->write_ret) {
        snap_io_window_put(w, buffer);
        return;
    }
    request->is_write = true;
    request->page_bits = page_bits;
    request->extents = g_memdup2(extents, nb_extents * sizeof(*extents));
    request->nb_extents = nb_extents;

    reqlist_init_req(&w->writes, &request->req, buffer->offset,
                     w->buffer_size);
    io_window_start(request);
}

void coroutine_fn snap_io_window_read(SnapIOWindow *w, SnapIOBuffer *buffer,
                                      size_t bytes)
{
    Request *request = container_of(buffer, Request, buffer);

    IO_CODE();
    assert(bytes && bytes <= w->buffer_size);
    request->is_write = false;
    request->bytes = bytes;
    io_window_start(request);
}

int coroutine_fn snap_io_window_wait(SnapIOWindow *w, SnapIOBuffer *buffer)
{
    Request *request = container_of(buffer, Request, buffer);

    IO_CODE();
    while (request->in_flight) {
        qemu_co_queue_wait(&w->waiting, NULL);
    }
    return request->ret;
}

void coroutine_fn snap_io_window_drain(SnapIOWindow *w)
{
    IO_CODE();
    while (w->in_flight) {
        qemu_co_queue_wait(&w->waiting, NULL);
    }
}

int snap_io_window_status(const SnapIOWindow *w)
{
    return w->write_ret;
}
