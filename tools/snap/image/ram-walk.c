/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Walking through a snapshot's RAM in some order, with reads in flight
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "snap/image/ram-walk.h"

/* Reads to start per call, so that the first result is not delayed. */
#define READS_AT_ONCE 2

/* The table is walked in order, for the most part. */
#define TABLE_CHUNKS 4

struct SnapRAMWalk {
    /* constant */
    SnapRAMSource source;
    unsigned piece_pages;
    SnapRAMPlanFunc *plan;
    void *opaque;

    /* reads that were started, in order */
    SnapRAMRead reads[SNAP_RAM_PIECES_AHEAD];
    unsigned head;
    unsigned nb_ahead;
    SnapRAMRead *taken;         /* the caller has it */
    unsigned corrupt_pages;     /* of the piece that was taken last */

    /* what to start next */
    SnapPageRange next;
    bool at_end;
    unsigned next_block;        /* if there is no plan */
};

/* The default plan: one block after another. */
static int coroutine_fn plan_all(void *opaque, SnapPageRange *range,
                                 Error **errp)
{
    SnapRAMWalk *r = opaque;
    const SnapRAMBlocks *ram = &r->source.image->ram;
    const SnapRAMBlock *block = &ram->blocks[r->next_block];

    if (r->next_block == ram->nb_blocks) {
        return 0;
    }
    *range = (SnapPageRange) {
        .first = block->first_page,
        .count = snap_ram_block_pages(ram, block),
    };
    r->next_block++;
    return 1;
}

SnapRAMWalk *snap_ram_walk_new(SnapImage *image, size_t piece_size,
                               SnapRAMPlanFunc *plan, void *opaque)
{
    SnapRAMWalk *r = g_new0(SnapRAMWalk, 1);

    snap_ram_source_init(&r->source, image, TABLE_CHUNKS, SNAP_RAM_PIECES_AHEAD,
                         piece_size);
    r->piece_pages = piece_size >> image->ram.page_bits;
    r->plan = plan ?: plan_all;
    r->opaque = plan ? opaque : r;
    return r;
}

void snap_ram_walk_free(SnapRAMWalk *r)
{
    if (!r) {
        return;
    }
    for (unsigned i = 0; i < SNAP_RAM_PIECES_AHEAD; i++) {
        snap_ram_read_end(&r->source, &r->reads[i]);
    }
    snap_ram_source_destroy(&r->source);
    g_free(r);
}

/* Start to read the next piece; pieces are aligned within their block. */
static int coroutine_fn start_piece(SnapRAMWalk *r, Error **errp)
{
    SnapRAMRead *read = &r->reads[(r->head + r->nb_ahead) %
                                  SNAP_RAM_PIECES_AHEAD];
    const SnapRAMBlock *block;
    SnapPageRange piece;
    int ret;

    if (!r->next.count) {
        ret = r->plan(r->opaque, &r->next, errp);
        if (ret <= 0) {
            r->at_end = true;
            return ret;
        }
    }
    block = snap_ram_block_of(&r->source.image->ram, r->next.first);
    piece = (SnapPageRange) {
        .first = r->next.first,
        .count = MIN(r->next.count, r->piece_pages -
                     (r->next.first - block->first_page) % r->piece_pages),
    };
    ret = snap_ram_read_start(&r->source, read, piece, errp);
    if (ret < 0) {
        return ret;
    }
    r->nb_ahead++;
    r->next.first += piece.count;
    r->next.count -= piece.count;
    return 0;
}

/* Wait for the head of the queue and hand it to the caller. */
static int coroutine_fn take_piece(SnapRAMWalk *r, SnapPages *pages,
                                   Error **errp)
{
    SnapRAMRead *read = &r->reads[r->head];
    int ret;

    r->head = (r->head + 1) % SNAP_RAM_PIECES_AHEAD;
    r->nb_ahead--;
    r->taken = read;
    ret = snap_ram_read_wait(&r->source, read, pages, &r->corrupt_pages, errp);
    return ret < 0 ? ret : 1;
}

unsigned snap_ram_walk_corrupt_pages(const SnapRAMWalk *r)
{
    return r->corrupt_pages;
}

static void put_taken(SnapRAMWalk *r)
{
    if (r->taken) {
        snap_ram_read_end(&r->source, r->taken);
    }
    r->taken = NULL;
}

int coroutine_fn snap_ram_walk_next(SnapRAMWalk *r, SnapPages *pages,
                                    Error **errp)
{
    put_taken(r);
    r->corrupt_pages = 0;
    for (unsigned i = 0; i < READS_AT_ONCE && !r->at_end &&
                         r->nb_ahead < SNAP_RAM_PIECES_AHEAD - 1; i++) {
        int ret = start_piece(r, errp);

        if (ret < 0) {
            return ret;
        }
    }
    return r->nb_ahead ? take_piece(r, pages, errp) : 0;
}

void coroutine_fn snap_ram_walk_abort(SnapRAMWalk *r)
{
    snap_io_window_drain(r->source.window);
}
