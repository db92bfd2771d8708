/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of where RAM lies in an image
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "snap/ram/blocks.h"

#define PAGE_BITS 12
#define PAGE      (UINT64_C(1) << PAGE_BITS)

static SnapRAMBlock *add(SnapLayout *layout, const char *name, uint64_t length)
{
    return snap_layout_add(layout, name, length, 0, &error_abort);
}

/* That a block is refused with an error, and the layout is as before. */
static void assert_refused(SnapLayout *layout, const char *name,
                           uint64_t length, uint64_t page_size)
{
    SnapLayout before = *layout;
    Error *err = NULL;

    g_assert_null(snap_layout_add(layout, name, length, page_size, &err));
    g_assert_nonnull(err);
    error_free(err);
    g_assert_cmpuint(layout->nb_blocks, ==, before.nb_blocks);
    g_assert_cmpuint(layout->nb_pages, ==, before.nb_pages);
    g_assert_cmpuint(layout->ram_end, ==, before.ram_end);
}

static void test_empty(void)
{
    SnapLayout layout;

    snap_layout_init(&layout, PAGE_BITS);
    g_assert_cmpuint(layout.page_bits, ==, PAGE_BITS);
    g_assert_cmpuint(layout.nb_blocks, ==, 0);
    g_assert_cmpuint(layout.nb_pages, ==, 0);
    g_assert_cmpint(snap_layout_find(&layout, "ram", 0), ==, -1);
    snap_layout_destroy(&layout);
}

static void test_first_block_behind_header(void)
{
    SnapLayout layout;
    SnapRAMBlock *block;

    snap_layout_init(&layout, PAGE_BITS);
    block = add(&layout, "ram", 3 * PAGE);
    g_assert_cmpstr(block->name, ==, "ram");
    g_assert_cmpuint(block->length, ==, 3 * PAGE);
    g_assert_cmpuint(block->page_size, ==, 0);
    g_assert_cmpuint(block->offset, ==, SNAP_BLOCK_ALIGN);
    g_assert_cmpuint(block->first_page, ==, 0);
    g_assert_cmpuint(block->stored_pages, ==, 0);
    g_assert_cmpuint(block->zero_pages, ==, 0);
    snap_layout_destroy(&layout);
}

static void test_blocks_are_aligned(void)
{
    SnapLayout layout;

    snap_layout_init(&layout, PAGE_BITS);
    add(&layout, "a", PAGE);
    add(&layout, "b", SNAP_BLOCK_ALIGN);
    add(&layout, "c", SNAP_BLOCK_ALIGN + PAGE);
    g_assert_cmpuint(layout.blocks[1].offset, ==, 2 * SNAP_BLOCK_ALIGN);
    g_assert_cmpuint(layout.blocks[2].offset, ==, 3 * SNAP_BLOCK_ALIGN);
    g_assert_cmpuint(layout.ram_end, >=, layout.blocks[2].offset +
                                         SNAP_BLOCK_ALIGN + PAGE);
    snap_layout_destroy(&layout);
}

static void test_pages_are_numbered_through(void)
{
    SnapLayout layout;

    snap_layout_init(&layout, PAGE_BITS);
    add(&layout, "a", PAGE);
    add(&layout, "b", 5 * PAGE);
    add(&layout, "c", 2 * PAGE);
    g_assert_cmpuint(layout.blocks[1].first_page, ==, 1);
    g_assert_cmpuint(layout.blocks[2].first_page, ==, 6);
    g_assert_cmpuint(layout.nb_pages, ==, 8);
    g_assert_cmpuint(snap_layout_block_pages(&layout, &layout.blocks[1]),
                     ==, 5);
    snap_layout_destroy(&layout);
}

static void test_page_and_offset(void)
{
    SnapLayout layout;
    const SnapRAMBlock *block;

    snap_layout_init(&layout, PAGE_BITS);
    add(&layout, "a", 7 * PAGE);
    block = add(&layout, "b", 5 * PAGE);
    g_assert_cmpuint(snap_layout_page_size(&layout), ==, PAGE);
    g_assert_cmpuint(snap_layout_page(&layout, block, 3 * PAGE), ==, 10);
    g_assert_cmpuint(snap_layout_offset(&layout, block, 10), ==,
                     block->offset + 3 * PAGE);
    snap_layout_destroy(&layout);
}

static void test_block_of(void)
{
    SnapLayout layout;
    uint64_t page = 0;

    snap_layout_init(&layout, PAGE_BITS);
    for (unsigned i = 0; i < 9; i++) {
        g_autofree char *name = g_strdup_printf("block%u", i);

        add(&layout, name, (i * 3 % 5 + 1) * PAGE);
    }
    for (unsigned i = 0; i < layout.nb_blocks; i++) {
        uint64_t nb = snap_layout_block_pages(&layout, &layout.blocks[i]);

        while (nb--) {
            g_assert_true(snap_layout_block_of(&layout, page++) ==
                          &layout.blocks[i]);
        }
    }
    g_assert_cmpuint(page, ==, layout.nb_pages);
    snap_layout_destroy(&layout);
}

static void test_find(void)
{
    SnapLayout layout;

    snap_layout_init(&layout, PAGE_BITS);
    add(&layout, "a", PAGE);
    add(&layout, "b", PAGE);
    g_assert_cmpint(snap_layout_find(&layout, "b", 1), ==, 1);
    g_assert_cmpint(snap_layout_find(&layout, "b", 0), ==, 1);
    g_assert_cmpint(snap_layout_find(&layout, "a", 1), ==, 0);
    g_assert_cmpint(snap_layout_find(&layout, "c", 1), ==, -1);
    snap_layout_destroy(&layout);
}

static void test_find_with_wild_hint(void)
{
    SnapLayout layout;

    snap_layout_init(&layout, PAGE_BITS);
    add(&layout, "a", PAGE);
    g_assert_cmpint(snap_layout_find(&layout, "a", -1), ==, 0);
    g_assert_cmpint(snap_layout_find(&layout, "a", 1), ==, 0);
    g_assert_cmpint(snap_layout_find(&layout, "a", INT_MAX), ==, 0);
    snap_layout_destroy(&layout);
}

static void test_page_size_is_kept(void)
{
    SnapLayout layout;
    SnapRAMBlock *block;

    snap_layout_init(&layout, PAGE_BITS);
    block = snap_layout_add(&layout, "huge", PAGE, 2 * MiB, &error_abort);
    g_assert_cmpuint(block->page_size, ==, 2 * MiB);
    snap_layout_destroy(&layout);
}

static void test_page_bits_bounds(void)
{
    SnapLayout layout;

    snap_layout_init(&layout, SNAP_MIN_PAGE_BITS);
    add(&layout, "ram", 1 * KiB);
    g_assert_cmpuint(layout.nb_pages, ==, 1);
    snap_layout_destroy(&layout);

    snap_layout_init(&layout, SNAP_MAX_PAGE_BITS);
    add(&layout, "ram", 128 * KiB);
    g_assert_cmpuint(layout.nb_pages, ==, 2);
    snap_layout_destroy(&layout);
}

static void test_name_bounds(void)
{
    g_autofree char *longest = g_strnfill(SNAP_BLOCK_NAME_MAX, 'x');
    g_autofree char *too_long = g_strnfill(SNAP_BLOCK_NAME_MAX + 1, 'x');
    SnapLayout layout;

    snap_layout_init(&layout, PAGE_BITS);
    assert_refused(&layout, "", PAGE, 0);
    assert_refused(&layout, too_long, PAGE, 0);
    g_assert_cmpstr(add(&layout, longest, PAGE)->name, ==, longest);
    snap_layout_destroy(&layout);
}

/* What a terminal would act on */
static void test_unprintable_name(void)
{
    static const char *const names[] = {
        "\033[2J", "a\nb", "\x7f", "\x9b" "2J", "\xff", "\t",
    };
    SnapLayout layout;

    snap_layout_init(&layout, PAGE_BITS);
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        assert_refused(&layout, names[i], PAGE, 0);
    }
    add(&layout, "/rom@etc/acpi/tables ~", PAGE);
    snap_layout_destroy(&layout);
}

static void test_name_twice(void)
{
    SnapLayout layout;

    snap_layout_init(&layout, PAGE_BITS);
    add(&layout, "a", PAGE);
    add(&layout, "b", PAGE);
    assert_refused(&layout, "a", PAGE, 0);
    snap_layout_destroy(&layout);
}

static void test_bad_length(void)
{
    SnapLayout layout;

    snap_layout_init(&layout, PAGE_BITS);
    assert_refused(&layout, "ram", PAGE - 1, 0);
    assert_refused(&layout, "ram", PAGE + 1, 0);
    snap_layout_destroy(&layout);
}

static void test_too_much_ram(void)
{
    SnapLayout layout;

    snap_layout_init(&layout, PAGE_BITS);
    assert_refused(&layout, "ram", SNAP_MAX_RAM + PAGE, 0);
    assert_refused(&layout, "ram", -PAGE, 0);
    add(&layout, "half", SNAP_MAX_RAM / 2);
    assert_refused(&layout, "ram", SNAP_MAX_RAM / 2 + PAGE, 0);
    assert_refused(&layout, "ram", -(uint64_t)(SNAP_MAX_RAM / 2), 0);
    snap_layout_destroy(&layout);
}

static void test_too_many_blocks(void)
{
    SnapLayout layout;

    snap_layout_init(&layout, PAGE_BITS);
    for (unsigned i = 0; i < SNAP_MAX_BLOCKS; i++) {
        g_autofree char *name = g_strdup_printf("block%u", i);

        add(&layout, name, PAGE);
    }
    assert_refused(&layout, "ram", PAGE, 0);
    snap_layout_destroy(&layout);
}

static void test_bad_page_size(void)
{
    SnapLayout layout;

    snap_layout_init(&layout, PAGE_BITS);
    assert_refused(&layout, "ram", PAGE, 3 * PAGE);
    snap_layout_destroy(&layout);
}

static const struct {
    const char *path;
    void (*fn)(void);
} tests[] = {
    { "empty", test_empty },
    { "first-block-behind-header", test_first_block_behind_header },
    { "blocks-are-aligned", test_blocks_are_aligned },
    { "pages-are-numbered-through", test_pages_are_numbered_through },
    { "page-and-offset", test_page_and_offset },
    { "block-of", test_block_of },
    { "find", test_find },
    { "find/wild-hint", test_find_with_wild_hint },
    { "page-size-is-kept", test_page_size_is_kept },
    { "page-bits-bounds", test_page_bits_bounds },
    { "name-bounds", test_name_bounds },
    { "refused/unprintable-name", test_unprintable_name },
    { "refused/name-twice", test_name_twice },
    { "refused/bad-length", test_bad_length },
    { "refused/too-much-ram", test_too_much_ram },
    { "refused/too-many-blocks", test_too_many_blocks },
    { "refused/bad-page-size", test_bad_page_size },
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_set_nonfatal_assertions();

    for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
        g_autofree char *path = g_strdup_printf("/snap/blocks/%s",
                                                tests[i].path);

        g_test_add_func(path, tests[i].fn);
    }
    return g_test_run();
}
