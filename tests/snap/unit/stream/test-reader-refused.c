/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of streams that the reader refuses
 */

#include "qemu/osdep.h"
#include "read-stream.h"
#include "test-table.h"

static void test_no_stream(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    check_refused(b, "");
    put_bytes(b, "QFI\xfb\0\0\0\3", 8);
    check_refused(b, "Not a QEMU migration stream");
}

static void test_old_version(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_be32(b, QEMU_VM_FILE_MAGIC);
    put_be32(b, QEMU_VM_FILE_VERSION_COMPAT);
    check_refused(b, "version");
}

/* A record of RAM's START section instead of EOS */
static void check_start_record(uint64_t flag, const char *why)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_header(b);
    put_ram_head(b, RAM_LENGTH);
    put_block(b, "pc.ram", RAM_LENGTH);
    put_be64(b, flag);
    put_eos(b);
    check_refused(b, why);
}

/* A record behind a good page */
static void check_record(uint64_t word, const char *name, const char *why)
{
    g_autoptr(GByteArray) b = started_stream();

    put_part(b);
    put_page(b, "pc.ram", 0, 1);
    put_record(b, word, name);
    put_zeroes(b, PAGE);
    check_refused(b, why);
}

static void test_multifd(void)
{
    check_record(PAGE | RAM_SAVE_FLAG_MULTIFD_FLUSH, NULL, "");
    check_record(RAM_SAVE_FLAG_MULTIFD_FLUSH | RAM_SAVE_FLAG_ZERO, "pc.ram",
                 "");
    check_record(RAM_SAVE_FLAG_MULTIFD_FLUSH | RAM_SAVE_FLAG_CONTINUE, NULL,
                 "");
    check_start_record(PAGE | RAM_SAVE_FLAG_MULTIFD_FLUSH, "");
}

static void test_xbzrle(void)
{
    check_record(RAM_SAVE_FLAG_XBZRLE, "pc.ram", "xbzrle");
    check_record(RAM_SAVE_FLAG_XBZRLE | RAM_SAVE_FLAG_CONTINUE, NULL,
                 "xbzrle");
}

static void test_compress(void)
{
    check_record(COMPRESS_PAGE, "pc.ram", "compress");
}

static void test_rdma(void)
{
    check_start_record(RAM_SAVE_FLAG_HOOK, "RDMA");
    check_record(RAM_SAVE_FLAG_HOOK, NULL, "RDMA");
}

static void test_unknown_flags(void)
{
    check_record(RAM_SAVE_FLAG_PAGE | RAM_SAVE_FLAG_ZERO, "pc.ram", "");
    check_record(0, "pc.ram", "");
    check_record(1, "pc.ram", "");
    check_record(RAM_SAVE_FLAG_MEM_SIZE, NULL, "");
    check_record(PAGE | RAM_SAVE_FLAG_EOS, NULL, "");
}

static void test_iterable_device(void)
{
    g_autoptr(GByteArray) b = started_stream();

    put_head(b, QEMU_VM_SECTION_START, 7, "spapr/htab", 1);
    put_be32(b, 18);
    put_footer(b, 7);
    put_parts(b);
    check_refused(b, "spapr/htab");
}

static void test_unknown_subsection(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_header(b);
    put_subsection(b, "configuration/novelty");
    put_be32(b, 1);
    check_refused(b, "configuration/novelty");
}

/* Nothing that a terminal would act on gets there. */
static void test_escaped_subsection(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_header(b);
    put_subsection(b, "configuration/\033[2J\n");
    put_be32(b, 1);
    check_refused(b, "configuration/\\033[2J\\n");
}

static void check_capability(const char *name, const char *message)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_header(b);
    put_subsection(b, "configuration/capabilities");
    put_be32(b, 1);
    put_name(b, name);
    put_ram_start(b);
    put_parts(b);
    put_devices(b);
    put_end(b);
    check_refused(b, message);
}

static void test_capabilities(void)
{
    check_capability("x-ignore-shared", "x-ignore-shared");
    check_capability("mapped-ram", "mapped-ram");
    check_capability("\033]0;x\a\n", "\\033]0;x\\007\\n");
}

static void test_page_bits_bounds(void)
{
    static const uint32_t bits[] = { 0, 9, 17, 64, UINT32_MAX };

    for (size_t i = 0; i < ARRAY_SIZE(bits); i++) {
        g_autoptr(GByteArray) b = g_byte_array_new();

        put_header(b);
        put_subsection(b, "configuration/target-page-bits");
        put_be32(b, bits[i]);
        put_ram_start(b);
        check_refused(b, "page size");
    }
}

static void test_unknown_command(void)
{
    g_autoptr(GByteArray) b = started_stream();

    put_command(b, 7, "\0\0\0\0", 4);
    check_refused(b, "7");
}

/* Most are no event, so the caller would have no say in an endless number. */
static void test_too_many_commands(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_header(b);
    for (unsigned i = 0; i < 1025; i++) {
        put_command(b, SNAP_CMD_POSTCOPY_ADVISE, NULL, 0);
    }
    check_refused(b, "Too many commands");
}

static void test_offset_beyond_block(void)
{
    check_record(RAM_LENGTH | RAM_SAVE_FLAG_PAGE, "pc.ram", "pc.ram");
    check_record(RAM_LENGTH | RAM_SAVE_FLAG_ZERO | RAM_SAVE_FLAG_CONTINUE,
                 NULL, "pc.ram");
    check_record(VGA_LENGTH | RAM_SAVE_FLAG_PAGE, "vga.vram", "vga.vram");
    check_record(-(uint64_t)PAGE | RAM_SAVE_FLAG_PAGE, "pc.ram", "pc.ram");
}

/* The target's pages are larger than the offset's alignment. */
static void test_offset_unaligned(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_header(b);
    put_subsection(b, "configuration/target-page-bits");
    put_be32(b, 12);
    put_ram_start(b);
    put_part(b);
    put_page(b, "pc.ram", PAGE, 1);
    put_zeroes(b, 4 * KiB);
    check_refused(b, "");
}

static void test_unknown_block(void)
{
    check_record(RAM_SAVE_FLAG_PAGE, "pc.rom", "pc.rom");
}

static void test_continue_first(void)
{
    g_autoptr(GByteArray) b = started_stream();

    put_part(b);
    put_page(b, NULL, 0, 1);
    check_refused(b, "");
}

static void test_zero_page_fill(void)
{
    g_autoptr(GByteArray) b = started_stream();

    put_part(b);
    put_record(b, RAM_SAVE_FLAG_ZERO, "pc.ram");
    put_u8(b, 1);
    put_eos(b);
    check_refused(b, "");
}

/* Blocks of 4 and 2 pages where another total was announced */
static void check_total(uint64_t total)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_header(b);
    put_ram_head(b, total);
    put_block(b, "pc.ram", RAM_LENGTH);
    put_block(b, "vga.vram", VGA_LENGTH);
    put_eos(b);
    put_parts(b);
    put_devices(b);
    put_end(b);
    check_refused(b, "");
}

static void test_total(void)
{
    check_total(0);
    check_total(PAGE);
    check_total(RAM_LENGTH);
    check_total(RAM_LENGTH + PAGE);
    check_total(RAM_LENGTH + VGA_LENGTH + PAGE);
    check_total(-(uint64_t)PAGE);
}

static void test_no_blocks(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_header(b);
    put_ram_head(b, 0);
    put_eos(b);
    put_devices(b);
    put_end(b);
    check_refused(b, "RAM");
}

static void test_block_twice(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_header(b);
    put_ram_head(b, 2 * RAM_LENGTH);
    put_block(b, "pc.ram", RAM_LENGTH);
    put_block(b, "pc.ram", RAM_LENGTH);
    put_eos(b);
    check_refused(b, "pc.ram");
}

static void test_block_length(void)
{
    static const uint64_t lengths[] = {
        0, 1, PAGE + 1, 128 * TiB, INT64_MAX, UINT64_MAX
    };

    for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
        g_autoptr(GByteArray) b = g_byte_array_new();

        put_header(b);
        put_ram_head(b, (lengths[i] + PAGE) & ~(uint64_t)(PAGE - 1));
        put_block(b, "pc.ram", lengths[i]);
        put_block(b, "rest", PAGE);
        put_eos(b);
        check_refused(b, "");
    }
}

static void test_too_many_blocks(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_header(b);
    put_ram_head(b, (SNAP_MAX_BLOCKS + 1) * PAGE);
    for (int i = 0; i <= SNAP_MAX_BLOCKS; i++) {
        g_autofree char *name = g_strdup_printf("ram%d", i);

        put_block(b, name, PAGE);
    }
    put_eos(b);
    check_refused(b, "");
}

static void test_giant_counts(void)
{
    g_autoptr(GByteArray) machine = g_byte_array_new();
    g_autoptr(GByteArray) capabilities = g_byte_array_new();

    put_be32(machine, QEMU_VM_FILE_MAGIC);
    put_be32(machine, QEMU_VM_FILE_VERSION);
    put_u8(machine, QEMU_VM_CONFIGURATION);
    put_be32(machine, UINT32_MAX);
    put_zeroes(machine, 64);
    check_refused(machine, "");

    put_header(capabilities);
    put_subsection(capabilities, "configuration/capabilities");
    put_be32(capabilities, UINT32_MAX);
    put_zeroes(capabilities, 64);
    check_refused(capabilities, "");
}

static void test_endless_configuration(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_header(b);
    while (b->len <= SNAP_MAX_CONFIGURATION) {
        put_subsection(b, "configuration/uuid");
        put_zeroes(b, 16);
    }
    check_refused(b, "configuration");
}

static void test_endless_setup(void)
{
    g_autoptr(GByteArray) b = started_stream();
    g_autoptr(Result) res = NULL;

    put_head(b, QEMU_VM_SECTION_FULL, 8, "early", 1);
    put_zeroes(b, SNAP_MAX_SETUP);
    res = read_stream(b);
    g_assert_cmpint(res->ret, <, 0);
}

/* As a FULL section with such a @name and so many bytes in all */
static void put_filling(GByteArray *b, uint32_t id, const char *name,
                        size_t size)
{
    g_autofree uint8_t *payload = g_malloc0(size);

    put_full(b, id, name, payload, size - 19 - strlen(name));
}

/* The bound holds for heads as well, and for sections altogether. */
static void test_setup_bound(void)
{
    for (int more = 0; more < 3; more++) {
        g_autoptr(GByteArray) b = started_stream();
        g_autoptr(Result) res = NULL;

        put_filling(b, 8, "early", SNAP_MAX_SETUP);
        if (more == 1) {
            put_full(b, 9, "early", "", 0);
        } else if (more == 2) {
            put_filling(b, 9, "early", SNAP_MAX_SETUP);
        }
        put_parts(b);
        put_devices(b);
        put_end(b);
        res = read_stream(b);
        if (more) {
            g_assert_true(says(res, "has more than"));
        } else {
            g_assert_cmpstr(outcome(res), ==, "setup " LOG_PARTS LOG_DEVICES);
            g_assert_cmpuint(res->setup->len, ==, SNAP_MAX_SETUP);
        }
    }
}

/* The same for what comes among RAM's pages */
static void test_late_bound(void)
{
    for (int more = 0; more < 2; more++) {
        g_autoptr(GByteArray) b = started_stream();
        g_autoptr(Result) res = NULL;

        put_head(b, QEMU_VM_SECTION_START, 1, "dirty-bitmap", 1);
        put_footer(b, 1);
        put_parts(b);
        put_short_head(b, QEMU_VM_SECTION_PART, 1);
        put_zeroes(b, SNAP_MAX_SETUP - 10);
        put_footer(b, 1);
        if (more) {
            put_bitmap_part(b, QEMU_VM_SECTION_END);
        }
        put_devices(b);
        put_end(b);
        res = read_stream(b);
        if (more) {
            g_assert_true(says(res, "has more than"));
        } else {
            g_assert_cmpint(res->ret, ==, 0);
        }
    }
}

static void test_ram_version(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_header(b);
    put_head(b, QEMU_VM_SECTION_START, RAM_ID, "ram", 5);
    put_be64(b, RAM_LENGTH | RAM_SAVE_FLAG_MEM_SIZE);
    put_block(b, "pc.ram", RAM_LENGTH);
    put_eos(b);
    check_refused(b, "version");
}

static void test_ram_twice(void)
{
    g_autoptr(GByteArray) b = started_stream();

    put_ram_start(b);
    check_refused(b, "twice");
}

static void test_part_before_start(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_header(b);
    put_parts(b);
    check_refused(b, "");
}

static void test_unknown_part(void)
{
    g_autoptr(GByteArray) b = started_stream();

    put_short_head(b, QEMU_VM_SECTION_PART, 99);
    put_eos(b);
    check_refused(b, "99");
}

static void test_wrong_footer(void)
{
    g_autoptr(GByteArray) b = started_stream();

    put_part(b);
    put_be64(b, RAM_SAVE_FLAG_EOS);
    put_footer(b, RAM_ID + 1);
    put_devices(b);
    put_end(b);
    check_refused(b, "footer");
}

static void test_missing_footer(void)
{
    g_autoptr(GByteArray) b = started_stream();

    put_part(b);
    put_be64(b, RAM_SAVE_FLAG_EOS);
    put_devices(b);
    put_end(b);
    check_refused(b, "footer");
}

static const Test tests[] = {
    { "refused/no-stream", test_no_stream },
    { "refused/old-version", test_old_version },
    { "refused/multifd", test_multifd },
    { "refused/xbzrle", test_xbzrle },
    { "refused/compress", test_compress },
    { "refused/rdma", test_rdma },
    { "refused/unknown-flags", test_unknown_flags },
    { "refused/iterable-device", test_iterable_device },
    { "refused/unknown-subsection", test_unknown_subsection },
    { "refused/escaped-subsection", test_escaped_subsection },
    { "refused/too-many-commands", test_too_many_commands },
    { "refused/capabilities", test_capabilities },
    { "refused/page-bits", test_page_bits_bounds },
    { "refused/unknown-command", test_unknown_command },
    { "refused/offset-beyond-block", test_offset_beyond_block },
    { "refused/offset-unaligned", test_offset_unaligned },
    { "refused/unknown-block", test_unknown_block },
    { "refused/continue-first", test_continue_first },
    { "refused/zero-page-fill", test_zero_page_fill },
    { "refused/total", test_total },
    { "refused/no-blocks", test_no_blocks },
    { "refused/block-twice", test_block_twice },
    { "refused/block-length", test_block_length },
    { "refused/too-many-blocks", test_too_many_blocks },
    { "refused/giant-counts", test_giant_counts },
    { "refused/endless-configuration", test_endless_configuration },
    { "refused/endless-setup", test_endless_setup },
    { "refused/setup-bound", test_setup_bound },
    { "refused/late-bound", test_late_bound },
    { "refused/ram-version", test_ram_version },
    { "refused/ram-twice", test_ram_twice },
    { "refused/part-before-start", test_part_before_start },
    { "refused/unknown-part", test_unknown_part },
    { "refused/wrong-footer", test_wrong_footer },
    { "refused/missing-footer", test_missing_footer },
};

int main(int argc, char **argv)
{
    main_loop_tests_init(&argc, &argv);
    ADD_TESTS("/snap/stream/", tests, call_test);
    return g_test_run();
}
