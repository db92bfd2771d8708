/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of progress on stderr
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "snap/util/progress.h"
#include "test-table.h"

/* What would be on stderr */
static GString *printed;

/* Instead of the one that writes it there */
int error_vprintf(const char *fmt, va_list ap)
{
    size_t before = printed->len;

    g_string_append_vprintf(printed, fmt, ap);
    return printed->len - before;
}

/**
 * ProgressCase: what is shown of some progress
 * @total: number of steps, all of which are shown
 * @last: the last one that is shown
 * @disabled: whether progress is not to be shown
 * @expected: with '$' for the return to the start of the line
 */
typedef struct ProgressCase {
    const char *path;
    uint64_t total;
    uint64_t last;
    bool disabled;
    const char *expected;
} ProgressCase;

static const ProgressCase progress_cases[] = {
    { "each-percentage-is-shown-once", 300, 8, false,
      "    (1/100%)$    (2/100%)$\n" },
    { "percentages-that-are-skipped-are-not-shown", 3, 3, false,
      "    (33/100%)$    (66/100%)$    (100/100%)$\n" },
    { "all-of-it-is-a-hundred-percent", 1, 1, false, "    (100/100%)$\n" },
    { "line-is-not-ended-if-nothing-was-shown", 1000, 9, false, "" },
    { "nothing-is-shown-of-nothing", 0, 2, false, "" },
    { "nothing-is-shown-if-disabled", 3, 3, true, "" },
};

static void test_progress(gconstpointer data)
{
    const ProgressCase *c = data;
    SnapProgress progress = { .enabled = !c->disabled };

    printed = g_string_new("");
    for (uint64_t done = 0; done <= c->last; done++) {
        snap_progress_show(&progress, done, c->total);
    }
    snap_progress_end(&progress);
    g_strdelimit(printed->str, "\r", '$');
    g_assert_cmpstr(printed->str, ==, c->expected);
    g_string_free(printed, true);
}

int main(int argc, char **argv)
{
    tests_init(&argc, &argv);
    ADD_TESTS("/snap/progress/", progress_cases, test_progress);
    return g_test_run();
}
