/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of streams that the reader refuses
 */

#include "qemu/osdep.h"
#include "read-stream.h"
#include "test-table.h"

/* --- streams that go wrong at some point --- */

static void put_nothing(GByteArray *b)
{
}

static void put_other_magic(GByteArray *b)
{
    put_bytes(b, "QFI\xfb\0\0\0\3", 8);
}

static void put_old_version(GByteArray *b)
{
    put_be32(b, QEMU_VM_FILE_MAGIC);
    put_be32(b, QEMU_VM_FILE_VERSION_COMPAT);
}

static void put_unknown_subsection(GByteArray *b)
{
    put_subsection(b, "configuration/novelty");
    put_be32(b, 1);
}

/* Nothing that a terminal would act on gets there. */
static void put_escaped_subsection(GByteArray *b)
{
    put_subsection(b, "configuration/\033[2J\n");
    put_be32(b, 1);
}

static void put_endless_configuration(GByteArray *b)
{
    while (b->len <= SNAP_MAX_CONFIGURATION) {
        put_subsection(b, "configuration/uuid");
        put_zeroes(b, 16);
    }
}

/* Most are no event, so the caller would have no say in an endless number. */
static void put_too_many_commands(GByteArray *b)
{
    for (unsigned i = 0; i < 1025; i++) {
        put_command(b, SNAP_CMD_POSTCOPY_ADVISE, NULL, 0);
    }
}

static void put_unknown_command(GByteArray *b)
{
    put_command(b, 7, "\0\0\0\0", 4);
}

static void put_iterable_device(GByteArray *b)
{
    put_head(b, QEMU_VM_SECTION_START, 7, "spapr/htab", 1);
    put_be32(b, 18);
    put_footer(b, 7);
    put_parts(b);
}

static void put_ram_version(GByteArray *b)
{
    put_head(b, QEMU_VM_SECTION_START, RAM_ID, "ram", 5);
    put_be64(b, RAM_LENGTH | RAM_SAVE_FLAG_MEM_SIZE);
    put_block(b, "pc.ram", RAM_LENGTH);
    put_eos(b);
}

static void put_no_blocks(GByteArray *b)
{
    put_ram_head(b, 0);
    put_eos(b);
    put_devices(b);
    put_end(b);
}

static void put_block_twice(GByteArray *b)
{
    put_ram_head(b, 2 * RAM_LENGTH);
    put_block(b, "pc.ram", RAM_LENGTH);
    put_block(b, "pc.ram", RAM_LENGTH);
    put_eos(b);
}

static void put_too_many_blocks(GByteArray *b)
{
    put_ram_head(b, (SNAP_MAX_BLOCKS + 1) * PAGE);
    for (int i = 0; i <= SNAP_MAX_BLOCKS; i++) {
        g_autofree char *name = g_strdup_printf("ram%d", i);

        put_block(b, name, PAGE);
    }
    put_eos(b);
}

static void put_unknown_part(GByteArray *b)
{
    put_short_head(b, QEMU_VM_SECTION_PART, 99);
    put_eos(b);
}

/* The target's pages are larger than the offset's alignment. */
static void put_offset_unaligned(GByteArray *b)
{
    put_subsection(b, "configuration/target-page-bits");
    put_be32(b, 12);
    put_ram_start(b);
    put_part(b);
    put_page(b, "pc.ram", PAGE, 1);
    put_zeroes(b, 4 * KiB);
}

static void put_continue_first(GByteArray *b)
{
    put_part(b);
    put_page(b, NULL, 0, 1);
}

static void put_zero_page_fill(GByteArray *b)
{
    put_part(b);
    put_record(b, RAM_SAVE_FLAG_ZERO, "pc.ram");
    put_u8(b, 1);
    put_eos(b);
}

static void put_wrong_footer(GByteArray *b)
{
    put_part(b);
    put_be64(b, RAM_SAVE_FLAG_EOS);
    put_footer(b, RAM_ID + 1);
    put_devices(b);
    put_end(b);
}

static void put_missing_footer(GByteArray *b)
{
    put_part(b);
    put_be64(b, RAM_SAVE_FLAG_EOS);
    put_devices(b);
    put_end(b);
}

static void put_giant_machine_name(GByteArray *b)
{
    put_be32(b, QEMU_VM_FILE_MAGIC);
    put_be32(b, QEMU_VM_FILE_VERSION);
    put_u8(b, QEMU_VM_CONFIGURATION);
    put_be32(b, UINT32_MAX);
    put_zeroes(b, 64);
}

static void put_giant_number_of_capabilities(GByteArray *b)
{
    put_subsection(b, "configuration/capabilities");
    put_be32(b, UINT32_MAX);
    put_zeroes(b, 64);
}

/**
 * RefusedCase: a stream that is refused
 * @good: what is right with it
 * @put: appends what is wrong
 * @why: part of the message
 */
typedef struct RefusedCase {
    const char *path;
    enum { NOTHING, HEADER, RAM_START } good;
    void (*put)(GByteArray *b);
    const char *why;
} RefusedCase;

static const RefusedCase refused_cases[] = {
    { "stream-that-is-empty", NOTHING, put_nothing, "" },
    { "file-that-is-no-stream",
      NOTHING, put_other_magic, "Not a QEMU migration stream" },
    { "machine-name-of-giant-length", NOTHING, put_giant_machine_name, "" },
    { "capabilities-of-giant-number",
      HEADER, put_giant_number_of_capabilities, "" },
    { "stream-of-old-version", NOTHING, put_old_version, "version" },
    { "subsection-that-is-unknown",
      HEADER, put_unknown_subsection, "configuration/novelty" },
    { "subsection-whose-name-a-terminal-would-act-on",
      HEADER, put_escaped_subsection, "configuration/\\033[2J\\n" },
    { "configuration-without-end",
      HEADER, put_endless_configuration, "configuration" },
    { "too-many-commands", HEADER, put_too_many_commands, "Too many commands" },
    { "command-that-is-unknown", RAM_START, put_unknown_command, "7" },
    { "device-that-iterates", RAM_START, put_iterable_device, "spapr/htab" },
    { "ram-of-another-version", HEADER, put_ram_version, "version" },
    { "ram-that-starts-twice", RAM_START, put_ram_start, "twice" },
    { "ram-without-blocks", HEADER, put_no_blocks, "RAM" },
    { "block-that-comes-twice", HEADER, put_block_twice, "pc.ram" },
    { "too-many-blocks", HEADER, put_too_many_blocks, "" },
    { "part-before-its-start", HEADER, put_parts, "" },
    { "part-of-a-section-that-is-unknown", RAM_START, put_unknown_part, "99" },
    { "offset-that-is-not-aligned-to-pages", HEADER, put_offset_unaligned, "" },
    { "page-that-continues-no-block", RAM_START, put_continue_first, "" },
    { "zero-page-of-another-byte", RAM_START, put_zero_page_fill, "" },
    { "footer-of-another-section", RAM_START, put_wrong_footer, "footer" },
    { "section-without-its-footer", RAM_START, put_missing_footer, "footer" },
};

static void test_refused(gconstpointer data)
{
    const RefusedCase *c = data;
    g_autoptr(GByteArray) b = g_byte_array_new();

    if (c->good >= HEADER) {
        put_header(b);
    }
    if (c->good >= RAM_START) {
        put_ram_start(b);
    }
    c->put(b);
    check_refused(b, c->why);
}

/* --- capabilities of the source --- */

typedef struct CapabilityCase {
    const char *path;
    const char *name;
    const char *why;
} CapabilityCase;

static const CapabilityCase capability_cases[] = {
    { "x-ignore-shared", "x-ignore-shared", "x-ignore-shared" },
    { "mapped-ram", "mapped-ram", "mapped-ram" },
    { "name-that-a-terminal-would-act-on",
      "\033]0;x\a\n", "\\033]0;x\\007\\n" },
};

static void test_capability(gconstpointer data)
{
    const CapabilityCase *c = data;
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_header(b);
    put_subsection(b, "configuration/capabilities");
    put_be32(b, 1);
    put_name(b, c->name);
    put_ram_start(b);
    put_parts(b);
    put_devices(b);
    put_end(b);
    check_refused(b, c->why);
}

/* --- records of RAM --- */

/**
 * RecordCase: a record that is refused
 * @word: offset and flags
 * @name: of the block, if the record has one
 * @why: part of the message
 */
typedef struct RecordCase {
    const char *path;
    uint64_t word;
    const char *name;
    const char *why;
} RecordCase;

/* After a good page */
static const RecordCase record_cases[] = {
    { "flush-with-an-offset", PAGE | RAM_SAVE_FLAG_MULTIFD_FLUSH, NULL, "" },
    { "flush-that-is-a-zero-page",
      RAM_SAVE_FLAG_MULTIFD_FLUSH | RAM_SAVE_FLAG_ZERO, "pc.ram", "" },
    { "flush-that-continues-a-block",
      RAM_SAVE_FLAG_MULTIFD_FLUSH | RAM_SAVE_FLAG_CONTINUE, NULL, "" },
    { "xbzrle", RAM_SAVE_FLAG_XBZRLE, "pc.ram", "xbzrle" },
    { "xbzrle-that-continues-a-block",
      RAM_SAVE_FLAG_XBZRLE | RAM_SAVE_FLAG_CONTINUE, NULL, "xbzrle" },
    { "compress", COMPRESS_PAGE, "pc.ram", "compress" },
    { "rdma", RAM_SAVE_FLAG_HOOK, NULL, "RDMA" },
    { "page-that-is-a-zero-page",
      RAM_SAVE_FLAG_PAGE | RAM_SAVE_FLAG_ZERO, "pc.ram", "" },
    { "no-flags", 0, "pc.ram", "" },
    { "unknown-flag", 1, "pc.ram", "" },
    { "size-of-ram", RAM_SAVE_FLAG_MEM_SIZE, NULL, "" },
    { "end-with-an-offset", PAGE | RAM_SAVE_FLAG_EOS, NULL, "" },
    { "page-beyond-its-block",
      RAM_LENGTH | RAM_SAVE_FLAG_PAGE, "pc.ram", "pc.ram" },
    { "zero-page-beyond-the-continued-block",
      RAM_LENGTH | RAM_SAVE_FLAG_ZERO | RAM_SAVE_FLAG_CONTINUE,
      NULL, "pc.ram" },
    { "page-beyond-the-smaller-block",
      VGA_LENGTH | RAM_SAVE_FLAG_PAGE, "vga.vram", "vga.vram" },
    { "page-at-a-negative-offset",
      -(uint64_t)PAGE | RAM_SAVE_FLAG_PAGE, "pc.ram", "pc.ram" },
    { "block-that-is-unknown", RAM_SAVE_FLAG_PAGE, "pc.rom", "pc.rom" },
};

static void test_record(gconstpointer data)
{
    const RecordCase *c = data;
    g_autoptr(GByteArray) b = started_stream();

    put_part(b);
    put_page(b, "pc.ram", 0, 1);
    put_record(b, c->word, c->name);
    put_zeroes(b, PAGE);
    check_refused(b, c->why);
}

/* After the list of blocks, instead of its end */
static const RecordCase start_record_cases[] = {
    { "flush-with-an-offset", PAGE | RAM_SAVE_FLAG_MULTIFD_FLUSH, NULL, "" },
    { "rdma", RAM_SAVE_FLAG_HOOK, NULL, "RDMA" },
};

static void test_start_record(gconstpointer data)
{
    const RecordCase *c = data;
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_header(b);
    put_ram_head(b, RAM_LENGTH);
    put_block(b, "pc.ram", RAM_LENGTH);
    put_record(b, c->word, c->name);
    put_eos(b);
    check_refused(b, c->why);
}

/* --- numbers that cannot be --- */

/* Blocks of 4 and 2 pages although another total was announced */
static void test_total(void)
{
    static const uint64_t totals[] = {
        0, PAGE, RAM_LENGTH, RAM_LENGTH + PAGE, RAM_LENGTH + VGA_LENGTH + PAGE,
        -(uint64_t)PAGE,
    };

    for (size_t i = 0; i < ARRAY_SIZE(totals); i++) {
        g_autoptr(GByteArray) b = g_byte_array_new();

        put_header(b);
        put_ram_head(b, totals[i]);
        put_block(b, "pc.ram", RAM_LENGTH);
        put_block(b, "vga.vram", VGA_LENGTH);
        put_eos(b);
        put_parts(b);
        put_devices(b);
        put_end(b);
        check_refused(b, "");
    }
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

static void test_endless_setup(void)
{
    g_autoptr(GByteArray) b = started_stream();
    g_autoptr(Result) res = NULL;

    put_head(b, QEMU_VM_SECTION_FULL, 8, "early", 1);
    put_zeroes(b, SNAP_MAX_SETUP);
    res = read_stream(b);
    g_assert_cmpint(res->ret, <, 0);
}

/* A FULL section of @size bytes in all */
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

static const Test tests[] = {
    { "total-that-is-not-the-sum-of-the-blocks", test_total },
    { "page-size-out-of-bounds", test_page_bits_bounds },
    { "block-length-out-of-bounds", test_block_length },
    { "setup-without-end", test_endless_setup },
    { "setup-larger-than-its-bound", test_setup_bound },
    { "sections-among-pages-larger-than-their-bound", test_late_bound },
};

int main(int argc, char **argv)
{
    main_loop_tests_init(&argc, &argv);
    ADD_TESTS("/snap/reader-refused/", refused_cases, test_refused);
    ADD_TESTS("/snap/reader-refused/capability/", capability_cases,
              test_capability);
    ADD_TESTS("/snap/reader-refused/record/", record_cases, test_record);
    ADD_TESTS("/snap/reader-refused/start-record/", start_record_cases,
              test_start_record);
    ADD_TESTS("/snap/reader-refused/", tests, call_test);
    return g_test_run();
}
