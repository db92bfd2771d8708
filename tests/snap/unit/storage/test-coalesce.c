/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of which parts of a buffer are written
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "snap/storage/coalesce.h"

#define MAX_PAGES 1024

/* Maps are given as strings, one character a page: '#' set, '.' clear. */
static void parse_map(unsigned long *map, const char *text)
{
    bitmap_zero(map, MAX_PAGES);
    for (unsigned i = 0; text[i]; i++) {
        if (text[i] == '#') {
            set_bit(i, map);
        }
    }
}

static void assert_written(const char *present, const char *stored,
                           unsigned fill, const char *expected)
{
    DECLARE_BITMAP(present_map, MAX_PAGES);
    DECLARE_BITMAP(stored_map, MAX_PAGES);
    unsigned nb_pages = strlen(present);
    g_autofree char *written = g_strnfill(nb_pages, '.');
    g_autofree SnapExtent *extents = g_new0(SnapExtent, nb_pages);
    unsigned nb;

    g_assert_cmpuint(strlen(stored), ==, nb_pages);
    parse_map(present_map, present);
    parse_map(stored_map, stored);
    nb = snap_coalesce(present_map, stored_map, nb_pages, fill, extents);
    for (unsigned i = 0; i < nb; i++) {
        memset(written + extents[i].first, '#', extents[i].count);
    }
    g_assert_cmpstr(written, ==, expected);
}

static void test_nothing(void)
{
    assert_written("........", "........", 4, "........");
}

static void test_nothing_but_stored(void)
{
    assert_written("........", "####....", 4, "........");
}

static void test_all(void)
{
    assert_written("########", "........", 4, "########");
}

static void test_no_filling(void)
{
    assert_written("#.##..#.", "........", 1, "#.##..#.");
}

static void test_unit_is_filled(void)
{
    assert_written(".#..........", "............", 4, "####........");
}

static void test_each_touched_unit_is_filled(void)
{
    assert_written(".#.........#", "............", 4, "####....####");
}

static void test_stored_is_not_filled(void)
{
    assert_written("#.......", ".#......", 4, "#.##....");
}

static void test_stored_and_present(void)
{
    assert_written("##......", ".#......", 4, "####....");
}

static void test_last_unit_is_short(void)
{
    assert_written(".....#", "......", 4, "....##");
}

static void test_unit_larger_than_buffer(void)
{
    assert_written("..#...", "......", 16, "######");
}

static void test_one_page(void)
{
    assert_written("#", ".", 1, "#");
}

static void test_neighbours_are_one_range(void)
{
    DECLARE_BITMAP(present, MAX_PAGES);
    DECLARE_BITMAP(stored, MAX_PAGES);
    SnapExtent extents[8];

    parse_map(present, ".##.....");
    parse_map(stored, "........");
    g_assert_cmpuint(snap_coalesce(present, stored, 8, 1, extents), ==, 1);
    g_assert_cmpuint(extents[0].first, ==, 1);
    g_assert_cmpuint(extents[0].count, ==, 2);
}

/* What the header says, page by page. */
static bool model_written(const unsigned long *present,
                          const unsigned long *stored, unsigned nb_pages,
                          unsigned fill, unsigned page)
{
    unsigned start = page / fill * fill;

    if (test_bit(page, present)) {
        return true;
    }
    if (test_bit(page, stored)) {
        return false;
    }
    for (unsigned i = start; i < start + fill && i < nb_pages; i++) {
        if (test_bit(i, present)) {
            return true;
        }
    }
    return false;
}

/* That ranges are in order and do not touch, and what they cover. */
static void cover(const SnapExtent *extents, unsigned nb, unsigned nb_pages,
                  unsigned long *covered)
{
    int64_t end = -1;

    bitmap_zero(covered, MAX_PAGES);
    for (unsigned i = 0; i < nb; i++) {
        g_assert_cmpint(extents[i].first, >, end);
        g_assert_cmpuint(extents[i].count, >, 0);
        end = (int64_t)extents[i].first + extents[i].count;
        g_assert_cmpint(end, <=, nb_pages);
        bitmap_set(covered, extents[i].first, extents[i].count);
    }
}

/* With bits behind the buffer, which say nothing. */
static void random_map(GRand *rand, unsigned long *map)
{
    double density = g_rand_double(rand);

    bitmap_zero(map, MAX_PAGES);
    for (unsigned i = 0; i < MAX_PAGES; i++) {
        if (g_rand_double(rand) < density * density) {
            set_bit(i, map);
        }
    }
}

static void test_random(void)
{
    GRand *rand = g_rand_new_with_seed(20260101);
    DECLARE_BITMAP(present, MAX_PAGES);
    DECLARE_BITMAP(stored, MAX_PAGES);
    DECLARE_BITMAP(covered, MAX_PAGES);

    for (unsigned round = 0; round < 2000; round++) {
        unsigned nb_pages = g_rand_int_range(rand, 1, 300);
        unsigned fill = 1 << g_rand_int_range(rand, 0, 8);
        g_autofree SnapExtent *extents = g_new0(SnapExtent, nb_pages);
        unsigned nb;

        random_map(rand, present);
        random_map(rand, stored);
        nb = snap_coalesce(present, stored, nb_pages, fill, extents);
        cover(extents, nb, nb_pages, covered);
        for (unsigned page = 0; page < nb_pages; page++) {
            g_assert_cmpint(test_bit(page, covered), ==,
                            model_written(present, stored, nb_pages, fill,
                                          page));
        }
    }
    g_rand_free(rand);
}

static const struct {
    const char *path;
    void (*fn)(void);
} tests[] = {
    { "nothing", test_nothing },
    { "nothing-but-stored", test_nothing_but_stored },
    { "all", test_all },
    { "no-filling", test_no_filling },
    { "unit-is-filled", test_unit_is_filled },
    { "each-touched-unit-is-filled", test_each_touched_unit_is_filled },
    { "stored-is-not-filled", test_stored_is_not_filled },
    { "stored-and-present", test_stored_and_present },
    { "last-unit-is-short", test_last_unit_is_short },
    { "unit-larger-than-buffer", test_unit_larger_than_buffer },
    { "one-page", test_one_page },
    { "neighbours-are-one-range", test_neighbours_are_one_range },
    { "random", test_random },
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_set_nonfatal_assertions();

    for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
        g_autofree char *path = g_strdup_printf("/snap/coalesce/%s",
                                                tests[i].path);

        g_test_add_func(path, tests[i].fn);
    }
    return g_test_run();
}
