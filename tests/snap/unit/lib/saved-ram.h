/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A snapshot of some RAM, which is being loaded by postcopy
 */

#ifndef SNAP_TESTS_SAVED_RAM_H
#define SNAP_TESTS_SAVED_RAM_H

#include "snap/image/image.h"
#include "saved-snapshot.h"
#include "some-page-map.h"

/**
 * SavedRAM: the snapshot, and the books of the load
 * @snapshot: on a slow disk
 * @ram: what the destination has
 * @image: the snapshot, once it is complete
 */
typedef struct SavedRAM {
    Snapshot snapshot;
    SomeRAM ram;
    SnapImage *image;
} SavedRAM;

static inline void saved_ram_init(SavedRAM *saved, unsigned host_bits)
{
    Snapshot *s = &saved->snapshot;

    *saved = (SavedRAM) { };
    some_ram_init(&saved->ram, host_bits);
    some_ram_blocks_init(&s->blocks);
    s->blk = slow_disk_open(&s->disk);
    snapshot_begin(s);
}

static inline void saved_ram_destroy(SavedRAM *saved)
{
    snap_image_close(saved->image);
    snapshot_end(&saved->snapshot);
    some_ram_destroy(&saved->ram);
}

/* Complete the snapshot, with an arrival list that the tests choose. */
static inline void coroutine_fn saved_ram_commit(SavedRAM *saved,
                                                 const uint64_t *arrivals,
                                                 unsigned nb_arrivals)
{
    Snapshot *s = &saved->snapshot;
    SnapTable *table = snap_image_writer_arrivals(s->image);

    snap_ram_writer_flush(s->ram, &error_abort);
    for (unsigned i = 0; i < nb_arrivals; i++) {
        snap_table_set(table, i, arrivals[i], &error_abort);
    }
    snap_image_writer_flush_ram(s->image, nb_arrivals, &error_abort);
    commit_header(s, s->image, &error_abort);
    saved->image = snap_image_open(s->blk, &error_abort);
}

/*
 * Pages of all kinds.  Of the four large host pages in block RAM, the first
 * has some data, the second is zero, the third was never sent, and the fourth
 * has data in its last page.
 */
static inline void coroutine_fn saved_ram_send_pages(SavedRAM *saved)
{
    Snapshot *s = &saved->snapshot;

    for (uint64_t page = 0; page < NB_PAGES; page++) {
        unsigned huge = (page - RAM_FIRST) / HUGE_PAGES;

        if (page < RAM_FIRST || page >= ROM_FIRST ||
            page == ROM_FIRST - 1 || (huge == 0 && page % 3)) {
            send_page(s, page, DATA + page);
        } else if (huge != 2) {
            send_page(s, page, ZERO);
        }
    }
}

#endif /* SNAP_TESTS_SAVED_RAM_H */
