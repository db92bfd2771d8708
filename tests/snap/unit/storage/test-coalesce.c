/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of which parts of a buffer are written
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "snap/storage/coalesce.h"
#include "test-table.h"

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

/**
 * CoalesceCase: which pages of a buffer are written
 * @present: pages that came, a '#' each
 * @stored: pages that the image has
 * @fill: pages of a unit that is filled if any of it is written
 * @written: pages that are written
 */
typedef struct CoalesceCase {
    const char *path;
    const char *present;
    const char *stored;
    unsigned fill;
    const char *written;
} CoalesceCase;

static const CoalesceCase coalesce_cases[] = {
    { "nothing",
      "........", "........", 4, "........" },
    { "nothing-if-all-is-stored",
      "........", "####....", 4, "........" },
    { "all-pages",
      "########", "........", 4, "########" },
    { "pages-alone-without-units",
      "#.##..#.", "........", 1, "#.##..#." },
    { "touched-unit-is-filled",
      ".#..........", "............", 4, "####........" },
    { "each-touched-unit-is-filled",
      ".#.........#", "............", 4, "####....####" },
    { "stored-pages-are-not-filled",
      "#.......", ".#......", 4, "#.##...." },
    { "stored-pages-are-written-if-they-come-again",
      "##......", ".#......", 4, "####...." },
    { "last-unit-may-be-short",
      ".....#", "......", 4, "....##" },
    { "unit-may-be-larger-than-the-buffer",
      "..#...", "......", 16, "######" },
    { "one-page",
      "#", ".", 1, "#" },
};

static void test_written(gconstpointer data)
{
    const CoalesceCase *c = data;
    unsigned nb_pages = strlen(c->present);
    DECLARE_BITMAP(present, MAX_PAGES);
    DECLARE_BITMAP(stored, MAX_PAGES);
    g_autofree char *written = g_strnfill(nb_pages, '.');
    g_autofree SnapExtent *extents = g_new0(SnapExtent, nb_pages);
    unsigned nb;

    g_assert_cmpuint(strlen(c->stored), ==, nb_pages);
    parse_map(present, c->present);
    parse_map(stored, c->stored);
    nb = snap_coalesce(present, stored, nb_pages, c->fill, extents);
    for (unsigned i = 0; i < nb; i++) {
        memset(written + extents[i].first, '#', extents[i].count);
    }
    g_assert_cmpstr(written, ==, c->written);
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

/* With bits beyond the buffer, which mean nothing. */
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

int main(int argc, char **argv)
{
    tests_init(&argc, &argv);
    ADD_TESTS("/snap/coalesce/written/", coalesce_cases, test_written);
    g_test_add_func("/snap/coalesce/neighbours-are-one-extent",
                    test_neighbours_are_one_range);
    g_test_add_func("/snap/coalesce/random-pages-agree-with-a-model",
                    test_random);
    return g_test_run();
}
