/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of the writer of migration streams
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "io/channel-buffer.h"
#include "snap/stream/return-path.h"
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
    snap_ram_blocks_destroy(&job.ram);
    return b;
}

/* --- pairs of functions: what is written, and what that is as bytes --- */

static void coroutine_fn write_start(WriteJob *job, SnapStreamWriter *writer)
{
    snap_stream_put_ram_start(writer, NULL);
}

static void coroutine_fn write_start_huge(WriteJob *job,
                                          SnapStreamWriter *writer)
{
    job->ram.blocks[0].page_size = 2 * MiB;
    snap_stream_put_ram_start(writer, NULL);
}

static void coroutine_fn write_start_instance(WriteJob *job,
                                              SnapStreamWriter *writer)
{
    g_autoptr(SnapStreamWriter) other = NULL;

    job->section.instance = 3;
    other = snap_stream_writer_new(job->file, &job->ram, &job->section);
    snap_stream_put_ram_start(other, NULL);
}

static void expect_start_instance(GByteArray *b)
{
    put_ram_start(b);
    /* u8 type, be32 id, u8 length, "ram", be32 instance */
    b->data[12] = 3;
}

static void coroutine_fn write_parts(WriteJob *job, SnapStreamWriter *writer)
{
    static const uint8_t page[PAGE];

    snap_stream_begin_ram(writer, false);
    snap_stream_put_page(writer, 0, page);
    snap_stream_put_page(writer, 1, page);
    snap_stream_put_zero_page(writer, 2);
    snap_stream_put_zero_page(writer, VGA_FIRST);
    snap_stream_put_page(writer, 3, page);
    snap_stream_end_ram(writer);
    snap_stream_begin_ram(writer, true);
    snap_stream_put_zero_page(writer, 0);
    snap_stream_end_ram(writer);
}

static void expect_parts(GByteArray *b)
{
    put_part(b);
    put_page(b, "pc.ram", 0, 0);
    put_page(b, NULL, PAGE, 0);
    put_zero_page(b, NULL, 2 * PAGE);
    put_zero_page(b, "vga.vram", 0);
    put_page(b, "pc.ram", 3 * PAGE, 0);
    put_eos(b);
    put_final(b);
    put_zero_page(b, "pc.ram", 0);
    put_eos(b);
}

static void coroutine_fn write_empty(WriteJob *job, SnapStreamWriter *writer)
{
    snap_stream_begin_ram(writer, true);
    snap_stream_end_ram(writer);
}

static void expect_empty(GByteArray *b)
{
    put_final(b);
    put_be64(b, RAM_SAVE_FLAG_EOS);
}

static void coroutine_fn write_end(WriteJob *job, SnapStreamWriter *writer)
{
    snap_stream_put(writer, "raw", 3);
    snap_stream_put_eof(writer, VMDESC, strlen(VMDESC));
}

static void expect_end(GByteArray *b)
{
    put_bytes(b, "raw", 3);
    put_end(b);
}

static void coroutine_fn write_eof(WriteJob *job, SnapStreamWriter *writer)
{
    snap_stream_put_eof(writer, NULL, 0);
}

static void expect_eof(GByteArray *b)
{
    put_u8(b, QEMU_VM_EOF);
}

static void coroutine_fn write_late(WriteJob *job, SnapStreamWriter *writer)
{
    uint8_t page[PAGE] = { };
    Error *err = NULL;

    snap_stream_begin_ram(writer, false);
    snap_stream_put_page(writer, 0, page);
    memset(page, 0x55, sizeof(page));
    snap_stream_end_ram(writer);
    g_assert_cmpint(snap_stream_flush(writer, &err), ==, 0);
    g_assert_null(err);
}

static void expect_late(GByteArray *b)
{
    put_part(b);
    put_page(b, "pc.ram", 0, 0x55);
    put_eos(b);
}

/* --- commands of a load by postcopy --- */

/* Host pages of 2 MiB in the first block, and of 4 KiB elsewhere */
static void huge_pages_init(SnapHostPages *pages, const SnapRAMBlocks *ram)
{
    static unsigned bits[] = { 21, 12 };

    *pages = (SnapHostPages) {
        .ram = ram, .bits = bits, .default_bits = 12,
    };
}

static void coroutine_fn write_start_advised(WriteJob *job,
                                             SnapStreamWriter *writer)
{
    SnapHostPages pages;

    huge_pages_init(&pages, &job->ram);
    snap_stream_put_ram_start(writer, &pages);
}

static void expect_start_advised(GByteArray *b)
{
    put_ram_head(b, RAM_LENGTH + VGA_LENGTH);
    put_block(b, "pc.ram", RAM_LENGTH);
    put_be64(b, 2 * MiB);
    put_block(b, "vga.vram", VGA_LENGTH);
    put_eos(b);
}

static void coroutine_fn write_start_plain(WriteJob *job,
                                           SnapStreamWriter *writer)
{
    unsigned bits[] = { 12, 12 };
    const SnapHostPages pages = {
        .ram = &job->ram, .bits = bits, .default_bits = 12,
    };

    /* What was announced for the save does not matter. */
    job->ram.blocks[1].page_size = 2 * MiB;
    snap_stream_put_ram_start(writer, &pages);
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

static void expect_commands(GByteArray *b)
{
    static const uint8_t bytes[] = {
        8, 0, 1, 0, 0,
        8, 0, 2, 0, 4, 1, 2, 3, 4,
        8, 0, 4, 0, 0,
        8, 0, 5, 0, 0,
        8, 0, 9, 0, 0,
    };

    put_bytes(b, bytes, sizeof(bytes));
    g_assert_cmpuint(b->len, ==, 4 * SNAP_COMMAND_SIZE + SNAP_PING_SIZE);
}

static void coroutine_fn write_advise(WriteJob *job, SnapStreamWriter *writer)
{
    SnapHostPages pages;

    huge_pages_init(&pages, &job->ram);
    snap_stream_put_advise(writer, &pages);
}

/* The sizes of all blocks, ored together, and that of target pages */
static void expect_advise(GByteArray *b)
{
    g_autoptr(GByteArray) data = g_byte_array_new();

    put_be64(data, 0x201000);
    put_be64(data, PAGE);
    put_command(b, SNAP_CMD_POSTCOPY_ADVISE, data->data, data->len);
}

static void coroutine_fn write_discard(WriteJob *job, SnapStreamWriter *writer)
{
    static const SnapPageRange ram[] = { { 0, 1 }, { 2, 2 } };
    static const SnapPageRange vga[] = { { VGA_FIRST, 1 } };

    snap_stream_put_discard(writer, ram, 2);
    snap_stream_put_discard(writer, vga, 1);
}

/* A version, the counted name and a zero after it, and the ranges */
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

static void expect_discard(GByteArray *b)
{
    const uint64_t numbers[] = { 0, PAGE, 2 * PAGE, 2 * PAGE };

    put_discard(b, "pc.ram", numbers, 4);
    put_discard(b, "vga.vram", numbers, 2);
}

/* A block with the longest name that there is, and as many ranges as fit */
static void coroutine_fn write_largest_discard(WriteJob *job,
                                               SnapStreamWriter *writer)
{
    g_autofree SnapPageRange *ranges = g_new(SnapPageRange,
                                             SNAP_MAX_DISCARD_RANGES);

    memset(job->ram.blocks[1].name, 'x', SNAP_BLOCK_NAME_MAX);
    for (uint64_t i = 0; i < SNAP_MAX_DISCARD_RANGES; i++) {
        ranges[i] = (SnapPageRange) { VGA_FIRST + 2 * i, 1 };
    }
    snap_stream_put_discard(writer, ranges, SNAP_MAX_DISCARD_RANGES);
}

static void expect_largest_discard(GByteArray *b)
{
    g_autofree char *name = g_strnfill(SNAP_BLOCK_NAME_MAX, 'x');
    g_autofree uint64_t *numbers = g_new(uint64_t, 2 * SNAP_MAX_DISCARD_RANGES);

    for (uint64_t i = 0; i < SNAP_MAX_DISCARD_RANGES; i++) {
        numbers[2 * i] = 2 * i * PAGE;
        numbers[2 * i + 1] = PAGE;
    }
    put_discard(b, name, numbers, 2 * SNAP_MAX_DISCARD_RANGES);
}

static void coroutine_fn write_package(WriteJob *job, SnapStreamWriter *writer)
{
    snap_stream_begin_package(writer, SNAP_COMMAND_SIZE + SNAP_PING_SIZE);
    snap_stream_put_command(writer, SNAP_CMD_POSTCOPY_LISTEN, NULL, 0);
    snap_stream_put_ping(writer, 3);
}

/* The command has the length of what follows as its data. */
static void expect_package(GByteArray *b)
{
    static const uint8_t bytes[] = {
        8, 0, 7, 0, 4, 0, 0, 0, 14,
        8, 0, 4, 0, 0,
        8, 0, 2, 0, 4, 0, 0, 0, 3,
    };

    put_bytes(b, bytes, sizeof(bytes));
}

static void coroutine_fn write_recv_bitmap(WriteJob *job,
                                           SnapStreamWriter *writer)
{
    snap_stream_put_recv_bitmap(writer, 1);
}

static void expect_recv_bitmap(GByteArray *b)
{
    put_command(b, SNAP_CMD_RECV_BITMAP, "\10vga.vram", 9);
}

static void coroutine_fn write_records(WriteJob *job, SnapStreamWriter *writer)
{
    static const uint8_t page[PAGE];

    snap_stream_put_page(writer, 1, page);
    snap_stream_put_zero_page(writer, 0);
    snap_stream_put_page(writer, VGA_FIRST, page);
    snap_stream_put_end_of_records(writer);
}

static void expect_records(GByteArray *b)
{
    put_page(b, "pc.ram", PAGE, 0);
    put_zero_page(b, NULL, 0);
    put_page(b, "vga.vram", 0, 0);
    put_be64(b, RAM_SAVE_FLAG_EOS);
}

static void coroutine_fn write_answers(WriteJob *job, SnapStreamWriter *writer)
{
    g_assert_cmpint(snap_return_path_pong(job->file, 0x01020304), ==, 0);
    g_assert_cmpint(snap_return_path_shut(job->file, 1), ==, 0);
}

static void expect_answers(GByteArray *b)
{
    static const uint8_t bytes[] = {
        0, 2, 0, 4, 1, 2, 3, 4,     /* PONG */
        0, 1, 0, 4, 0, 0, 0, 1,     /* SHUT */
    };

    put_bytes(b, bytes, sizeof(bytes));
}

/**
 * WriteCase: what the writer makes of calls
 * @write: the calls
 * @expect: appends the bytes that they write
 * @no_footers: sections of this stream have none
 */
typedef struct WriteCase {
    const char *path;
    WriteFn *write;
    void (*expect)(GByteArray *b);
    bool no_footers;
} WriteCase;

static const WriteCase write_cases[] = {
    { "start/lists-the-blocks", write_start, put_ram_start },
    /* A precopy destination does not expect page sizes. */
    { "start/has-no-page-sizes-in-precopy", write_start_huge, put_ram_start },
    { "start/has-the-instance-of-its-section",
      write_start_instance, expect_start_instance },
    { "start/has-large-page-sizes-if-postcopy-was-advised",
      write_start_advised, expect_start_advised },
    { "start/page-sizes-are-those-of-the-destination",
      write_start_plain, put_ram_start },
    { "pages/block-is-named-if-it-changes-and-in-each-section",
      write_parts, expect_parts },
    { "pages/are-sent-as-they-are-at-the-flush", write_late, expect_late },
    { "pages/need-no-sections-on-the-preempt-channel",
      write_records, expect_records },
    { "section/has-no-footer-if-the-saved-ones-had-none",
      write_empty, expect_empty, .no_footers = true },
    { "end/has-the-description", write_end, expect_end },
    { "end/without-description-is-eof-alone", write_eof, expect_eof },
    { "command/has-its-number-and-length", write_commands, expect_commands },
    { "command/advise-has-all-host-page-sizes-and-the-target-page-size",
      write_advise, expect_advise },
    { "command/discard-has-the-ranges-of-a-block",
      write_discard, expect_discard },
    { "command/largest-discard-fits-in-one-command",
      write_largest_discard, expect_largest_discard },
    { "command/package-has-the-length-of-what-follows",
      write_package, expect_package },
    { "command/recv-bitmap-names-the-block",
      write_recv_bitmap, expect_recv_bitmap },
    { "return-path/answers-have-type-and-length",
      write_answers, expect_answers },
};

static void test_write(gconstpointer data)
{
    const WriteCase *c = data;
    g_autoptr(GByteArray) b = write_stream(c->write, !c->no_footers);
    g_autoptr(GByteArray) expected = g_byte_array_new();

    c->expect(expected);
    g_assert_cmpmem(b->data, b->len, expected->data, expected->len);
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
    snap_ram_blocks_destroy(&job.ram);
}

int main(int argc, char **argv)
{
    main_loop_tests_init(&argc, &argv);
    ADD_TESTS("/snap/writer/", write_cases, test_write);
    g_test_add_func("/snap/writer/error/first-one-stays",
                    test_write_broken_pipe);
    return g_test_run();
}
