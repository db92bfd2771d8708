/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of counts of durations
 */

#include "qemu/osdep.h"
#include "snap/util/histogram.h"
#include "test-table.h"

#define NB_VALUES 5000

static uint64_t octaves(const SnapHistogram *h, unsigned last)
{
    uint64_t sum = 0;

    for (unsigned bits = 0; bits <= last; bits++) {
        sum += snap_histogram_octave(h, bits);
    }
    return sum;
}

/* The percentile of one value among values that are all larger. */
static uint64_t rounded(uint64_t value)
{
    SnapHistogram h = { };

    snap_histogram_add(&h, value);
    snap_histogram_add(&h, UINT64_MAX);
    return snap_histogram_percentile(&h, 50);
}

static void test_empty(void)
{
    SnapHistogram h = { };

    for (unsigned percent = 1; percent <= 100; percent++) {
        g_assert_cmpuint(snap_histogram_percentile(&h, percent), ==, 0);
    }
    g_assert_cmpuint(octaves(&h, 63), ==, 0);
}

static void test_counts(void)
{
    SnapHistogram h = { };

    snap_histogram_add(&h, 3);
    snap_histogram_add(&h, 1000);
    snap_histogram_add(&h, 3);
    g_assert_cmpuint(h.count, ==, 3);
    g_assert_cmpuint(h.max, ==, 1000);
}

static void test_only_zero(void)
{
    SnapHistogram h = { };

    snap_histogram_add(&h, 0);
    g_assert_cmpuint(h.count, ==, 1);
    g_assert_cmpuint(h.max, ==, 0);
    g_assert_cmpuint(snap_histogram_percentile(&h, 1), ==, 0);
    g_assert_cmpuint(snap_histogram_percentile(&h, 100), ==, 0);
    g_assert_cmpuint(octaves(&h, 63), ==, 1);
}

/* Sixteen values have a bucket each: eight below 8, and eight below 16. */
static void test_small_values_are_exact(void)
{
    for (uint64_t value = 0; value < 16; value++) {
        g_assert_cmpuint(rounded(value), ==, value);
    }
}

/* From 2^n on, buckets are 2^(n-3) wide. */
static void test_bucket_borders(void)
{
    g_assert_cmpuint(rounded(16), ==, 17);
    g_assert_cmpuint(rounded(17), ==, 17);
    g_assert_cmpuint(rounded(18), ==, 19);
    g_assert_cmpuint(rounded(31), ==, 31);
    g_assert_cmpuint(rounded(32), ==, 35);
    g_assert_cmpuint(rounded(35), ==, 35);
    g_assert_cmpuint(rounded(36), ==, 39);
    g_assert_cmpuint(rounded(1023), ==, 1023);
    g_assert_cmpuint(rounded(1024), ==, 1024 + 127);
    g_assert_cmpuint(rounded(1024 + 127), ==, 1024 + 127);
    g_assert_cmpuint(rounded(1024 + 128), ==, 1024 + 255);
}

/* At each power of two, what is rounded is an upper bound within an eighth. */
static void test_each_power_of_two(void)
{
    for (unsigned bits = 4; bits < 64; bits++) {
        uint64_t value = UINT64_C(1) << bits;

        g_assert_cmpuint(rounded(value - 1), ==, value - 1);
        g_assert_cmpuint(rounded(value), ==, value + value / 8 - 1);
        g_assert_cmpuint(rounded(value + value / 8), >, value + value / 8 - 1);
    }
}

static void test_not_above_max(void)
{
    SnapHistogram h = { };

    snap_histogram_add(&h, 1024);
    snap_histogram_add(&h, 1025);
    g_assert_cmpuint(snap_histogram_percentile(&h, 50), ==, 1025);
    g_assert_cmpuint(snap_histogram_percentile(&h, 100), ==, 1025);
}

/* Each of a hundred values is a percent of them. */
static void test_each_percent(void)
{
    SnapHistogram h = { };

    for (unsigned i = 0; i < 100; i++) {
        snap_histogram_add(&h, i < 50 ? 1 : i < 99 ? 2 : 3);
    }
    g_assert_cmpuint(snap_histogram_percentile(&h, 1), ==, 1);
    g_assert_cmpuint(snap_histogram_percentile(&h, 50), ==, 1);
    g_assert_cmpuint(snap_histogram_percentile(&h, 51), ==, 2);
    g_assert_cmpuint(snap_histogram_percentile(&h, 99), ==, 2);
    g_assert_cmpuint(snap_histogram_percentile(&h, 100), ==, 3);
}

/* Fewer values than percents: the bound must not be below the value. */
static void test_few_values(void)
{
    SnapHistogram h = { };

    snap_histogram_add(&h, 1);
    snap_histogram_add(&h, 2);
    snap_histogram_add(&h, 3);
    g_assert_cmpuint(snap_histogram_percentile(&h, 33), ==, 1);
    g_assert_cmpuint(snap_histogram_percentile(&h, 34), ==, 2);
    g_assert_cmpuint(snap_histogram_percentile(&h, 66), ==, 2);
    g_assert_cmpuint(snap_histogram_percentile(&h, 67), ==, 3);
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

static void check_percentiles(const SnapHistogram *h, uint64_t *values,
                              size_t nb_values)
{
    qsort(values, nb_values, sizeof(*values), compare);
    g_assert_cmpuint(h->max, ==, values[nb_values - 1]);
    for (unsigned percent = 1; percent <= 100; percent++) {
        uint64_t exact = values[DIV_ROUND_UP(nb_values * percent, 100) - 1];
        uint64_t bound = snap_histogram_percentile(h, percent);

        g_assert_cmpuint(bound, >=, exact);
        g_assert_cmpuint(bound, <=, h->max);
        g_assert_cmpuint(bound - exact, <=, exact / 8);
    }
}

/* Random values of all magnitudes below 2^@bits */
static void check_random(unsigned bits)
{
    g_autofree uint64_t *values = g_new(uint64_t, NB_VALUES);
    GRand *rand = g_rand_new_with_seed(20260201 + bits);
    SnapHistogram h = { };

    for (unsigned i = 0; i < NB_VALUES; i++) {
        uint64_t value = (uint64_t)g_rand_int(rand) << 32 | g_rand_int(rand);

        values[i] = value >> (64 - g_rand_int_range(rand, 1, bits + 1));
        snap_histogram_add(&h, values[i]);
    }
    g_assert_cmpuint(h.count, ==, NB_VALUES);
    check_percentiles(&h, values, NB_VALUES);
    g_assert_cmpuint(octaves(&h, bits), ==, NB_VALUES);
    g_rand_free(rand);
}

static void test_random(void)
{
    check_random(10);
    check_random(24);
    check_random(63);
}

static void test_random_huge(void)
{
    check_random(64);
}

static void test_octave_borders(void)
{
    SnapHistogram h = { };

    snap_histogram_add(&h, 1);
    snap_histogram_add(&h, 2);
    snap_histogram_add(&h, 3);
    snap_histogram_add(&h, 4);
    for (unsigned i = 0; i < 5; i++) {
        snap_histogram_add(&h, 1023);
    }
    snap_histogram_add(&h, 1024);
    g_assert_cmpuint(snap_histogram_octave(&h, 0), ==, 0);
    g_assert_cmpuint(snap_histogram_octave(&h, 1), ==, 1);
    g_assert_cmpuint(snap_histogram_octave(&h, 2), ==, 2);
    g_assert_cmpuint(snap_histogram_octave(&h, 3), ==, 1);
    g_assert_cmpuint(snap_histogram_octave(&h, 4), ==, 0);
    g_assert_cmpuint(snap_histogram_octave(&h, 10), ==, 5);
    g_assert_cmpuint(snap_histogram_octave(&h, 11), ==, 1);
}

static void test_each_octave(void)
{
    SnapHistogram h = { };

    for (unsigned bits = 1; bits < 64; bits++) {
        snap_histogram_add(&h, UINT64_C(1) << (bits - 1));
        snap_histogram_add(&h, (UINT64_C(1) << bits) - 1);
    }
    for (unsigned bits = 1; bits < 64; bits++) {
        g_assert_cmpuint(snap_histogram_octave(&h, bits), ==, 2);
    }
}

static void test_huge_values(void)
{
    SnapHistogram h = { };

    snap_histogram_add(&h, UINT64_C(1) << 62);
    snap_histogram_add(&h, UINT64_C(1) << 63);
    snap_histogram_add(&h, UINT64_MAX - 1);
    snap_histogram_add(&h, UINT64_MAX);
    g_assert_cmpuint(h.count, ==, 4);
    g_assert_cmpuint(h.max, ==, UINT64_MAX);
    g_assert_cmpuint(snap_histogram_percentile(&h, 25), ==,
                     (UINT64_C(1) << 62) + (UINT64_C(1) << 59) - 1);
    g_assert_cmpuint(snap_histogram_percentile(&h, 50), ==,
                     (UINT64_C(1) << 63) + (UINT64_C(1) << 60) - 1);
    g_assert_cmpuint(snap_histogram_percentile(&h, 100), ==, UINT64_MAX);
}

/* Values of 2^63 and above are below 2^64. */
static void test_octave_of_huge_values(void)
{
    SnapHistogram h = { };

    snap_histogram_add(&h, (UINT64_C(1) << 63) - 1);
    snap_histogram_add(&h, UINT64_C(1) << 63);
    snap_histogram_add(&h, UINT64_MAX);
    g_assert_cmpuint(snap_histogram_octave(&h, 63), ==, 1);
    g_assert_cmpuint(snap_histogram_octave(&h, 64), ==, 2);
}

static const Test tests[] = {
    { "empty-one-has-zeroes", test_empty },
    { "number-and-maximum-are-exact", test_counts },
    { "zero-is-a-value", test_only_zero },
    { "values-below-16-are-exact", test_small_values_are_exact },
    { "buckets-are-an-eighth-of-a-power-of-two-wide", test_bucket_borders },
    { "percentile-is-at-most-an-eighth-too-large", test_each_power_of_two },
    { "percentile-is-not-above-the-maximum", test_not_above_max },
    { "each-of-a-hundred-values-is-a-percent", test_each_percent },
    { "few-values-are-not-below-their-percentile", test_few_values },
    { "random-values-agree-with-a-sorted-array", test_random },
    { "random-huge-values-agree-with-a-sorted-array", test_random_huge },
    { "octave/ends-below-a-power-of-two", test_octave_borders },
    { "octave/has-its-first-and-last-value", test_each_octave },
    { "octave/last-one-has-huge-values", test_octave_of_huge_values },
    { "huge-values-do-not-overflow", test_huge_values },
};

int main(int argc, char **argv)
{
    tests_init(&argc, &argv);
    ADD_TESTS("/snap/histogram/", tests, call_test);
    return g_test_run();
}
