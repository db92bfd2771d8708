/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of the writer of migration streams
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "io/channel-buffer.h"
#include "test-table.h"
#include "write-stream.h"

/* Returns: what @fn writes */
static GByteArray *write_stream(WriteFn *fn, bool footers)
{
    QIOChannelBuffer *channel = qio_channel_buffer_new(0);
    GByteArray *b = g_byte_array_new();
    WriteJob job;

    write_job_init(&job, fn, footers);
    job.file = qemu_file_new_output(QIO_CHANNEL(channel));
    qemu_coroutine_enter(qemu_coroutine_create(write_entry, &job));
    g_assert_true(job.done);
    g_assert_cmpint(job.ret, ==, 0);
    g_assert_null(job.err);

    put_bytes(b, channel->data, channel->usage);
    qemu_fclose(job.file);
    object_unref(OBJECT(channel));
    snap_layout_destroy(&job.layout);
    return b;
}

static void check_bytes(WriteFn *fn, bool footers, const GByteArray *expected)
{
    g_autoptr(GByteArray) b = write_stream(fn, footers);

    g_assert_cmpmem(b->data, b->len, expected->data, expected->len);
}

static void coroutine_fn write_start(WriteJob *job, SnapStreamWriter *writer)
{
    snap_stream_put_ram_start(writer, NULL);
}

static void test_write_start(void)
{
    g_autoptr(GByteArray) expected = g_byte_array_new();

    put_ram_start(expected);
    check_bytes(write_start, true, expected);
}

static void coroutine_fn write_start_huge(WriteJob *job,
                                          SnapStreamWriter *writer)
{
    job->layout.blocks[0].page_size = 2 * MiB;
    snap_stream_put_ram_start(writer, NULL);
}

/* A precopy destination does not expect page sizes. */
static void test_write_start_no_page_size(void)
{
    g_autoptr(GByteArray) expected = g_byte_array_new();

    put_ram_start(expected);
    check_bytes(write_start_huge, true, expected);
}

static void coroutine_fn write_start_instance(WriteJob *job,
                                              SnapStreamWriter *writer)
{
    g_autoptr(SnapStreamWriter) other = NULL;

    job->section.instance = 3;
    other = snap_stream_writer_new(job->file, &job->layout, &job->section);
    snap_stream_put_ram_start(other, NULL);
}

static void test_write_start_instance(void)
{
    g_autoptr(GByteArray) expected = g_byte_array_new();

    put_ram_start(expected);
    /* u8 type, be32 id, u8 length, "ram", be32 instance */
    expected->data[12] = 3;
    check_bytes(write_start_instance, true, expected);
}

static void coroutine_fn write_parts(WriteJob *job, SnapStreamWriter *writer)
{
    static const uint8_t page[PAGE];

    snap_stream_begin_ram(writer, false);
    snap_stream_put_page(writer, 0, 0, page);
    snap_stream_put_page(writer, 0, PAGE, page);
    snap_stream_put_zero_page(writer, 0, 2 * PAGE);
    snap_stream_put_zero_page(writer, 1, 0);
    snap_stream_put_page(writer, 0, 3 * PAGE, page);
    snap_stream_end_ram(writer);
    snap_stream_begin_ram(writer, true);
    snap_stream_put_zero_page(writer, 0, 0);
    snap_stream_end_ram(writer);
}

/* A block is named when it changes, and anew in each section. */
static void test_write_parts(void)
{
    g_autoptr(GByteArray) expected = g_byte_array_new();

    put_part(expected);
    put_page(expected, "pc.ram", 0, 0);
    put_page(expected, NULL, PAGE, 0);
    put_zero_page(expected, NULL, 2 * PAGE);
    put_zero_page(expected, "vga.vram", 0);
    put_page(expected, "pc.ram", 3 * PAGE, 0);
    put_eos(expected);
    put_final(expected);
    put_zero_page(expected, "pc.ram", 0);
    put_eos(expected);
    check_bytes(write_parts, true, expected);
}

static void coroutine_fn write_empty(WriteJob *job, SnapStreamWriter *writer)
{
    snap_stream_begin_ram(writer, true);
    snap_stream_end_ram(writer);
}

static void test_write_no_footers(void)
{
    g_autoptr(GByteArray) expected = g_byte_array_new();

    put_final(expected);
    put_be64(expected, RAM_SAVE_FLAG_EOS);
    check_bytes(write_empty, false, expected);
}

static void coroutine_fn write_end(WriteJob *job, SnapStreamWriter *writer)
{
    snap_stream_put(writer, "raw", 3);
    snap_stream_put_eof(writer, VMDESC, strlen(VMDESC));
}

static void test_write_eof(void)
{
    g_autoptr(GByteArray) expected = g_byte_array_new();

    put_bytes(expected, "raw", 3);
    put_end(expected);
    check_bytes(write_end, true, expected);
}

static void coroutine_fn write_eof(WriteJob *job, SnapStreamWriter *writer)
{
    snap_stream_put_eof(writer, NULL, 0);
}

static void test_write_eof_without_vmdesc(void)
{
    g_autoptr(GByteArray) expected = g_byte_array_new();

    put_u8(expected, QEMU_VM_EOF);
    check_bytes(write_eof, true, expected);
}

static void coroutine_fn write_late(WriteJob *job, SnapStreamWriter *writer)
{
    uint8_t page[PAGE] = { };
    Error *err = NULL;

    snap_stream_begin_ram(writer, false);
    snap_stream_put_page(writer, 0, 0, page);
    memset(page, 0x55, sizeof(page));
    snap_stream_end_ram(writer);
    g_assert_cmpint(snap_stream_flush(writer, &err), ==, 0);
    g_assert_null(err);
}

/* What is in the buffer when it is flushed is what is sent. */
static void test_write_without_copy(void)
{
    g_autoptr(GByteArray) expected = g_byte_array_new();

    put_part(expected);
    put_page(expected, "pc.ram", 0, 0x55);
    put_eos(expected);
    check_bytes(write_late, true, expected);
}

/* --- commands of a load by postcopy --- */

/* Host pages of 2 MiB in the first block, and of 4 KiB elsewhere */
static void huge_pages_init(SnapHostPages *pages, const SnapLayout *layout)
{
    static unsigned bits[] = { 21, 12 };

    *pages = (SnapHostPages) {
        .layout = layout, .bits = bits, .default_bits = 12,
    };
}

static void coroutine_fn write_start_advised(WriteJob *job,
                                             SnapStreamWriter *writer)
{
    SnapHostPages pages;

    huge_pages_init(&pages, &job->layout);
    snap_stream_put_ram_start(writer, &pages);
}

/* What is no plain size follows the length, where postcopy was advised. */
static void test_write_start_advised(void)
{
    g_autoptr(GByteArray) expected = g_byte_array_new();

    put_ram_head(expected, RAM_LENGTH + VGA_LENGTH);
    put_block(expected, "pc.ram", RAM_LENGTH);
    put_be64(expected, 2 * MiB);
    put_block(expected, "vga.vram", VGA_LENGTH);
    put_eos(expected);
    check_bytes(write_start_advised, true, expected);
}

static void coroutine_fn write_start_plain(WriteJob *job,
                                           SnapStreamWriter *writer)
{
    unsigned bits[] = { 12, 12 };
    const SnapHostPages pages = {
        .layout = &job->layout, .bits = bits, .default_bits = 12,
    };

    /* What was announced for the save does not matter. */
    job->layout.blocks[1].page_size = 2 * MiB;
    snap_stream_put_ram_start(writer, &pages);
}

static void test_write_start_plain(void)
{
    g_autoptr(GByteArray) expected = g_byte_array_new();

    put_ram_start(expected);
    check_bytes(write_start_plain, true, expected);
}

static void coroutine_fn write_commands(WriteJob *job,
                                        SnapStreamWriter *writer)
{
    snap_stream_put_command(writer, SNAP_CMD_OPEN_RETURN_PATH, NULL, 0);
    snap_stream_put_ping(writer, 0x01020304);
    snap_stream_put_command(writer, SNAP_CMD_POSTCOPY_LISTEN, NULL, 0);
    snap_stream_put_command(writer, SNAP_CMD_POSTCOPY_RUN, NULL, 0);
    snap_stream_put_command(writer, SNAP_CMD_POSTCOPY_RESUME, NULL, 0);
}

static void test_write_commands(void)
{
    static const uint8_t expected[] = {
        8, 0, 1, 0, 0,
        8, 0, 2, 0, 4, 1, 2, 3, 4,
        8, 0, 4, 0, 0,
        8, 0, 5, 0, 0,
        8, 0, 9, 0, 0,
    };
    g_autoptr(GByteArray) b = write_stream(write_commands, true);

    g_assert_cmpmem(b->data, b->len, expected, sizeof(expected));
    g_assert_cmpuint(b->len, ==, 4 * SNAP_COMMAND_SIZE + SNAP_PING_SIZE);
}

static void coroutine_fn write_advise(WriteJob *job, SnapStreamWriter *writer)
{
    SnapHostPages pages;

    huge_pages_init(&pages, &job->layout);
    snap_stream_put_advise(writer, &pages);
}

/* The sizes of all blocks, ored together, and that of target pages */
static void test_write_advise(void)
{
    g_autoptr(GByteArray) data = g_byte_array_new();
    g_autoptr(GByteArray) expected = g_byte_array_new();

    put_be64(data, 0x201000);
    put_be64(data, PAGE);
    put_command(expected, SNAP_CMD_POSTCOPY_ADVISE, data->data, data->len);
    check_bytes(write_advise, true, expected);
}

static void coroutine_fn write_discard(WriteJob *job, SnapStreamWriter *writer)
{
    static const SnapStreamRange ranges[] = {
        { 0, PAGE }, { 2 * PAGE, 2 * PAGE },
    };

    snap_stream_put_discard(writer, 0, ranges, 2);
    snap_stream_put_discard(writer, 1, ranges, 1);
}

/* A version, the counted name with a zero behind it, and the ranges */
static void put_discard(GByteArray *b, const char *name,
                        const uint64_t *numbers, unsigned nb_numbers)
{
    g_autoptr(GByteArray) data = g_byte_array_new();

    put_u8(data, 0);
    put_name(data, name);
    put_u8(data, 0);
    for (unsigned i = 0; i < nb_numbers; i++) {
        put_be64(data, numbers[i]);
    }
    put_command(b, SNAP_CMD_RAM_DISCARD, data->data, data->len);
}

static void test_write_discard(void)
{
    const uint64_t numbers[] = { 0, PAGE, 2 * PAGE, 2 * PAGE };
    g_autoptr(GByteArray) expected = g_byte_array_new();

    put_discard(expected, "pc.ram", numbers, 4);
    put_discard(expected, "vga.vram", numbers, 2);
    check_bytes(write_discard, true, expected);
}

/* A block with the longest name that there is, and as many ranges as fit */
static void coroutine_fn write_largest_discard(WriteJob *job,
                                               SnapStreamWriter *writer)
{
    g_autofree SnapStreamRange *ranges = g_new(SnapStreamRange,
                                               SNAP_MAX_DISCARD_RANGES);

    memset(job->layout.blocks[1].name, 'x', SNAP_BLOCK_NAME_MAX);
    for (uint64_t i = 0; i < SNAP_MAX_DISCARD_RANGES; i++) {
        ranges[i] = (SnapStreamRange) { 2 * i * PAGE, PAGE };
    }
    snap_stream_put_discard(writer, 1, ranges, SNAP_MAX_DISCARD_RANGES);
}

static void test_write_largest_discard(void)
{
    g_autofree char *name = g_strnfill(SNAP_BLOCK_NAME_MAX, 'x');
    g_autofree uint64_t *numbers = g_new(uint64_t, 2 * SNAP_MAX_DISCARD_RANGES);
    g_autoptr(GByteArray) expected = g_byte_array_new();

    for (uint64_t i = 0; i < SNAP_MAX_DISCARD_RANGES; i++) {
        numbers[2 * i] = 2 * i * PAGE;
        numbers[2 * i + 1] = PAGE;
    }
    put_discard(expected, name, numbers, 2 * SNAP_MAX_DISCARD_RANGES);
    check_bytes(write_largest_discard, true, expected);
}

static void coroutine_fn write_package(WriteJob *job, SnapStreamWriter *writer)
{
    snap_stream_begin_package(writer, SNAP_COMMAND_SIZE + SNAP_PING_SIZE);
    snap_stream_put_command(writer, SNAP_CMD_POSTCOPY_LISTEN, NULL, 0);
    snap_stream_put_ping(writer, 3);
}

/* The length of what follows is data of the command; what follows is not. */
static void test_write_package(void)
{
    static const uint8_t expected[] = {
        8, 0, 7, 0, 4, 0, 0, 0, 14,
        8, 0, 4, 0, 0,
        8, 0, 2, 0, 4, 0, 0, 0, 3,
    };
    g_autoptr(GByteArray) b = write_stream(write_package, true);

    g_assert_cmpmem(b->data, b->len, expected, sizeof(expected));
}

static void coroutine_fn write_recv_bitmap(WriteJob *job,
                                           SnapStreamWriter *writer)
{
    snap_stream_put_recv_bitmap(writer, 1);
}

static void test_write_recv_bitmap(void)
{
    g_autoptr(GByteArray) expected = g_byte_array_new();

    put_command(expected, SNAP_CMD_RECV_BITMAP, "\10vga.vram", 9);
    check_bytes(write_recv_bitmap, true, expected);
}

static void coroutine_fn write_records(WriteJob *job, SnapStreamWriter *writer)
{
    static const uint8_t page[PAGE];

    snap_stream_put_page(writer, 0, PAGE, page);
    snap_stream_put_zero_page(writer, 0, 0);
    snap_stream_put_page(writer, 1, 0, page);
    snap_stream_put_end_of_records(writer);
}

/* The channel of postcopy-preempt has records without sections. */
static void test_write_records(void)
{
    g_autoptr(GByteArray) expected = g_byte_array_new();

    put_page(expected, "pc.ram", PAGE, 0);
    put_zero_page(expected, NULL, 0);
    put_page(expected, "vga.vram", 0, 0);
    put_be64(expected, RAM_SAVE_FLAG_EOS);
    check_bytes(write_records, true, expected);
}

static void coroutine_fn write_answers(WriteJob *job, SnapStreamWriter *writer)
{
    g_assert_cmpint(snap_return_path_pong(job->file, 0x01020304), ==, 0);
    g_assert_cmpint(snap_return_path_shut(job->file, 1), ==, 0);
}

static void test_write_return_path(void)
{
    static const uint8_t expected[] = {
        0, 2, 0, 4, 1, 2, 3, 4,     /* PONG */
        0, 1, 0, 4, 0, 0, 0, 1,     /* SHUT */
    };
    g_autoptr(GByteArray) b = write_stream(write_answers, true);

    g_assert_cmpmem(b->data, b->len, expected, sizeof(expected));
}

/* The first error stays, and later calls are harmless. */
static void test_write_broken_pipe(void)
{
    WriteJob job;
    int fds[2];

    g_unix_open_pipe(fds, FD_CLOEXEC, NULL);
    close(fds[0]);
    write_job_init(&job, write_parts, true);
    job.file = pipe_output(fds[1]);
    qemu_coroutine_enter(qemu_coroutine_create(write_entry, &job));

    g_assert_true(job.done);
    g_assert_cmpint(job.ret, <, 0);
    g_assert_nonnull(job.err);
    error_free(job.err);
    qemu_fclose(job.file);
    snap_layout_destroy(&job.layout);
}

static const Test tests[] = {
    { "write/start", test_write_start },
    { "write/start/no-page-size", test_write_start_no_page_size },
    { "write/start/instance", test_write_start_instance },
    { "write/start/advised", test_write_start_advised },
    { "write/start/plain", test_write_start_plain },
    { "write/parts", test_write_parts },
    { "write/no-footers", test_write_no_footers },
    { "write/eof", test_write_eof },
    { "write/eof/without-vmdesc", test_write_eof_without_vmdesc },
    { "write/without-copy", test_write_without_copy },
    { "write/commands", test_write_commands },
    { "write/advise", test_write_advise },
    { "write/discard", test_write_discard },
    { "write/discard/largest", test_write_largest_discard },
    { "write/package", test_write_package },
    { "write/recv-bitmap", test_write_recv_bitmap },
    { "write/records", test_write_records },
    { "write/return-path", test_write_return_path },
    { "write/broken-pipe", test_write_broken_pipe },
};

int main(int argc, char **argv)
{
    main_loop_tests_init(&argc, &argv);
    ADD_TESTS("/snap/stream/", tests, call_test);
    return g_test_run();
}
