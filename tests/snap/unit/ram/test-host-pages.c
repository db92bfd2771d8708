/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of the host pages of a destination
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/host-utils.h"
#include "snap/ram/host-pages.h"
#include "test-table.h"

#define GIB     (1 * GiB)
#define HUGE    (2 * MiB)

/* Blocks: the second one is the largest, the third one has an odd length. */
enum {
    VGA,
    RAM,
    ROM,
    NB_BLOCKS,
};

#define ROM_LENGTH  (HUGE + 64 * KiB)

static const char *const names[] = { "vga.vram", "pc.ram", "rom=etc/acpi" };

/* The size of the pages that RAM has where nothing is said. */
static uint64_t plain(void)
{
    return qemu_real_host_page_size();
}

/* @announced: page size that each block was saved with, 0 for none */
static void layout_init(SnapRAMBlocks *ram, const uint64_t announced[NB_BLOCKS])
{
    static const uint64_t lengths[] = { 16 * MiB, 4 * GIB, ROM_LENGTH };

    snap_ram_blocks_init(ram, ctz64(plain()));
    for (unsigned i = 0; i < NB_BLOCKS; i++) {
        snap_ram_blocks_add(ram, names[i], lengths[i], announced[i],
                            &error_abort);
    }
}

static void check_pages(const SnapHostPages *pages,
                        const uint64_t expected[NB_BLOCKS])
{
    uint64_t summary = 0;

    for (unsigned i = 0; i < NB_BLOCKS; i++) {
        g_assert_cmpuint(snap_host_pages_size(pages, i), ==, expected[i]);
        g_assert_cmpuint(snap_host_pages_count(pages, i), ==,
                         expected[i] / plain());
        g_assert_cmpint(snap_host_pages_announced(pages, i), ==,
                        expected[i] != plain());
        summary |= expected[i];
    }
    g_assert_cmpuint(snap_host_pages_summary(pages), ==, summary);
}

static void check_announced(const uint64_t announced[NB_BLOCKS],
                            char *const *options,
                            const uint64_t expected[NB_BLOCKS])
{
    SnapRAMBlocks ram;
    SnapHostPages pages;
    Error *err = NULL;

    layout_init(&ram, announced);
    if (snap_host_pages_init(&pages, &ram, options, &err)) {
        check_pages(&pages, expected);
        snap_host_pages_destroy(&pages);
    } else {
        g_test_message("%s", error_get_pretty(err));
        g_test_fail();
        error_free(err);
    }
    snap_ram_blocks_destroy(&ram);
}

static const uint64_t none[NB_BLOCKS];

static void check_options(char *const *options, uint64_t vga, uint64_t ram,
                          uint64_t rom)
{
    const uint64_t expected[] = { vga, ram, rom };

    check_announced(none, options, expected);
}

static void check_option(const char *option, uint64_t vga, uint64_t ram,
                         uint64_t rom)
{
    char *const options[] = { (char *)option, NULL };

    check_options(options, vga, ram, rom);
}

/* That @option is refused, and @why is said. */
static void check_refused_announced(const uint64_t announced[NB_BLOCKS],
                                    const char *option, const char *why)
{
    char *const options[] = { (char *)option, NULL };
    SnapRAMBlocks ram;
    SnapHostPages pages;
    Error *err = NULL;

    layout_init(&ram, announced);
    g_assert_false(snap_host_pages_init(&pages, &ram, options, &err));
    g_assert_nonnull(err);
    g_assert_nonnull(strstr(error_get_pretty(err), why));
    error_free(err);
    snap_ram_blocks_destroy(&ram);
}

static void check_refused(const char *option, const char *why)
{
    check_refused_announced(none, option, why);
}

static void test_default(void)
{
    check_options(NULL, plain(), plain(), plain());
}

static void test_no_options(void)
{
    char *const options[] = { NULL };

    check_options(options, plain(), plain(), plain());
}

static void test_largest_block(void)
{
    check_option("2M", plain(), HUGE, plain());
}

static void test_named_block(void)
{
    check_option("vga.vram=2M", HUGE, plain(), plain());
}

static void test_name_with_equals(void)
{
    check_option("rom=etc/acpi=64k", plain(), plain(), 64 * KiB);
}

static void test_gigabyte(void)
{
    check_option("pc.ram=1G", plain(), GIB, plain());
}

static void test_plain_size(void)
{
    g_autofree char *option = g_strdup_printf("%" PRIu64, plain());

    check_option(option, plain(), plain(), plain());
}

static void test_several_options(void)
{
    char *const options[] = {
        (char *)"1G", (char *)"vga.vram=2M", (char *)"rom=etc/acpi=64k", NULL,
    };

    check_options(options, HUGE, GIB, 64 * KiB);
}

static void test_last_option_wins(void)
{
    char *const options[] = { (char *)"1G", (char *)"pc.ram=2M", NULL };

    check_options(options, plain(), HUGE, plain());
}

static void test_announced(void)
{
    const uint64_t announced[] = { 0, GIB, 64 * KiB };
    const uint64_t expected[] = { plain(), GIB, 64 * KiB };

    check_announced(announced, NULL, expected);
}

static void test_option_beats_announced(void)
{
    char *const options[] = { (char *)"2M", NULL };
    const uint64_t announced[] = { HUGE, GIB, 0 };
    const uint64_t expected[] = { HUGE, HUGE, plain() };

    check_announced(announced, options, expected);
}

/* What was announced does not matter for a block that is named. */
static void test_option_instead_of_announced(void)
{
    char *const options[] = { (char *)"rom=etc/acpi=64k", NULL };
    const uint64_t announced[] = { 0, 0, HUGE };
    const uint64_t expected[] = { plain(), plain(), 64 * KiB };

    check_announced(announced, options, expected);
}

static void test_unknown_block(void)
{
    check_refused("nvram=2M", "nvram");
    check_refused("=2M", "block ''");
}

static void test_no_size(void)
{
    check_refused("", "size");
    check_refused("pc.ram", "size");
    check_refused("pc.ram=", "size");
    check_refused("pc.ram=huge", "size");
    check_refused("pc.ram=2Mx", "size");
    check_refused("pc.ram=-2M", "size");
}

static void test_size_is_no_power_of_two(void)
{
    check_refused("3M", "pc.ram");
    check_refused("0", "pc.ram");
    check_refused("vga.vram=6M", "vga.vram");
}

static void test_size_below_host_page(void)
{
    check_refused("512", "pc.ram");
    check_refused("1", "pc.ram");
}

static void test_length_is_no_multiple(void)
{
    check_refused("rom=etc/acpi=2M", "rom=etc/acpi");
}

static void test_size_beyond_block(void)
{
    check_refused("vga.vram=1G", "vga.vram");
    check_refused("pc.ram=8G", "pc.ram");
}

static void test_giant_size(void)
{
    check_refused("8E", "pc.ram");
}

/* A page size that was announced when the block had another length. */
static void test_announced_does_not_fit(void)
{
    const uint64_t announced[] = { 0, 0, HUGE };

    check_refused_announced(announced, NULL, "rom=etc/acpi");
}

/* The pages of this host may be larger than those of the guest. */
static void test_plain_size_does_not_fit(void)
{
    SnapRAMBlocks ram;
    SnapHostPages pages;
    Error *err = NULL;

    snap_ram_blocks_init(&ram, SNAP_MIN_PAGE_BITS);
    snap_ram_blocks_add(&ram, "pc.ram", plain(), 0, &error_abort);
    snap_ram_blocks_add(&ram, "odd", plain() + KiB, 0, &error_abort);
    if (snap_host_pages_init(&pages, &ram, NULL, &err)) {
        g_test_message("pages of %" PRIu64 " bytes are taken for a block of "
                       "%" PRIu64, snap_host_pages_size(&pages, 1),
                       ram.blocks[1].length);
        g_test_fail();
        snap_host_pages_destroy(&pages);
    } else {
        g_assert_nonnull(strstr(error_get_pretty(err), "odd"));
        error_free(err);
    }
    snap_ram_blocks_destroy(&ram);
}

/* Target pages that are smaller than the host's. */
static void test_small_target_pages(void)
{
    SnapRAMBlocks ram;
    SnapHostPages pages;

    snap_ram_blocks_init(&ram, SNAP_MIN_PAGE_BITS);
    snap_ram_blocks_add(&ram, "pc.ram", 4 * MiB, 0, &error_abort);
    g_assert_true(snap_host_pages_init(&pages, &ram, NULL, &error_abort));
    g_assert_cmpuint(snap_host_pages_size(&pages, 0), ==, plain());
    g_assert_cmpuint(snap_host_pages_count(&pages, 0), ==, plain() / KiB);
    g_assert_false(snap_host_pages_announced(&pages, 0));
    snap_host_pages_destroy(&pages);
    snap_ram_blocks_destroy(&ram);
}

/* Whoever failed to initialise may destroy all the same. */
static void test_destroy_after_failure(void)
{
    char *const options[] = { (char *)"3M", NULL };
    SnapRAMBlocks ram;
    SnapHostPages pages;

    layout_init(&ram, none);
    g_assert_false(snap_host_pages_init(&pages, &ram, options, NULL));
    snap_host_pages_destroy(&pages);
    snap_ram_blocks_destroy(&ram);
}

static const Test tests[] = {
    { "option/none-means-pages-of-the-host", test_default },
    { "option/empty-list-means-pages-of-the-host", test_no_options },
    { "option/size-alone-is-for-the-largest-block", test_largest_block },
    { "option/size-is-for-the-named-block", test_named_block },
    { "option/name-may-have-an-equals-sign", test_name_with_equals },
    { "option/size-may-be-a-gigabyte", test_gigabyte },
    { "option/size-may-be-that-of-the-host", test_plain_size },
    { "option/each-block-may-have-one", test_several_options },
    { "option/last-one-wins", test_last_option_wins },
    { "target-pages-may-be-smaller", test_small_target_pages },
    { "announced/size-is-taken", test_announced },
    { "announced/option-wins", test_option_beats_announced },
    { "announced/wrong-size-does-not-matter-with-an-option",
      test_option_instead_of_announced },
    { "refused/unknown-block", test_unknown_block },
    { "refused/text-that-is-no-size", test_no_size },
    { "refused/size-that-is-no-power-of-two", test_size_is_no_power_of_two },
    { "refused/size-below-that-of-the-host", test_size_below_host_page },
    { "refused/block-length-that-is-no-multiple", test_length_is_no_multiple },
    { "refused/size-beyond-the-block", test_size_beyond_block },
    { "refused/giant-size", test_giant_size },
    { "refused/announced-size-that-does-not-fit", test_announced_does_not_fit },
    { "refused/size-of-the-host-that-does-not-fit",
      test_plain_size_does_not_fit },
    { "refused/may-be-destroyed", test_destroy_after_failure },
};

int main(int argc, char **argv)
{
    tests_init(&argc, &argv);
    ADD_TESTS("/snap/host-pages/", tests, call_test);
    return g_test_run();
}
