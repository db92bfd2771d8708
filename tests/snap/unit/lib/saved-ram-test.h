/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tests of a load by postcopy of a snapshot of some RAM
 */

#ifndef SNAP_TESTS_SAVED_RAM_TEST_H
#define SNAP_TESTS_SAVED_RAM_TEST_H

#include "saved-ram.h"
#include "snap-coroutine.h"
#include "test-table.h"

/**
 * SavedRAMTest: a test that is given RAM, and fills and commits the snapshot
 * @host_bits: log2 of the size of the host pages of block RAM; 0 for PAGE_BITS
 */
typedef struct SavedRAMTest {
    const char *path;
    void coroutine_fn (*fn)(SavedRAM *saved);
    unsigned host_bits;
} SavedRAMTest;

typedef struct SavedRAMTestRun {
    const SavedRAMTest *test;
    SavedRAM saved;
} SavedRAMTestRun;

static inline void coroutine_fn call_saved_ram_test(void *opaque)
{
    SavedRAMTestRun *run = opaque;

    run->test->fn(&run->saved);
}

static inline void run_saved_ram_test(gconstpointer data)
{
    SavedRAMTestRun run = { .test = data };

    saved_ram_init(&run.saved, run.test->host_bits ?: PAGE_BITS);
    run_in_coroutine(call_saved_ram_test, &run);
    saved_ram_destroy(&run.saved);
}

#endif /* SNAP_TESTS_SAVED_RAM_TEST_H */
