/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of the reader of migration streams
 */

#include "qemu/osdep.h"
#include "read-stream.h"
#include "test-table.h"

/* --- streams that are taken --- */

static void test_background(void)
{
    g_autoptr(GByteArray) b = background_stream();
    g_autoptr(GByteArray) devices = g_byte_array_new();

    put_devices(devices);
    check_devices(b, "setup " LOG_PARTS LOG_DEVICES, devices);
}

static void test_precopy(void)
{
    g_autoptr(GByteArray) b = precopy_stream();
    g_autoptr(GByteArray) devices = g_byte_array_new();

    put_devices(devices);
    check_devices(b, "setup " LOG_PARTS "final zero 0+0 eos " LOG_DEVICES,
                  devices);
}

static void test_identity(void)
{
    g_autoptr(GByteArray) b = background_stream();
    g_autoptr(GByteArray) configuration = g_byte_array_new();
    g_autoptr(Result) res = read_stream(b);

    put_header(configuration);
    g_assert_cmpmem(res->configuration->data, res->configuration->len,
                    configuration->data, configuration->len);
    g_assert_cmpstr(res->blocks->str, ==, "pc.ram:1000:0 vga.vram:800:0 ");
    g_assert_cmpuint(res->section.id, ==, RAM_ID);
    g_assert_cmpuint(res->section.instance, ==, 0);
    g_assert_true(res->section.footers);
    g_assert_cmpmem(res->vmdesc->data, res->vmdesc->len,
                    VMDESC, strlen(VMDESC));
}

static void test_no_vmdesc(void)
{
    g_autoptr(GByteArray) b = started_stream();
    g_autoptr(GByteArray) devices = g_byte_array_new();

    put_parts(b);
    put_devices(b);
    put_u8(b, QEMU_VM_EOF);
    put_devices(devices);
    check_devices(b, "setup " LOG_PARTS "devices complete 58+0 end", devices);
}

static void test_no_configuration(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    g_autoptr(Result) res = NULL;

    put_be32(b, QEMU_VM_FILE_MAGIC);
    put_be32(b, QEMU_VM_FILE_VERSION);
    put_ram_start(b);
    put_parts(b);
    put_devices(b);
    put_u8(b, QEMU_VM_EOF);
    res = read_stream(b);
    g_assert_cmpint(res->ret, ==, 0);
}

static void put_unfooted_eos(GByteArray *b)
{
    put_be64(b, RAM_SAVE_FLAG_EOS);
}

static void test_no_footers(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    g_autoptr(Result) res = NULL;

    put_header(b);
    put_ram_head(b, RAM_LENGTH);
    put_block(b, "pc.ram", RAM_LENGTH);
    put_unfooted_eos(b);
    put_part(b);
    put_page(b, "pc.ram", PAGE, 0x11);
    put_unfooted_eos(b);
    put_final(b);
    put_unfooted_eos(b);
    put_head(b, QEMU_VM_SECTION_FULL, 4, "timer", 1);
    put_end(b);
    res = read_stream(b);
    g_assert_cmpint(res->ret, ==, 0);
    g_assert_false(res->section.footers);
    g_assert_cmpstr(res->log->str, ==, "setup page 0+400=11 eos final eos "
                    "devices complete 19+18 end");
}

static void test_commands(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_header(b);
    put_command(b, SNAP_CMD_OPEN_RETURN_PATH, NULL, 0);
    put_command(b, SNAP_CMD_PING, "\0\0\0\3", 4);
    put_command(b, SNAP_CMD_POSTCOPY_ADVISE, "\0\0\0\0\0\0\x10\0"
                "\0\0\0\0\0\0\x10\0", 16);
    put_ram_start(b);
    put_parts(b);
    put_devices(b);
    put_end(b);
    check_log(b, "return-path ping 3 setup " LOG_PARTS LOG_DEVICES);
}

/* Sections before the first page, on both sides of RAM's START */
static void test_early_sections(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    g_autoptr(GByteArray) setup = g_byte_array_new();
    g_autoptr(Result) res = NULL;
    size_t before;

    put_full(setup, 7, "virtio-mem-device-early", "one", 3);
    before = setup->len;
    put_full(setup, 8, "virtio-mem-device-early", "two", 3);

    put_header(b);
    put_bytes(b, setup->data, before);
    put_ram_start(b);
    put_bytes(b, setup->data + before, setup->len - before);
    put_parts(b);
    put_devices(b);
    put_end(b);

    check_log(b, "setup " LOG_PARTS LOG_DEVICES);
    res = read_stream(b);
    g_assert_cmpmem(res->setup->data, res->setup->len,
                    setup->data, setup->len);
    g_assert_cmpuint(res->before_ram, ==, before);
}

/* An early section whose payload holds its own footer, then @tail */
static void check_early_false_footer(const void *tail, size_t length)
{
    g_autoptr(GByteArray) b = started_stream();
    g_autoptr(GByteArray) payload = g_byte_array_new();
    g_autoptr(GByteArray) setup = g_byte_array_new();
    g_autoptr(Result) res = NULL;

    put_footer(payload, 8);
    put_bytes(payload, tail, length);
    put_full(setup, 8, "early", payload->data, payload->len);
    put_bytes(b, setup->data, setup->len);
    put_parts(b);
    put_devices(b);
    put_end(b);

    check_log(b, "setup " LOG_PARTS LOG_DEVICES);
    res = read_stream(b);
    g_assert_cmpmem(res->setup->data, res->setup->len,
                    setup->data, setup->len);
}

static void test_early_false_footer(void)
{
    check_early_false_footer("\xff", 1);
    check_early_false_footer("\x04\0\0\0\1\0", 6);
    check_early_false_footer("\x02\0\0\0\x63", 5);
    check_early_false_footer("\0", 1);
    check_early_false_footer("\x7e\0\0", 3);
}

/* START belongs to the setup, what comes later to the device state. */
static void test_dirty_bitmap(void)
{
    g_autoptr(GByteArray) b = bitmap_stream();
    g_autoptr(GByteArray) devices = g_byte_array_new();
    g_autoptr(GByteArray) setup = g_byte_array_new();
    g_autoptr(Result) res = read_stream(b);

    put_head(setup, QEMU_VM_SECTION_START, 1, "dirty-bitmap", 1);
    put_bytes(setup, dirty_bitmap, sizeof(dirty_bitmap));
    put_footer(setup, 1);
    put_bitmap_part(devices, QEMU_VM_SECTION_PART);
    put_bitmap_part(devices, QEMU_VM_SECTION_END);
    put_devices(devices);

    check_devices(b, NULL, devices);
    g_assert_cmpmem(res->setup->data, res->setup->len,
                    setup->data, setup->len);
    g_assert_cmpuint(res->before_ram, ==, 0);
}

/* What START has is no event: there nothing has come before it. */
static void test_multifd_flush(void)
{
    g_autoptr(GByteArray) b = multifd_stream();
    g_autoptr(Result) res = read_stream(b);

    check_log(b, "setup zero 0+400 flush eos final flush eos " LOG_DEVICES);
    g_assert_true(res->flush);
}

static void test_no_multifd_flush(void)
{
    g_autoptr(GByteArray) b = precopy_stream();
    g_autoptr(Result) res = read_stream(b);

    g_assert_false(res->flush);
}

/* The source may wait with the footer until the setup is known. */
static void test_setup_before_footer(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_header(b);
    put_ram_head(b, RAM_LENGTH);
    put_block(b, "pc.ram", RAM_LENGTH);
    put_be64(b, RAM_SAVE_FLAG_EOS);
    for (size_t i = 0; i < ARRAY_SIZE(chunks); i++) {
        g_autoptr(Result) res = read_bytes(b->data, b->len, chunks[i], true);

        g_assert_true(says(res, ""));
        g_assert_cmpstr(res->log->str, ==, "setup ");
    }
}

static void test_page_bits(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    g_autofree char *page = g_strnfill(4 * KiB, 'p');

    put_header(b);
    put_subsection(b, "configuration/target-page-bits");
    put_be32(b, 12);
    put_ram_head(b, 8 * KiB);
    put_block(b, "pc.ram", 8 * KiB);
    put_eos(b);
    put_part(b);
    put_record(b, (4 * KiB) | RAM_SAVE_FLAG_PAGE, "pc.ram");
    put_bytes(b, page, 4 * KiB);
    put_eos(b);
    put_devices(b);
    put_end(b);
    check_log(b, "setup page 0+1000=70 eos " LOG_DEVICES);
}

static void test_uuid(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    g_autoptr(Result) res = NULL;
    size_t length;

    put_header(b);
    put_subsection(b, "configuration/uuid");
    put_bytes(b, "0123456789abcdef", 16);
    length = b->len;
    put_ram_start(b);
    put_parts(b);
    put_devices(b);
    put_end(b);
    res = read_stream(b);
    g_assert_cmpint(res->ret, ==, 0);
    g_assert_cmpmem(res->configuration->data, res->configuration->len,
                    b->data, length);
}

/* Page sizes of 0 are not announced. */
static void check_page_sizes(const uint64_t sizes[3], const char *blocks)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    g_autoptr(Result) res = NULL;

    put_header(b);
    put_ram_head(b, 3 * RAM_LENGTH);
    for (int i = 0; i < 3; i++) {
        g_autofree char *name = g_strdup_printf("ram%d", i);

        put_block(b, name, RAM_LENGTH);
        if (sizes[i]) {
            put_be64(b, sizes[i]);
        }
    }
    put_eos(b);
    put_part(b);
    put_eos(b);
    put_devices(b);
    put_end(b);

    check_log(b, "setup eos " LOG_DEVICES);
    res = read_stream(b);
    g_assert_cmpstr(res->blocks->str, ==, blocks);
}

static void test_page_size(void)
{
    check_page_sizes((uint64_t[]) { 2 * MiB, 0, 0 },
                     "ram0:1000:200000 ram1:1000:0 ram2:1000:0 ");
    check_page_sizes((uint64_t[]) { 0, 1 * GiB, 0 },
                     "ram0:1000:0 ram1:1000:40000000 ram2:1000:0 ");
    check_page_sizes((uint64_t[]) { 0, 0, 2 * MiB },
                     "ram0:1000:0 ram1:1000:0 ram2:1000:200000 ");
    check_page_sizes((uint64_t[]) { 2 * MiB, 2 * MiB, 2 * MiB },
                     "ram0:1000:200000 ram1:1000:200000 ram2:1000:200000 ");
}

/*
 * Targets with pages larger than the host's (alpha, sparc64) announce the
 * host's page size (migration/ram.c:ram_save_setup, max_hg_page_size).
 */
static void test_page_size_below_target(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    g_autoptr(Result) res = NULL;

    put_header(b);
    put_subsection(b, "configuration/target-page-bits");
    put_be32(b, 13);
    put_ram_head(b, 16 * KiB);
    put_block(b, "ram", 8 * KiB);
    put_be64(b, 4 * KiB);
    put_block(b, "vram", 8 * KiB);
    put_be64(b, 4 * KiB);
    put_eos(b);
    put_part(b);
    put_eos(b);
    put_devices(b);
    put_end(b);
    check_log(b, "setup eos " LOG_DEVICES);
    res = read_stream(b);
    g_assert_cmpstr(res->blocks->str, ==, "ram:2000:1000 vram:2000:1000 ");
}

/* More device state than the reader hands on at a time */
static void test_large_devices(void)
{
    g_autoptr(GByteArray) b = started_stream();
    g_autoptr(GByteArray) devices = g_byte_array_new();
    g_autofree uint8_t *payload = g_malloc(300 * KiB);

    for (size_t i = 0; i < 300 * KiB; i++) {
        payload[i] = i * 7 + (i >> 8);
    }
    put_full(devices, 4, "vga", payload, 300 * KiB);
    put_parts(b);
    put_bytes(b, devices->data, devices->len);
    put_end(b);
    check_devices(b, NULL, devices);
}

static void test_no_capability(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_header(b);
    put_subsection(b, "configuration/capabilities");
    put_be32(b, 0);
    put_ram_start(b);
    put_parts(b);
    put_devices(b);
    put_end(b);
    check_log(b, "setup " LOG_PARTS LOG_DEVICES);
}

/* --- streams that end too early --- */

/* Every cut is an error, but for the one right after EOF. */
static void check_truncated(const GByteArray *b, size_t eof)
{
    static const size_t sizes[] = { SIZE_MAX, 13 };

    for (size_t size = 0; size < b->len; size++) {
        g_autofree uint8_t *copy = g_memdup2(b->data, size);
        g_autoptr(Result) res = read_bytes(copy, size, sizes[size & 1], false);

        if (size == eof) {
            g_assert_cmpint(res->ret, ==, 0);
            g_assert_cmpuint(res->vmdesc->len, ==, 0);
        } else if (!says(res, size ? "early" : "No migration stream")) {
            g_test_message("cut at %zu: %s", size, outcome(res));
            g_test_fail();
        }
    }
}

static size_t eof_of(const GByteArray *b)
{
    return b->len - strlen(VMDESC) - 5;
}

typedef struct StreamCase {
    const char *path;
    GByteArray *(*make)(void);
} StreamCase;

static const StreamCase truncated_cases[] = {
    { "background", background_stream },
    { "precopy", precopy_stream },
    { "dirty-bitmap", bitmap_stream },
    { "multifd", multifd_stream },
};

static void test_truncated(gconstpointer data)
{
    const StreamCase *c = data;
    g_autoptr(GByteArray) b = c->make();

    check_truncated(b, eof_of(b));
}

static void test_truncated_configuration(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_header(b);
    put_subsection(b, "configuration/target-page-bits");
    put_be32(b, 10);
    put_subsection(b, "configuration/uuid");
    put_bytes(b, "0123456789abcdef", 16);
    put_ram_head(b, RAM_LENGTH);
    put_block(b, "pc.ram", RAM_LENGTH);
    put_be64(b, 2 * MiB);
    put_eos(b);
    check_truncated(b, SIZE_MAX);
}

/* The end of the file stays the end, though bytes come after it. */
static void test_growing(void)
{
    g_autoptr(GByteArray) b = background_stream();

    for (size_t size = 0; size < b->len; size += 7) {
        TestChannel *channel = test_channel_new(b->data, size, SIZE_MAX);
        g_autoptr(Result) res = NULL;

        channel->grows = b->len - size;
        res = read_channel(QIO_CHANNEL(channel), MUCH_ROOM);
        if (size != eof_of(b) &&
            !says(res, size ? "early" : "No migration stream")) {
            g_test_message("cut at %zu: %s", size, outcome(res));
            g_test_fail();
        }
        g_assert_cmpuint(channel->size, ==, b->len - size);
        object_unref(OBJECT(channel));
    }
}

/* A failing channel is not the end of the file, wherever it fails. */
static void test_channel_fails(void)
{
    g_autoptr(GByteArray) b = background_stream();

    for (size_t size = 0; size < b->len; size++) {
        g_autoptr(Result) res = read_bytes(b->data, size, SIZE_MAX, true);

        if (!says(res, "Injected")) {
            g_test_message("failure at %zu: %s", size, outcome(res));
            g_test_fail();
        }
    }
}

static const Test tests[] = {
    { "accepted/background-snapshot", test_background },
    { "accepted/precopy", test_precopy },
    { "accepted/without-description", test_no_vmdesc },
    { "accepted/without-configuration", test_no_configuration },
    { "accepted/without-footers", test_no_footers },
    { "accepted/commands-before-ram", test_commands },
    { "multifd-flush/is-an-event-after-setup", test_multifd_flush },
    { "multifd-flush/is-unknown-without-multifd", test_no_multifd_flush },
    { "accepted/no-capabilities", test_no_capability },
    { "devices/large-state-comes-in-pieces", test_large_devices },
    { "setup/configuration-blocks-and-section-are-known", test_identity },
    { "setup/has-sections-before-the-first-page", test_early_sections },
    { "setup/footer-within-a-section-does-not-end-it",
      test_early_false_footer },
    { "setup/has-the-start-of-a-dirty-bitmap", test_dirty_bitmap },
    { "setup/is-known-before-its-footer-comes", test_setup_before_footer },
    { "setup/has-the-target-page-size", test_page_bits },
    { "setup/has-the-uuid", test_uuid },
    { "setup/has-the-page-sizes-of-blocks", test_page_size },
    { "setup/page-size-may-be-below-the-targets", test_page_size_below_target },
    { "truncated-stream-is-refused/configuration",
      test_truncated_configuration },
    { "end-of-file/stays-so-if-the-file-grows", test_growing },
    { "failure-of-the-channel-is-no-end-anywhere", test_channel_fails },
};

int main(int argc, char **argv)
{
    main_loop_tests_init(&argc, &argv);
    ADD_TESTS("/snap/reader/", tests, call_test);
    ADD_TESTS("/snap/reader/truncated-stream-is-refused/", truncated_cases,
              test_truncated);
    return g_test_run();
}
