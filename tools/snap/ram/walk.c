/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Walking through a source's RAM in some order, with reads in flight
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "snap/ram/walk.h"

/* Reads to start per call, so that the first result is not delayed. */
#define READS_AT_ONCE 2

/* Entries to keep: ranges come in order, for the most part. */
#define LOOKUP_SIZE (256 * KiB)

struct SnapRAMWalk {
    /* constant */
    const SnapRAMBlocks *ram;
    SnapPageReader *reader;
    unsigned piece_pages;
    SnapRAMPlanFunc *plan;
    void *opaque;

    /* reads that were started, in order */
    SnapPageRead reads[SNAP_RAM_WALK_AHEAD];
    unsigned head;
    unsigned nb_ahead;
    SnapPageRead *taken;        /* the caller has it */
    unsigned corrupt_pages;     /* of the piece that was taken last */

    /* what to start next */
    SnapPageRange next;
    bool at_end;
    unsigned next_block;        /* if there is no plan */
};

/* The default plan: one block after another. */
static int coroutine_fn ram_walk_plan_all(void *opaque, SnapPageRange *range,
                                          Error **errp)
{
    SnapRAMWalk *w = opaque;
    const SnapRAMBlock *block = &w->ram->blocks[w->next_block];

    if (w->next_block == w->ram->nb_blocks) {
        return 0;
    }
    *range = (SnapPageRange) {
        .first = block->first_page,
        .count = snap_ram_block_pages(w->ram, block),
    };
    w->next_block++;
    return 1;
}

SnapRAMWalk *snap_ram_walk_new(SnapPageSource *source, size_t piece_size,
                               SnapRAMPlanFunc *plan, void *opaque)
{
    SnapRAMWalk *w = g_new0(SnapRAMWalk, 1);
    const SnapPageReaderLimits limits = {
        .nb_reads = SNAP_RAM_WALK_AHEAD,
        .read_size = piece_size,
        .lookup_size = LOOKUP_SIZE,
    };

    w->ram = source->ram;
    w->reader = snap_page_reader_open(source, &limits);
    w->piece_pages = piece_size >> source->ram->page_bits;
    w->plan = plan ?: ram_walk_plan_all;
    w->opaque = plan ? opaque : w;
    return w;
}

void snap_ram_walk_free(SnapRAMWalk *w)
{
    if (!w) {
        return;
    }
    for (unsigned i = 0; i < SNAP_RAM_WALK_AHEAD; i++) {
        snap_page_reader_release(w->reader, &w->reads[i]);
    }
    snap_page_reader_close(w->reader);
    g_free(w);
}

/* Start to read the next piece; pieces are aligned within their block. */
static int coroutine_fn ram_walk_start_piece(SnapRAMWalk *w, Error **errp)
{
    SnapPageRead *read = &w->reads[(w->head + w->nb_ahead) %
                                  SNAP_RAM_WALK_AHEAD];
    const SnapRAMBlock *block;
    SnapPageRange piece;
    int ret;

    if (!w->next.count) {
        ret = w->plan(w->opaque, &w->next, errp);
        if (ret <= 0) {
            w->at_end = true;
            return ret;
        }
    }
    block = snap_ram_block_of(w->ram, w->next.first);
    piece = (SnapPageRange) {
        .first = w->next.first,
        .count = MIN(w->next.count, w->piece_pages -
                     (w->next.first - block->first_page) % w->piece_pages),
    };
    ret = snap_page_reader_start(w->reader, read, piece, errp);
    if (ret < 0) {
        return ret;
    }
    w->nb_ahead++;
    w->next.first += piece.count;
    w->next.count -= piece.count;
    return 0;
}

/* Wait for the head of the queue and hand it to the caller. */
static int coroutine_fn ram_walk_take_piece(SnapRAMWalk *w, SnapPages *pages,
                                            Error **errp)
{
    SnapPageRead *read = &w->reads[w->head];
    int ret;

    w->head = (w->head + 1) % SNAP_RAM_WALK_AHEAD;
    w->nb_ahead--;
    w->taken = read;
    ret = snap_page_reader_wait(w->reader, read, errp);
    w->corrupt_pages = read->nb_corrupt;
    *pages = read->pages;
    return ret < 0 ? ret : 1;
}

unsigned snap_ram_walk_corrupt_pages(const SnapRAMWalk *w)
{
    return w->corrupt_pages;
}

static void ram_walk_put_taken(SnapRAMWalk *w)
{
    if (w->taken) {
        snap_page_reader_release(w->reader, w->taken);
    }
    w->taken = NULL;
}

int coroutine_fn snap_ram_walk_next(SnapRAMWalk *w, SnapPages *pages,
                                    Error **errp)
{
    ram_walk_put_taken(w);
    w->corrupt_pages = 0;
    for (unsigned i = 0; i < READS_AT_ONCE && !w->at_end &&
                         w->nb_ahead < SNAP_RAM_WALK_AHEAD - 1; i++) {
        int ret = ram_walk_start_piece(w, errp);

        if (ret < 0) {
            return ret;
        }
    }
    return w->nb_ahead ? ram_walk_take_piece(w, pages, errp) : 0;
}

void coroutine_fn snap_ram_walk_abort(SnapRAMWalk *w)
{
    snap_page_reader_drain(w->reader);
}
