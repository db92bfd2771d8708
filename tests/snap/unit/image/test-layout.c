/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of where RAM lies in an image
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "snap/image/layout.h"
#include "test-table.h"

#define PAGE_BITS 12
#define PAGE      (UINT64_C(1) << PAGE_BITS)

/* RAM with a block of each of @lengths, up to a 0. */
static void fill(SnapRAMBlocks *ram, const uint64_t *lengths)
{
    snap_ram_blocks_init(ram, PAGE_BITS);
    for (unsigned i = 0; lengths[i]; i++) {
        g_autofree char *name = g_strdup_printf("block%u", i);

        snap_ram_blocks_add(ram, name, lengths[i], 0, &error_abort);
    }
}

static void test_first_block_follows_header(void)
{
    const uint64_t lengths[] = { 3 * PAGE, 0 };
    SnapRAMBlocks ram;
    SnapLayout layout;

    fill(&ram, lengths);
    g_assert_true(snap_layout_init(&layout, &ram, &error_abort));
    g_assert_true(layout.ram == &ram);
    g_assert_cmpuint(layout.offsets[0], ==, SNAP_BLOCK_ALIGN);
    snap_layout_destroy(&layout);
    snap_ram_blocks_destroy(&ram);
}

static void test_blocks_are_aligned(void)
{
    const uint64_t lengths[] = {
        PAGE, SNAP_BLOCK_ALIGN, SNAP_BLOCK_ALIGN + PAGE, 0
    };
    SnapRAMBlocks ram;
    SnapLayout layout;

    fill(&ram, lengths);
    snap_layout_init(&layout, &ram, &error_abort);
    g_assert_cmpuint(layout.offsets[1], ==, 2 * SNAP_BLOCK_ALIGN);
    g_assert_cmpuint(layout.offsets[2], ==, 3 * SNAP_BLOCK_ALIGN);
    g_assert_cmpuint(layout.ram_end, >=, layout.offsets[2] +
                                         SNAP_BLOCK_ALIGN + PAGE);
    snap_layout_destroy(&layout);
    snap_ram_blocks_destroy(&ram);
}

static void test_page_offset(void)
{
    const uint64_t lengths[] = { 7 * PAGE, 5 * PAGE, 0 };
    SnapRAMBlocks ram;
    SnapLayout layout;

    fill(&ram, lengths);
    snap_layout_init(&layout, &ram, &error_abort);
    g_assert_cmpuint(snap_layout_page_offset(&layout, &ram.blocks[0], 0), ==,
                     SNAP_BLOCK_ALIGN);
    g_assert_cmpuint(snap_layout_page_offset(&layout, &ram.blocks[1], 10), ==,
                     layout.offsets[1] + 3 * PAGE);
    snap_layout_destroy(&layout);
    snap_ram_blocks_destroy(&ram);
}

static void test_largest_ram(void)
{
    const uint64_t lengths[] = { SNAP_MAX_RAM / 2, SNAP_MAX_RAM / 2, 0 };
    SnapRAMBlocks ram;
    SnapLayout layout;

    fill(&ram, lengths);
    g_assert_true(snap_layout_init(&layout, &ram, &error_abort));
    g_assert_cmpuint(layout.ram_end, ==, SNAP_MAX_RAM + SNAP_BLOCK_ALIGN);
    snap_layout_destroy(&layout);
    snap_ram_blocks_destroy(&ram);
}

/* What is left between the blocks counts, too. */
static void test_no_room_after_alignment(void)
{
    const uint64_t lengths[] = { PAGE, SNAP_MAX_RAM - PAGE, 0 };
    SnapRAMBlocks ram;
    SnapLayout layout = { };
    Error *err = NULL;

    fill(&ram, lengths);
    g_assert_false(snap_layout_init(&layout, &ram, &err));
    g_assert_nonnull(err);
    error_free(err);
    snap_layout_destroy(&layout);
    snap_ram_blocks_destroy(&ram);
}

static const Test tests[] = {
    { "first-block-follows-header", test_first_block_follows_header },
    { "blocks-are-aligned", test_blocks_are_aligned },
    { "page-has-its-offset-in-the-block", test_page_offset },
    { "largest-ram-has-a-place", test_largest_ram },
    { "refused/ram-without-room-after-alignment",
      test_no_room_after_alignment },
};

int main(int argc, char **argv)
{
    tests_init(&argc, &argv);
    ADD_TESTS("/snap/layout/", tests, call_test);
    return g_test_run();
}
