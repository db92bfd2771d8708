/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of the guest's RAM blocks
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "snap/ram/blocks.h"
#include "test-table.h"

#define PAGE_BITS 12
#define PAGE      (UINT64_C(1) << PAGE_BITS)

static const SnapRAMBlock *add(SnapRAMBlocks *ram, const char *name,
                               uint64_t length)
{
    return snap_ram_blocks_add(ram, name, length, 0, &error_abort);
}

/* That a block is refused with an error, and RAM is as before. */
static void assert_refused(SnapRAMBlocks *ram, const char *name,
                           uint64_t length, uint64_t page_size)
{
    SnapRAMBlocks before = *ram;
    Error *err = NULL;

    g_assert_null(snap_ram_blocks_add(ram, name, length, page_size, &err));
    g_assert_nonnull(err);
    error_free(err);
    g_assert_cmpuint(ram->nb_blocks, ==, before.nb_blocks);
    g_assert_cmpuint(ram->nb_pages, ==, before.nb_pages);
}

static void test_empty(void)
{
    SnapRAMBlocks ram;

    snap_ram_blocks_init(&ram, PAGE_BITS);
    g_assert_cmpuint(ram.page_bits, ==, PAGE_BITS);
    g_assert_cmpuint(ram.nb_blocks, ==, 0);
    g_assert_cmpuint(ram.nb_pages, ==, 0);
    g_assert_cmpint(snap_ram_blocks_find(&ram, "ram", 0), ==, -1);
    snap_ram_blocks_destroy(&ram);
}

static void test_first_block(void)
{
    SnapRAMBlocks ram;
    const SnapRAMBlock *block;

    snap_ram_blocks_init(&ram, PAGE_BITS);
    block = add(&ram, "ram", 3 * PAGE);
    g_assert_cmpstr(block->name, ==, "ram");
    g_assert_cmpuint(block->length, ==, 3 * PAGE);
    g_assert_cmpuint(block->page_size, ==, 0);
    g_assert_cmpuint(block->first_page, ==, 0);
    snap_ram_blocks_destroy(&ram);
}

static void test_pages_are_numbered_through(void)
{
    SnapRAMBlocks ram;

    snap_ram_blocks_init(&ram, PAGE_BITS);
    add(&ram, "a", PAGE);
    add(&ram, "b", 5 * PAGE);
    add(&ram, "c", 2 * PAGE);
    g_assert_cmpuint(ram.blocks[1].first_page, ==, 1);
    g_assert_cmpuint(ram.blocks[2].first_page, ==, 6);
    g_assert_cmpuint(ram.nb_pages, ==, 8);
    g_assert_cmpuint(snap_ram_block_pages(&ram, &ram.blocks[1]),
                     ==, 5);
    snap_ram_blocks_destroy(&ram);
}

static void test_page_and_offset(void)
{
    SnapRAMBlocks ram;
    const SnapRAMBlock *block;

    snap_ram_blocks_init(&ram, PAGE_BITS);
    add(&ram, "a", 7 * PAGE);
    block = add(&ram, "b", 5 * PAGE);
    g_assert_cmpuint(snap_ram_page_size(&ram), ==, PAGE);
    g_assert_cmpuint(snap_ram_page(&ram, block, 3 * PAGE), ==, 10);
    snap_ram_blocks_destroy(&ram);
}

static void test_block_of(void)
{
    SnapRAMBlocks ram;
    uint64_t page = 0;

    snap_ram_blocks_init(&ram, PAGE_BITS);
    for (unsigned i = 0; i < 9; i++) {
        g_autofree char *name = g_strdup_printf("block%u", i);

        add(&ram, name, (i * 3 % 5 + 1) * PAGE);
    }
    for (unsigned i = 0; i < ram.nb_blocks; i++) {
        uint64_t nb = snap_ram_block_pages(&ram, &ram.blocks[i]);

        while (nb--) {
            g_assert_true(snap_ram_block_of(&ram, page++) ==
                          &ram.blocks[i]);
        }
    }
    g_assert_cmpuint(page, ==, ram.nb_pages);
    snap_ram_blocks_destroy(&ram);
}

static void test_find(void)
{
    SnapRAMBlocks ram;

    snap_ram_blocks_init(&ram, PAGE_BITS);
    add(&ram, "a", PAGE);
    add(&ram, "b", PAGE);
    g_assert_cmpint(snap_ram_blocks_find(&ram, "b", 1), ==, 1);
    g_assert_cmpint(snap_ram_blocks_find(&ram, "b", 0), ==, 1);
    g_assert_cmpint(snap_ram_blocks_find(&ram, "a", 1), ==, 0);
    g_assert_cmpint(snap_ram_blocks_find(&ram, "c", 1), ==, -1);
    snap_ram_blocks_destroy(&ram);
}

static void test_find_with_wild_hint(void)
{
    SnapRAMBlocks ram;

    snap_ram_blocks_init(&ram, PAGE_BITS);
    add(&ram, "a", PAGE);
    g_assert_cmpint(snap_ram_blocks_find(&ram, "a", -1), ==, 0);
    g_assert_cmpint(snap_ram_blocks_find(&ram, "a", 1), ==, 0);
    g_assert_cmpint(snap_ram_blocks_find(&ram, "a", INT_MAX), ==, 0);
    snap_ram_blocks_destroy(&ram);
}

static void test_page_size_is_kept(void)
{
    SnapRAMBlocks ram;
    const SnapRAMBlock *block;

    snap_ram_blocks_init(&ram, PAGE_BITS);
    block = snap_ram_blocks_add(&ram, "huge", PAGE, 2 * MiB, &error_abort);
    g_assert_cmpuint(block->page_size, ==, 2 * MiB);
    snap_ram_blocks_destroy(&ram);
}

static void test_page_bits_bounds(void)
{
    SnapRAMBlocks ram;

    snap_ram_blocks_init(&ram, SNAP_MIN_PAGE_BITS);
    add(&ram, "ram", 1 * KiB);
    g_assert_cmpuint(ram.nb_pages, ==, 1);
    snap_ram_blocks_destroy(&ram);

    snap_ram_blocks_init(&ram, SNAP_MAX_PAGE_BITS);
    add(&ram, "ram", 128 * KiB);
    g_assert_cmpuint(ram.nb_pages, ==, 2);
    snap_ram_blocks_destroy(&ram);
}

static void test_name_bounds(void)
{
    g_autofree char *longest = g_strnfill(SNAP_BLOCK_NAME_MAX, 'x');
    g_autofree char *too_long = g_strnfill(SNAP_BLOCK_NAME_MAX + 1, 'x');
    SnapRAMBlocks ram;

    snap_ram_blocks_init(&ram, PAGE_BITS);
    assert_refused(&ram, "", PAGE, 0);
    assert_refused(&ram, too_long, PAGE, 0);
    g_assert_cmpstr(add(&ram, longest, PAGE)->name, ==, longest);
    snap_ram_blocks_destroy(&ram);
}

/* What a terminal would act on */
static void test_unprintable_name(void)
{
    static const char *const names[] = {
        "\033[2J", "a\nb", "\x7f", "\x9b" "2J", "\xff", "\t",
    };
    SnapRAMBlocks ram;

    snap_ram_blocks_init(&ram, PAGE_BITS);
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        assert_refused(&ram, names[i], PAGE, 0);
    }
    add(&ram, "/rom@etc/acpi/tables ~", PAGE);
    snap_ram_blocks_destroy(&ram);
}

static void test_name_twice(void)
{
    SnapRAMBlocks ram;

    snap_ram_blocks_init(&ram, PAGE_BITS);
    add(&ram, "a", PAGE);
    add(&ram, "b", PAGE);
    assert_refused(&ram, "a", PAGE, 0);
    snap_ram_blocks_destroy(&ram);
}

static void test_bad_length(void)
{
    SnapRAMBlocks ram;

    snap_ram_blocks_init(&ram, PAGE_BITS);
    assert_refused(&ram, "ram", PAGE - 1, 0);
    assert_refused(&ram, "ram", PAGE + 1, 0);
    snap_ram_blocks_destroy(&ram);
}

static void test_too_much_ram(void)
{
    SnapRAMBlocks ram;

    snap_ram_blocks_init(&ram, PAGE_BITS);
    assert_refused(&ram, "ram", SNAP_MAX_RAM + PAGE, 0);
    assert_refused(&ram, "ram", -PAGE, 0);
    add(&ram, "half", SNAP_MAX_RAM / 2);
    assert_refused(&ram, "ram", SNAP_MAX_RAM / 2 + PAGE, 0);
    assert_refused(&ram, "ram", -(uint64_t)(SNAP_MAX_RAM / 2), 0);
    snap_ram_blocks_destroy(&ram);
}

static void test_too_many_blocks(void)
{
    SnapRAMBlocks ram;

    snap_ram_blocks_init(&ram, PAGE_BITS);
    for (unsigned i = 0; i < SNAP_MAX_BLOCKS; i++) {
        g_autofree char *name = g_strdup_printf("block%u", i);

        add(&ram, name, PAGE);
    }
    assert_refused(&ram, "ram", PAGE, 0);
    snap_ram_blocks_destroy(&ram);
}

static void test_bad_page_size(void)
{
    SnapRAMBlocks ram;

    snap_ram_blocks_init(&ram, PAGE_BITS);
    assert_refused(&ram, "ram", PAGE, 3 * PAGE);
    snap_ram_blocks_destroy(&ram);
}

static const Test tests[] = {
    { "ram-may-have-no-blocks", test_empty },
    { "first-block-begins-at-page-0", test_first_block },
    { "pages-are-numbered-through", test_pages_are_numbered_through },
    { "page-and-offset-are-converted", test_page_and_offset },
    { "block-of-a-page-is-found", test_block_of },
    { "block-is-found-by-its-name", test_find },
    { "block-is-found-whatever-the-hint", test_find_with_wild_hint },
    { "page-size-is-kept", test_page_size_is_kept },
    { "target-page-size-has-bounds", test_page_bits_bounds },
    { "name-has-bounds", test_name_bounds },
    { "refused/unprintable-name", test_unprintable_name },
    { "refused/name-that-comes-twice", test_name_twice },
    { "refused/length-that-is-not-whole-pages", test_bad_length },
    { "refused/too-much-ram", test_too_much_ram },
    { "refused/too-many-blocks", test_too_many_blocks },
    { "refused/bad-page-size", test_bad_page_size },
};

int main(int argc, char **argv)
{
    tests_init(&argc, &argv);
    ADD_TESTS("/snap/blocks/", tests, call_test);
    return g_test_run();
}
