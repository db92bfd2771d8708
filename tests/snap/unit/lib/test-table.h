/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tables of tests, and how a program begins that has them
 */

#ifndef SNAP_TESTS_TEST_TABLE_H
#define SNAP_TESTS_TEST_TABLE_H

#include "block/block.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qapi/error.h"

/**
 * ADD_TESTS: add a test for each row of a table
 * @prefix: of the paths, such as "/snap/table/"
 * @table: array of structs with a member "path", the rest of the path
 * @fn: called with a pointer to the row
 */
#define ADD_TESTS(prefix, table, fn)                                    \
    do {                                                                \
        for (size_t i_ = 0; i_ < ARRAY_SIZE(table); i_++) {             \
            g_autofree char *path_ = g_strconcat(prefix,                \
                                                 (table)[i_].path,      \
                                                 NULL);                 \
                                                                        \
            g_test_add_data_func(path_, &(table)[i_], fn);              \
        }                                                               \
    } while (0)

/**
 * ADD_FIXTURE_TESTS: the same for tests with a fixture
 * @table: array of structs with the members "path" and "fn", called with a
 *         fixture and NULL
 * @type: of the fixture
 * @set_up, @tear_down: before and after each test
 */
#define ADD_FIXTURE_TESTS(prefix, table, type, set_up, tear_down)       \
    do {                                                                \
        for (size_t i_ = 0; i_ < ARRAY_SIZE(table); i_++) {             \
            g_autofree char *path_ = g_strconcat(prefix,                \
                                                 (table)[i_].path,      \
                                                 NULL);                 \
                                                                        \
            g_test_add(path_, type, NULL, set_up, (table)[i_].fn,       \
                       tear_down);                                      \
        }                                                               \
    } while (0)

/* A row of the plainest table; call_test() runs it. */
typedef struct Test {
    const char *path;
    GTestFunc fn;
} Test;

static inline void call_test(gconstpointer data)
{
    const Test *test = data;

    test->fn();
}

/* For tests that need no part of QEMU; a failed assertion ends none of them. */
static inline void tests_init(int *argc, char ***argv)
{
    g_test_init(argc, argv, NULL);
    g_test_set_nonfatal_assertions();
}

/* For tests with channels and coroutines */
static inline void main_loop_tests_init(int *argc, char ***argv)
{
    signal(SIGPIPE, SIG_IGN);
    module_call_init(MODULE_INIT_QOM);
    qemu_init_main_loop(&error_abort);
    tests_init(argc, argv);
}

/* For tests that work with disks as well */
static inline void block_tests_init(int *argc, char ***argv)
{
    bdrv_init();
    main_loop_tests_init(argc, argv);
}

#endif /* SNAP_TESTS_TEST_TABLE_H */
