/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a stream's pages to the image
 *
 * Theory of operation: pages are collected in buffers, each of which stands
 * for an aligned piece of the image.  Several are open at a time, because a
 * background snapshot jumps to pages that the guest writes to and continues
 * from there, and because several channels may bring pages.
 *
 *   a buffer is  since                           meanwhile it
 *   -----------  ------------------------------  ------------------------------
 *   free         the start, or its write's end   waits for the next piece
 *   open         a page of its piece             collects pages of this piece
 *   held         reserve: somebody fills room    stays open, until all of them
 *                                                commit or cancel
 *   submitted    another piece that needs the    is written, extended to whole
 *                slot, or a flush                units of allocation (coalesce)
 *
 * A page is filled in its buffer, so that its data is never copied: reserve
 * gives the room, commit hashes what is there.  A page that comes again while
 * its buffer is open replaces the one before; if the buffer was submitted, it
 * goes to a new one, and the window carries out writes of one piece in order.
 *
 * Two bits a page say what has come: @seen, and @stored if it had data.  A
 * zero page that the stream calls one is an entry of the table and no write,
 * unless it had data before.  The counts of the block table are made from
 * these bits.
 *
 * The arrival list has the pages that were not the next one missing: these were
 * requested by writes of the guest, and it is likely to need them first.
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/lockable.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "snap/image/format.h"
#include "snap/image/ram-writer.h"
#include "snap/ram/source.h"
#include "snap/storage/coalesce.h"
#include "snap/storage/io-window.h"
#include "snap/trace.h"

/* The piece of the image in a buffer; divides SNAP_BLOCK_ALIGN. */
#define BUFFER_SIZE (1 * MiB)
#define MAX_BUFFER_PAGES (BUFFER_SIZE >> SNAP_MIN_PAGE_BITS)
/* Buffers being filled, and buffers in all: open or in flight. */
#define OPEN_BUFFERS 8
#define NB_BUFFERS (OPEN_BUFFERS + 16)
/* For formats without a unit of allocation. */
#define DEFAULT_FILL (64 * KiB)

/* A buffer that collects pages. */
typedef struct OpenBuffer {
    SnapIOBuffer *buffer;       /* NULL if not in use */
    uint64_t first_page;        /* page number of its first page */
    unsigned nb_pages;          /* pages of the RAM block in it */
    unsigned holders;           /* not submitted while there are any */
    uint64_t last_use;
    DECLARE_BITMAP(present, MAX_BUFFER_PAGES);
} OpenBuffer;

struct SnapRAMWriter {
    /* constant */
    const SnapLayout *layout;
    const SnapRAMBlocks *ram;
    SnapTable *page_table;
    SnapTable *arrivals;        /* NULL if the order means nothing */
    SnapIOWindow *window;
    unsigned fill_pages;        /* unit of allocation, in pages */

    /* buffers being filled; opening and submitting them takes the lock */
    CoMutex lock;
    OpenBuffer open[OPEN_BUFFERS];
    OpenBuffer *current;
    uint64_t use;
    CoQueue released;           /* waiters for a buffer without holders */

    /* page accounting: two bits a page */
    unsigned long *seen;
    unsigned long *stored;
    uint64_t nb_seen;
    bool repeated;
    bool flushed;               /* no page has come since */

    /* order of arrival */
    uint64_t expected;
    uint64_t nb_arrivals;
    bool arrivals_truncated;
};

/* Pages of the unit that the image allocates as a whole. */
static unsigned ram_writer_fill_unit(BlockBackend *blk, unsigned page_bits)
{
    BlockDriverInfo info = { };
    int64_t unit = DEFAULT_FILL;

    if (bdrv_get_info(blk_bs(blk), &info) == 0 && info.cluster_size > 0) {
        unit = MIN(info.subcluster_size ?: info.cluster_size, BUFFER_SIZE);
    }
    return MAX(unit >> page_bits, 1);
}

SnapRAMWriter *snap_ram_writer_new(BlockBackend *blk, const SnapLayout *layout,
                                   SnapTable *page_table, SnapTable *arrivals,
                                   Error **errp)
{
    SnapRAMWriter *w = g_new0(SnapRAMWriter, 1);
    const SnapRAMBlocks *ram = layout->ram;

    w->layout = layout;
    w->ram = ram;
    w->page_table = page_table;
    w->arrivals = arrivals;
    w->window = snap_io_window_new(blk, NB_BUFFERS, BUFFER_SIZE);
    qemu_co_mutex_init(&w->lock);
    qemu_co_queue_init(&w->released);
    w->fill_pages = ram_writer_fill_unit(blk, ram->page_bits);
    if (ram->nb_pages <= LONG_MAX) {
        w->seen = bitmap_try_new(ram->nb_pages);
        w->stored = bitmap_try_new(ram->nb_pages);
    }
    if (!w->seen || !w->stored) {
        error_setg(errp, "Not enough memory for the bitmaps of %" PRIu64
                   " pages", ram->nb_pages);
        snap_ram_writer_free(w);
        return NULL;
    }
    return w;
}

void snap_ram_writer_free(SnapRAMWriter *w)
{
    if (!w) {
        return;
    }
    snap_io_window_free(w->window);
    g_free(w->seen);
    g_free(w->stored);
    g_free(w);
}

/* Report the first error of a write, which may have been an earlier one. */
static int ram_writer_write_status(SnapRAMWriter *w, Error **errp)
{
    int ret = snap_io_window_status(w->window);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not write RAM");
    }
    return ret;
}

/*
 * Bits of @map from @first on as a map of their own. Pieces of RAM start at
 * any page number, so they are not aligned to words.
 */
static void ram_writer_copy_bits(unsigned long *dst, const unsigned long *map,
                                 uint64_t first, unsigned nb)
{
    for (uint64_t page = find_next_bit(map, first + nb, first);
         page < first + nb; page = find_next_bit(map, first + nb, page + 1)) {
        set_bit(page - first, dst);
    }
}

/* Zero those pages of an extent that were not collected. */
static void ram_writer_zero_gaps(const OpenBuffer *open,
                                 const SnapExtent *extent, unsigned page_bits)
{
    unsigned end = extent->first + extent->count;
    unsigned gap = find_next_zero_bit(open->present, end, extent->first);

    while (gap < end) {
        unsigned next = find_next_bit(open->present, end, gap);

        memset(open->buffer->data + ((size_t)gap << page_bits), 0,
               (size_t)(next - gap) << page_bits);
        gap = find_next_zero_bit(open->present, end, next);
    }
}

/* Hand an open buffer to the window. */
static void coroutine_fn ram_writer_submit(SnapRAMWriter *w, OpenBuffer *open)
{
    g_autofree SnapExtent *extents = g_new(SnapExtent, MAX_BUFFER_PAGES);
    DECLARE_BITMAP(stored, MAX_BUFFER_PAGES);
    unsigned page_bits = w->ram->page_bits;
    unsigned nb_extents;

    bitmap_zero(stored, MAX_BUFFER_PAGES);
    ram_writer_copy_bits(stored, w->stored, open->first_page, open->nb_pages);
    nb_extents = snap_coalesce(open->present, stored, BUFFER_SIZE >> page_bits,
                               w->fill_pages, extents);
    for (unsigned i = 0; i < nb_extents; i++) {
        ram_writer_zero_gaps(open, &extents[i], page_bits);
    }
    trace_snap_ram_writer_submit(open->buffer->offset, nb_extents);
    w->current = NULL;
    snap_io_window_write(w->window, g_steal_pointer(&open->buffer), page_bits,
                         extents, nb_extents);
}

static bool open_buffer_has(const OpenBuffer *open, uint64_t page)
{
    return open->buffer && page >= open->first_page &&
           page - open->first_page < open->nb_pages;
}

static OpenBuffer *ram_writer_find_open(SnapRAMWriter *w, uint64_t page)
{
    if (w->current && open_buffer_has(w->current, page)) {
        return w->current;
    }
    for (unsigned i = 0; i < OPEN_BUFFERS; i++) {
        if (open_buffer_has(&w->open[i], page)) {
            return &w->open[i];
        }
    }
    return NULL;
}

/* One not in use, or the least recently used one; NULL if all are held. */
static OpenBuffer *ram_writer_victim(SnapRAMWriter *w)
{
    OpenBuffer *victim = NULL;

    for (unsigned i = 0; i < OPEN_BUFFERS; i++) {
        OpenBuffer *open = &w->open[i];

        if (!open->buffer) {
            return open;
        }
        if (!open->holders && (!victim || open->last_use < victim->last_use)) {
            victim = open;
        }
    }
    return victim;
}

/* Turn @open into the buffer for the piece of the image with @page. */
static void coroutine_fn ram_writer_reopen(SnapRAMWriter *w, OpenBuffer *open,
                                           uint64_t page)
{
    const SnapRAMBlock *block = snap_ram_block_of(w->ram, page);
    unsigned page_bits = w->ram->page_bits;
    /* Blocks start at multiples of BUFFER_SIZE. */
    uint64_t in_block = QEMU_ALIGN_DOWN((page - block->first_page) << page_bits,
                                        BUFFER_SIZE);
    SnapIOBuffer *buffer;

    if (open->buffer) {
        ram_writer_submit(w, open);
    }
    buffer = snap_io_window_get(w->window);
    open->first_page = snap_ram_page(w->ram, block, in_block);
    open->nb_pages = MIN(block->length - in_block, BUFFER_SIZE) >> page_bits;
    buffer->offset = snap_layout_page_offset(w->layout, block,
                                             open->first_page);
    bitmap_zero(open->present, MAX_BUFFER_PAGES);
    open->buffer = buffer;
}

static OpenBuffer *coroutine_fn ram_writer_find_or_open(SnapRAMWriter *w,
                                                        uint64_t page)
{
    QEMU_LOCK_GUARD(&w->lock);
    OpenBuffer *open;

    while (!(open = ram_writer_find_open(w, page))) {
        open = ram_writer_victim(w);
        if (open) {
            ram_writer_reopen(w, open, page);
            break;
        }
        qemu_co_queue_wait(&w->released, &w->lock);
    }
    return open;
}

/* The open buffer for the piece of the image with @page. */
static OpenBuffer *coroutine_fn ram_writer_open_buffer(SnapRAMWriter *w,
                                                       uint64_t page)
{
    OpenBuffer *open = ram_writer_find_open(w, page) ?:
                       ram_writer_find_or_open(w, page);

    if (open != w->current) {
        open->last_use = ++w->use;
        w->current = open;
    }
    return open;
}

static uint8_t *ram_writer_page_data(const SnapRAMWriter *w,
                                     const OpenBuffer *open, uint64_t page)
{
    return open->buffer->data +
           ((page - open->first_page) << w->ram->page_bits);
}

void *coroutine_fn snap_ram_writer_reserve(SnapRAMWriter *w, uint64_t page,
                                           unsigned *nb_pages)
{
    OpenBuffer *open = ram_writer_open_buffer(w, page);
    unsigned first = page - open->first_page;
    unsigned end = find_next_bit(open->present, open->nb_pages, first + 1);

    open->holders++;
    *nb_pages = MIN(*nb_pages, end - first);
    return ram_writer_page_data(w, open, page);
}

unsigned coroutine_fn snap_ram_writer_reserve_several(SnapRAMWriter *w,
                                                      const uint64_t *pages,
                                                      unsigned nb_pages,
                                                      QEMUIOVector *qiov)
{
    size_t page_size = snap_ram_page_size(w->ram);
    OpenBuffer *open = ram_writer_open_buffer(w, pages[0]);
    unsigned i = 0;

    open->holders++;
    while (i < nb_pages && open_buffer_has(open, pages[i])) {
        unsigned first = i++;

        while (i < nb_pages && pages[i] == pages[i - 1] + 1 &&
               open_buffer_has(open, pages[i])) {
            i++;
        }
        qemu_iovec_add(qiov, ram_writer_page_data(w, open, pages[first]),
                       (i - first) * page_size);
    }
    return i;
}

/* The page that the sweep comes to next; after the last one it wraps around. */
static uint64_t ram_writer_next_missing(const SnapRAMWriter *w)
{
    uint64_t nb_pages = w->ram->nb_pages;
    uint64_t next = find_next_zero_bit(w->seen, nb_pages, w->expected);

    return next < nb_pages ? next : find_first_zero_bit(w->seen, nb_pages);
}

/*
 * A page that is not the next one still missing was requested by a write of
 * the guest (migration/ram.c:get_queued_page): it belongs to its working set.
 */
static int coroutine_fn ram_writer_note_arrival(SnapRAMWriter *w, uint64_t page,
                                                Error **errp)
{
    int ret = 0;

    if (!w->arrivals) {
        return 0;
    }
    if (page != w->expected) {
        uint64_t next = ram_writer_next_missing(w);

        if (page != next && w->nb_arrivals < SNAP_MAX_ARRIVALS) {
            ret = snap_table_set(w->arrivals, w->nb_arrivals++, page, errp);
        } else if (page != next) {
            w->arrivals_truncated = true;
        }
    }
    w->expected = page + 1 < w->ram->nb_pages ? page + 1 : 0;
    return ret;
}

/* Note what a page is, with or without data. */
static int coroutine_fn ram_writer_note_page(SnapRAMWriter *w, uint64_t page,
                                             bool has_data, Error **errp)
{
    int ret = 0;

    if (test_bit(page, w->seen)) {
        w->repeated = true;
    } else {
        ret = ram_writer_note_arrival(w, page, errp);
        set_bit(page, w->seen);
        w->nb_seen++;
    }
    if (has_data) {
        set_bit(page, w->stored);
    } else {
        clear_bit(page, w->stored);
    }
    return ret;
}

/* Record a page in the table, and check earlier writes. */
static int coroutine_fn ram_writer_record_page(SnapRAMWriter *w, uint64_t page,
                                               uint64_t entry, Error **errp)
{
    int ret = snap_table_set(w->page_table, page, entry, errp);

    w->flushed = false;
    if (!ret) {
        ret = ram_writer_note_page(w, page, entry != SNAP_PAGE_ZERO, errp);
    }
    return ret < 0 ? ret : ram_writer_write_status(w, errp);
}

/* The buffer that @page was reserved in: it is held, and so still open. */
static OpenBuffer *ram_writer_held_buffer(SnapRAMWriter *w, uint64_t page)
{
    OpenBuffer *open = ram_writer_find_open(w, page);

    assert(open && open->holders);
    return open;
}

static void coroutine_fn ram_writer_release(SnapRAMWriter *w, OpenBuffer *open)
{
    open->holders--;
    qemu_co_queue_restart_all(&w->released);
}

void coroutine_fn snap_ram_writer_cancel(SnapRAMWriter *w, uint64_t page)
{
    ram_writer_release(w, ram_writer_held_buffer(w, page));
}

static int coroutine_fn ram_writer_commit_page(SnapRAMWriter *w,
                                               OpenBuffer *open, uint64_t page,
                                               Error **errp)
{
    size_t page_size = snap_ram_page_size(w->ram);
    const uint8_t *data = ram_writer_page_data(w, open, page);

    set_bit(page - open->first_page, open->present);
    return ram_writer_record_page(w, page, buffer_is_zero(data, page_size) ?
                                SNAP_PAGE_ZERO :
                                snap_page_entry(data, page_size), errp);
}

int coroutine_fn snap_ram_writer_commit(SnapRAMWriter *w, uint64_t page,
                                        unsigned nb_pages, Error **errp)
{
    OpenBuffer *open = ram_writer_held_buffer(w, page);
    int ret = 0;

    for (unsigned i = 0; i < nb_pages && !ret; i++) {
        ret = ram_writer_commit_page(w, open, page + i, errp);
    }
    ram_writer_release(w, open);
    return ret;
}

int coroutine_fn snap_ram_writer_commit_several(SnapRAMWriter *w,
                                                const uint64_t *pages,
                                                unsigned nb_pages,
                                                Error **errp)
{
    OpenBuffer *open = ram_writer_held_buffer(w, pages[0]);
    int ret = 0;

    for (unsigned i = 0; i < nb_pages && !ret; i++) {
        ret = ram_writer_commit_page(w, open, pages[i], errp);
    }
    ram_writer_release(w, open);
    return ret;
}

int coroutine_fn snap_ram_writer_add_zero(SnapRAMWriter *w, uint64_t page,
                                          Error **errp)
{
    if (test_bit(page, w->stored)) {
        /* Overwrite the stale data with zeroes. */
        unsigned nb_pages = 1;
        void *room = snap_ram_writer_reserve(w, page, &nb_pages);

        memset(room, 0, snap_ram_page_size(w->ram));
        return snap_ram_writer_commit(w, page, nb_pages, errp);
    }
    return ram_writer_record_page(w, page, SNAP_PAGE_ZERO, errp);
}

int coroutine_fn snap_ram_writer_flush(SnapRAMWriter *w, Error **errp)
{
    int ret;

    w->flushed = true;
    for (unsigned i = 0; i < OPEN_BUFFERS; i++) {
        if (w->open[i].buffer) {
            ram_writer_submit(w, &w->open[i]);
        }
    }
    snap_io_window_drain(w->window);
    ret = ram_writer_write_status(w, errp);
    w->flushed &= !ret;
    return ret;
}

bool snap_ram_writer_is_flushed(const SnapRAMWriter *w)
{
    return w->flushed;
}

void coroutine_fn snap_ram_writer_abort(SnapRAMWriter *w)
{
    for (unsigned i = 0; i < OPEN_BUFFERS; i++) {
        if (w->open[i].buffer) {
            snap_io_window_put(w->window,
                               g_steal_pointer(&w->open[i].buffer));
        }
    }
    snap_io_window_drain(w->window);
}

uint64_t snap_ram_writer_missing(const SnapRAMWriter *w)
{
    return w->ram->nb_pages - w->nb_seen;
}

SnapPageCounts *snap_ram_writer_counts(const SnapRAMWriter *w)
{
    SnapPageCounts *counts = g_new(SnapPageCounts, w->ram->nb_blocks);

    for (unsigned i = 0; i < w->ram->nb_blocks; i++) {
        const SnapRAMBlock *block = &w->ram->blocks[i];
        uint64_t nb_pages = snap_ram_block_pages(w->ram, block);
        uint64_t seen = bitmap_count_one_with_offset(w->seen, block->first_page,
                                                     nb_pages);

        counts[i].stored = bitmap_count_one_with_offset(w->stored,
                                                        block->first_page,
                                                        nb_pages);
        counts[i].zero = seen - counts[i].stored;
    }
    return counts;
}

bool snap_ram_writer_repeated(const SnapRAMWriter *w)
{
    return w->repeated;
}

uint64_t snap_ram_writer_arrivals(const SnapRAMWriter *w, bool *truncated)
{
    *truncated = w->arrivals_truncated;
    return w->nb_arrivals;
}
