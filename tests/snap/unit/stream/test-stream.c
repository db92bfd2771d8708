/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of the reader and the writer of migration streams
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "io/channel-buffer.h"
#include "io/channel-file.h"
#include "migration/qemu-file.h"
#include "migration/ram.h"
#include "migration/savevm.h"
#include "snap/channel/input.h"
#include "snap/stream/reader.h"
#include "snap/stream/writer.h"
#include "stream-bytes.h"
#include "test-channel.h"

#define PAGE_BITS   10
#define PAGE        (1 << PAGE_BITS)
#define RAM_ID      2
#define RAM_LENGTH  (4 * PAGE)
#define VGA_LENGTH  (2 * PAGE)
#define VMDESC      "{\"page_size\":1024}"

#define COMPRESS_PAGE   0x100

/* --- reading a whole stream --- */

/*
 * What a stream said: events as text, such as "page 0+400=aa" for a page full
 * of 0xaa at offset 0x400 of block 0, and the bytes that came along.  Pages
 * that were taken together are so many events; "0+400:3" tells of such a run.
 */
typedef struct Result {
    GString *log;
    GByteArray *devices;
    GByteArray *vmdesc;
    GByteArray *setup;
    GByteArray *configuration;
    size_t before_ram;
    SnapRAMSection section;
    GString *blocks;
    GString *runs;
    bool flush;
    int ret;
    Error *err;
} Result;

static Result *result_new(void)
{
    Result *res = g_new0(Result, 1);

    res->log = g_string_new("");
    res->devices = g_byte_array_new();
    res->vmdesc = g_byte_array_new();
    res->setup = g_byte_array_new();
    res->configuration = g_byte_array_new();
    res->blocks = g_string_new("");
    res->runs = g_string_new("");
    return res;
}

static void result_free(Result *res)
{
    g_string_free(res->log, true);
    g_byte_array_unref(res->devices);
    g_byte_array_unref(res->vmdesc);
    g_byte_array_unref(res->setup);
    g_byte_array_unref(res->configuration);
    g_string_free(res->blocks, true);
    g_string_free(res->runs, true);
    error_free(res->err);
    g_free(res);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Result, result_free)

static void note_setup(Result *res, SnapStreamReader *reader)
{
    const GByteArray *configuration = snap_stream_configuration(reader);
    const SnapLayout *layout = snap_stream_layout(reader);

    put_bytes(res->configuration, configuration->data, configuration->len);
    res->flush = snap_stream_multifd_flush(reader);
    for (unsigned i = 0; i < layout->nb_blocks; i++) {
        g_string_append_printf(res->blocks, "%s:%" PRIx64 ":%" PRIx64 " ",
                               layout->blocks[i].name,
                               layout->blocks[i].length,
                               layout->blocks[i].page_size);
    }
}

/* Take a page, and those behind it, as many as come and there is room for. */
static int coroutine_fn note_pages(Result *res, SnapStreamReader *reader,
                                   const SnapEvent *event, unsigned room)
{
    static const uint8_t guard[16] = { 0xfe, 0xdc };
    size_t page = snap_layout_page_size(snap_stream_layout(reader));
    g_autofree uint8_t *buf = g_malloc(room * page + sizeof(guard));
    unsigned nb_pages = room;
    int ret;

    memcpy(buf + room * page, guard, sizeof(guard));
    ret = snap_stream_read_pages(reader, buf, &nb_pages, &res->err);
    g_assert_cmpmem(buf + room * page, sizeof(guard), guard, sizeof(guard));
    if (ret < 0) {
        return ret;
    }
    g_assert_cmpuint(nb_pages, >, 0);
    g_assert_cmpuint(nb_pages, <=, room);
    for (unsigned i = 0; i < nb_pages; i++) {
        uint8_t *p = buf + i * page;

        g_assert_true(!memcmp(p, p + 1, page - 1));
        g_string_append_printf(res->log, "page %d+%" PRIx64 "=%02x ",
                               event->block, event->offset + i * page, *p);
    }
    g_string_append_printf(res->runs, "%d+%" PRIx64 ":%u ", event->block,
                           event->offset, nb_pages);
    return 0;
}

static int coroutine_fn note_event(Result *res, SnapStreamReader *reader,
                                   const SnapEvent *event, unsigned room)
{
    static const char *const names[] = {
        [SNAP_EVENT_RAM_SETUP] = "setup ",
        [SNAP_EVENT_RAM_FINAL] = "final ",
        [SNAP_EVENT_MULTIFD_FLUSH] = "flush ",
        [SNAP_EVENT_RAM_EOS] = "eos ",
        [SNAP_EVENT_OPEN_RETURN_PATH] = "return-path ",
        [SNAP_EVENT_DEVICES] = "devices ",
        [SNAP_EVENT_DEVICE_RESUMED] = "resumed ",
    };

    switch (event->type) {
    case SNAP_EVENT_PAGE:
        return note_pages(res, reader, event, room);
    case SNAP_EVENT_ZERO_PAGE:
        g_string_append_printf(res->log, "zero %d+%" PRIx64 " ",
                               event->block, event->offset);
        return 0;
    case SNAP_EVENT_PING:
        g_string_append_printf(res->log, "ping %" PRIu32 " ", event->value);
        return 0;
    case SNAP_EVENT_DEVICE_DATA:
        put_bytes(res->devices, event->data, event->length);
        return 0;
    case SNAP_EVENT_DEVICE_END:
        g_string_append_printf(res->log, "complete %zu+%zu ",
                               (size_t)res->devices->len, event->length);
        return 0;
    case SNAP_EVENT_END:
        put_bytes(res->vmdesc, event->data, event->length);
        g_string_append(res->log, "end");
        return 0;
    case SNAP_EVENT_RAM_SETUP:
        note_setup(res, reader);
        /* fall through */
    default:
        g_string_append(res->log, names[event->type]);
        return 0;
    }
}

static void coroutine_fn read_all(Result *res, SnapInput *input, unsigned room)
{
    g_autoptr(SnapStreamReader) reader = snap_stream_reader_new(input,
                                                                PAGE_BITS);
    SnapEvent event = { };
    bool after_setup = false;

    do {
        res->ret = snap_stream_next(reader, &event, &res->err);
        if (!res->ret && after_setup) {
            res->section = *snap_stream_ram_section(reader);
        }
        if (!res->ret) {
            res->ret = note_event(res, reader, &event, room);
        }
        after_setup = event.type == SNAP_EVENT_RAM_SETUP;
    } while (!res->ret && event.type != SNAP_EVENT_END);

    if (!res->ret) {
        const GByteArray *setup = snap_stream_setup(reader, &res->before_ram);

        put_bytes(res->setup, setup->data, setup->len);
    }
}

/* Room for more pages than are taken at a time */
#define MUCH_ROOM   300

typedef struct ReadJob {
    SnapInput *input;
    unsigned room;      /* for so many pages at a time */
    Result *res;
    bool done;
} ReadJob;

static void coroutine_fn read_entry(void *opaque)
{
    ReadJob *job = opaque;

    read_all(job->res, job->input, job->room);
    job->done = true;
}

/* Read all that @ioc gives; other threads may write to it. */
static Result *read_channel(QIOChannel *ioc, unsigned room)
{
    ReadJob job = {
        .input = snap_input_new(ioc),
        .room = room,
        .res = result_new(),
    };

    qemu_coroutine_enter(qemu_coroutine_create(read_entry, &job));
    while (!job.done) {
        main_loop_wait(false);
    }
    g_assert_cmpint(job.res->ret, <=, 0);
    g_assert((job.res->ret < 0) == (job.res->err != NULL));
    snap_input_free(job.input);
    return job.res;
}

/* Read @size bytes from a channel that gives them @chunk at a time. */
static Result *read_bytes(const uint8_t *data, size_t size, size_t chunk,
                          bool fails)
{
    TestChannel *channel = test_channel_new(data, size, chunk);
    Result *res;

    channel->fails = fails;
    res = read_channel(QIO_CHANNEL(channel), MUCH_ROOM);
    object_unref(OBJECT(channel));
    return res;
}

static bool says(const Result *res, const char *text)
{
    return res->ret && strstr(error_get_pretty(res->err), text);
}

/* For the messages of tests that go through many cases */
static const char *outcome(const Result *res)
{
    return res->err ? error_get_pretty(res->err) : res->log->str;
}

static const size_t chunks[] = { SIZE_MAX, 5000, 4097, 4096, 4095, 7, 1 };

static Result *read_stream(const GByteArray *b)
{
    return read_bytes(b->data, b->len, SIZE_MAX, false);
}

/* The stream is taken, however it comes, and says @log and @devices. */
static void check_devices(const GByteArray *b, const char *log,
                          const GByteArray *devices)
{
    for (size_t i = 0; i < ARRAY_SIZE(chunks); i++) {
        g_autoptr(Result) res = read_bytes(b->data, b->len, chunks[i], false);

        g_assert_cmpstr(res->err ? error_get_pretty(res->err) : NULL, ==, NULL);
        if (log) {
            g_assert_cmpstr(res->log->str, ==, log);
        }
        if (devices) {
            g_assert_cmpmem(res->devices->data, res->devices->len,
                            devices->data, devices->len);
        }
    }
}

static void check_log(const GByteArray *b, const char *log)
{
    check_devices(b, log, NULL);
}

/* The stream is refused, with @why in the message. */
static void check_refused(const GByteArray *b, const char *why)
{
    for (size_t i = 0; i < ARRAY_SIZE(chunks); i++) {
        g_autoptr(Result) res = read_bytes(b->data, b->len, chunks[i], false);

        if (!says(res, why)) {
            g_test_message("'%s' does not name '%s'", outcome(res), why);
            g_test_fail();
        }
    }
}

/* --- making streams --- */

static void put_header(GByteArray *b)
{
    put_be32(b, QEMU_VM_FILE_MAGIC);
    put_be32(b, QEMU_VM_FILE_VERSION);
    put_u8(b, QEMU_VM_CONFIGURATION);
    put_be32(b, 2);
    put_bytes(b, "pc", 2);
}

static void put_subsection(GByteArray *b, const char *name)
{
    put_u8(b, QEMU_VM_SUBSECTION);
    put_name(b, name);
    put_be32(b, 1);
}

static void put_ram_head(GByteArray *b, uint64_t total)
{
    put_head(b, QEMU_VM_SECTION_START, RAM_ID, "ram", 4);
    put_be64(b, total | RAM_SAVE_FLAG_MEM_SIZE);
}

static void put_block(GByteArray *b, const char *name, uint64_t length)
{
    put_name(b, name);
    put_be64(b, length);
}

static void put_eos(GByteArray *b)
{
    put_be64(b, RAM_SAVE_FLAG_EOS);
    put_footer(b, RAM_ID);
}

static void put_ram_start(GByteArray *b)
{
    put_ram_head(b, RAM_LENGTH + VGA_LENGTH);
    put_block(b, "pc.ram", RAM_LENGTH);
    put_block(b, "vga.vram", VGA_LENGTH);
    put_eos(b);
}

static void put_part(GByteArray *b)
{
    put_short_head(b, QEMU_VM_SECTION_PART, RAM_ID);
}

static void put_final(GByteArray *b)
{
    put_short_head(b, QEMU_VM_SECTION_END, RAM_ID);
}

static void put_record(GByteArray *b, uint64_t word, const char *name)
{
    put_be64(b, word);
    if (name) {
        put_name(b, name);
    }
}

/* A page full of @fill; the same block as before without a @name */
static void put_page(GByteArray *b, const char *name, uint64_t offset,
                     uint8_t fill)
{
    uint8_t page[PAGE];

    memset(page, fill, sizeof(page));
    put_record(b, offset | RAM_SAVE_FLAG_PAGE |
               (name ? 0 : RAM_SAVE_FLAG_CONTINUE), name);
    put_bytes(b, page, sizeof(page));
}

static void put_zero_page(GByteArray *b, const char *name, uint64_t offset)
{
    put_record(b, offset | RAM_SAVE_FLAG_ZERO |
               (name ? 0 : RAM_SAVE_FLAG_CONTINUE), name);
    put_u8(b, 0);
}

static void put_devices(GByteArray *b)
{
    put_full(b, 4, "timer", "\0\0\0\1", 4);
    put_full(b, 5, "cpu", "abcdefgh", 8);
}

static void put_end(GByteArray *b)
{
    put_u8(b, QEMU_VM_EOF);
    put_u8(b, QEMU_VM_VMDESCRIPTION);
    put_be32(b, strlen(VMDESC));
    put_bytes(b, VMDESC, strlen(VMDESC));
}

/* Two parts of RAM; the second one goes on with the block of the first. */
static void put_parts(GByteArray *b)
{
    put_part(b);
    put_page(b, "pc.ram", 0, 0xaa);
    put_zero_page(b, NULL, 2 * PAGE);
    put_eos(b);
    put_part(b);
    put_page(b, NULL, PAGE, 0xbb);
    put_page(b, "vga.vram", PAGE, 0xcc);
    put_zero_page(b, "pc.ram", 3 * PAGE);
    put_eos(b);
}

#define LOG_PARTS "page 0+0=aa zero 0+800 eos " \
    "page 0+400=bb page 1+400=cc zero 0+c00 eos "
#define LOG_DEVICES "devices complete 58+18 end"

/* As background-snapshot makes it */
static GByteArray *background_stream(void)
{
    GByteArray *b = g_byte_array_new();

    put_header(b);
    put_ram_start(b);
    put_parts(b);
    put_devices(b);
    put_end(b);
    return b;
}

/* As a precopy migration makes it */
static GByteArray *precopy_stream(void)
{
    GByteArray *b = g_byte_array_new();

    put_header(b);
    put_ram_start(b);
    put_parts(b);
    put_command(b, SNAP_CMD_SWITCHOVER_START, NULL, 0);
    put_final(b);
    put_zero_page(b, "pc.ram", 0);
    put_eos(b);
    put_devices(b);
    put_end(b);
    return b;
}

static const char dirty_bitmap[] = "\1bitmap\0";

static void put_bitmap_part(GByteArray *b, uint8_t type)
{
    put_short_head(b, type, 1);
    put_bytes(b, dirty_bitmap, sizeof(dirty_bitmap));
    put_footer(b, 1);
}

/* With an iterable section beside RAM, as QEMU orders them */
static GByteArray *bitmap_stream(void)
{
    GByteArray *b = g_byte_array_new();

    put_header(b);
    put_ram_start(b);
    put_head(b, QEMU_VM_SECTION_START, 1, "dirty-bitmap", 1);
    put_bytes(b, dirty_bitmap, sizeof(dirty_bitmap));
    put_footer(b, 1);
    put_parts(b);
    put_bitmap_part(b, QEMU_VM_SECTION_PART);
    put_final(b);
    put_eos(b);
    put_bitmap_part(b, QEMU_VM_SECTION_END);
    put_devices(b);
    put_end(b);
    return b;
}

/* Header and RAM's list of blocks; the caller goes on from there. */
static GByteArray *started_stream(void)
{
    GByteArray *b = g_byte_array_new();

    put_header(b);
    put_ram_start(b);
    return b;
}

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

static void put_flush(GByteArray *b)
{
    put_be64(b, RAM_SAVE_FLAG_MULTIFD_FLUSH);
}

/* RAM whose pages come over other channels, but for one that is zero */
static GByteArray *multifd_stream(void)
{
    GByteArray *b = g_byte_array_new();

    put_header(b);
    put_ram_head(b, RAM_LENGTH);
    put_block(b, "pc.ram", RAM_LENGTH);
    put_flush(b);
    put_eos(b);
    put_part(b);
    put_zero_page(b, "pc.ram", PAGE);
    put_flush(b);
    put_eos(b);
    put_final(b);
    put_flush(b);
    put_eos(b);
    put_devices(b);
    put_end(b);
    return b;
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

/* --- bytes in the device state that look like its end --- */

/* Device state with a false end, as a head of @length and @tail */
static void put_false_end(GByteArray *devices, uint32_t length,
                          const char *tail)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();

    put_bytes(payload, "abc", 3);
    put_footer(payload, 5);
    put_u8(payload, QEMU_VM_EOF);
    put_u8(payload, QEMU_VM_VMDESCRIPTION);
    put_be32(payload, length);
    put_bytes(payload, tail, strlen(tail));
    put_full(devices, 5, "cpu", payload->data, payload->len);
}

static void check_false_end(const GByteArray *devices, bool vmdesc,
                            const char *log)
{
    g_autoptr(GByteArray) b = started_stream();

    put_part(b);
    put_eos(b);
    put_bytes(b, devices->data, devices->len);
    if (vmdesc) {
        put_end(b);
    } else {
        put_u8(b, QEMU_VM_EOF);
    }
    check_devices(b, log, devices);
}

/* No description, and shorter than what follows */
static void test_false_end_short(void)
{
    g_autoptr(GByteArray) devices = g_byte_array_new();

    put_false_end(devices, 16, "{\"0123456789abcdef");
    put_devices(devices);
    check_false_end(devices, true, "setup eos devices complete 25+16 "
                    "resumed complete 112+18 end");
}

/* The length reaches over the real end, which is found all the same. */
static void test_false_end_over_real(void)
{
    g_autoptr(GByteArray) devices = g_byte_array_new();

    put_false_end(devices, 100, "{\"0123456789abcdef");
    put_devices(devices);
    check_false_end(devices, true, "setup eos devices complete 25+100 "
                    "resumed complete 112+18 end");
}

/* The length reaches behind the end of the file. */
static void test_false_end_beyond_file(void)
{
    g_autoptr(GByteArray) devices = g_byte_array_new();

    put_false_end(devices, 1 * MiB, "{\"0123456789abcdef");
    check_false_end(devices, true, "setup eos devices complete 25+1048576 "
                    "resumed complete 54+18 end");
}

static void test_false_end_without_vmdesc(void)
{
    g_autoptr(GByteArray) devices = g_byte_array_new();

    put_false_end(devices, 1 * MiB, "{\"0123456789abcdef");
    check_false_end(devices, false, "setup eos devices complete 25+1048576 "
                    "resumed complete 54+0 end");
}

/* A whole JSON object, but the stream goes on. */
static void test_false_end_object(void)
{
    g_autoptr(GByteArray) devices = g_byte_array_new();

    put_false_end(devices, 16, "{\"012345678\":12}");
    put_devices(devices);
    check_false_end(devices, true, "setup eos devices complete 25+16 "
                    "resumed complete 110+18 end");
}

/* Braces and quotes within strings are no structure. */
static void test_false_end_string(void)
{
    g_autoptr(GByteArray) devices = g_byte_array_new();

    put_false_end(devices, 16, "{\"a\\\"}\":\"b}c\",0}");
    put_devices(devices);
    check_false_end(devices, true, NULL);
}

/* The second false end lies within what the first one announced. */
static void test_false_end_nested(void)
{
    g_autoptr(GByteArray) devices = g_byte_array_new();

    put_false_end(devices, 60, "{\"0123456789abcdef");
    put_false_end(devices, 60, "{\"0123456789abcdef");
    put_devices(devices);
    check_false_end(devices, true, "setup eos devices complete 25+60 "
                    "resumed complete 79+60 resumed complete 166+18 end");
}

/* No description is that short or that long: not even announced */
static void test_false_end_implausible(void)
{
    static const uint32_t lengths[] = {
        0, 1, SNAP_MAX_VMDESC + 1, UINT32_MAX
    };

    for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
        g_autoptr(GByteArray) devices = g_byte_array_new();

        put_false_end(devices, lengths[i], "{\"a\":1}");
        check_false_end(devices, true,
                        "setup eos devices complete 43+18 end");
    }
}

/* A lone EOF behind a footer is none, while bytes follow. */
static void test_false_eof(void)
{
    g_autoptr(GByteArray) devices = g_byte_array_new();

    put_full(devices, 5, "cpu", "\x7e\0\0\0\5\0\1\2", 8);
    check_false_end(devices, false, "setup eos devices complete 30+0 end");
}

/* Sections of hotplugged devices: ids are never used again. */
static void test_section_ids(void)
{
    g_autoptr(GByteArray) devices = g_byte_array_new();

    put_full(devices, 65536, "timer", "\0\0\0\1", 4);
    put_full(devices, 0xffffff, "cpu", "abcdefgh", 8);
    check_false_end(devices, true, "setup eos devices complete 58+18 end");
    check_false_end(devices, false, "setup eos devices complete 58+0 end");
}

/* What cannot be a footer is none. */
static void test_false_end_footer(void)
{
    g_autoptr(GByteArray) devices = g_byte_array_new();

    put_full(devices, 5, "cpu", "\x7e\1\0\0\5\0\6\0\0\0\7{\"a\":1}", 18);
    check_false_end(devices, true, "setup eos devices complete 40+18 end");
}

/* --- a source that waits for an answer, and closes nothing --- */

/**
 * Source: what is written to a pipe, in pieces
 * @pieces: up to the first one that is NULL
 * @pause_ms: between two pieces
 * @closes: close the pipe another such pause behind the last piece
 */
typedef struct Source {
    const GByteArray *pieces[4];
    unsigned pause_ms;
    bool closes;
    int fd;
} Source;

static void *source_run(void *opaque)
{
    Source *source = opaque;

    for (int i = 0; source->pieces[i]; i++) {
        const GByteArray *piece = source->pieces[i];

        if (i) {
            g_usleep(source->pause_ms * 1000);
        }
        g_assert_cmpint(write(source->fd, piece->data, piece->len), ==,
                        piece->len);
    }
    if (source->closes) {
        g_usleep(source->pause_ms * 1000);
        close(source->fd);
    }
    return NULL;
}

static Result *read_source(Source *source)
{
    g_autoptr(QIOChannelFile) ioc = NULL;
    Result *res;
    GThread *thread;
    int fds[2];

    g_unix_open_pipe(fds, FD_CLOEXEC, NULL);
    g_unix_set_fd_nonblocking(fds[0], true, NULL);
    ioc = qio_channel_file_new_fd(fds[0]);
    source->fd = fds[1];

    thread = g_thread_new("source", source_run, source);
    res = read_channel(QIO_CHANNEL(ioc), MUCH_ROOM);
    g_thread_join(thread);
    if (!source->closes) {
        close(fds[1]);
    }
    return res;
}

static void check_source(Source *source, const char *log,
                         const GByteArray *devices)
{
    g_autoptr(Result) res = read_source(source);

    g_assert_cmpstr(outcome(res), ==, log);
    g_assert_cmpmem(res->devices->data, res->devices->len,
                    devices->data, devices->len);
}

/* Up to the device state */
static GByteArray *return_path_stream(void)
{
    GByteArray *b = g_byte_array_new();

    put_header(b);
    put_command(b, SNAP_CMD_OPEN_RETURN_PATH, NULL, 0);
    put_ram_start(b);
    put_final(b);
    put_eos(b);
    return b;
}

#define LOG_RETURN_PATH "return-path setup final eos devices "

static void test_silence(void)
{
    g_autoptr(GByteArray) b = return_path_stream();
    g_autoptr(GByteArray) devices = g_byte_array_new();
    Source source = { .pieces = { b } };

    put_devices(devices);
    put_devices(b);
    put_end(b);
    check_source(&source, LOG_RETURN_PATH "complete 58+18 end", devices);
}

/* With the machine property suppress-vmdesc */
static void test_silence_no_vmdesc(void)
{
    g_autoptr(GByteArray) b = return_path_stream();
    g_autoptr(GByteArray) devices = g_byte_array_new();
    Source source = { .pieces = { b } };

    put_devices(devices);
    put_devices(b);
    put_u8(b, QEMU_VM_EOF);
    check_source(&source, LOG_RETURN_PATH "complete 58+0 end", devices);
}

/* A whole description within the device state, whatever the channel */
static void test_silence_false_end(void)
{
    g_autoptr(GByteArray) b = return_path_stream();
    g_autoptr(GByteArray) devices = g_byte_array_new();
    Source source = { .pieces = { b } };

    put_false_end(devices, 16, "{\"012345678\":12}");
    put_devices(devices);
    put_bytes(b, devices->data, devices->len);
    put_end(b);
    check_source(&source, LOG_RETURN_PATH
                 "complete 25+16 resumed complete 110+18 end", devices);
    check_devices(b, LOG_RETURN_PATH
                  "complete 25+16 resumed complete 110+18 end", devices);
}

/* The rest comes later, but not too late. */
static void test_silence_short(void)
{
    g_autoptr(GByteArray) b = return_path_stream();
    g_autoptr(GByteArray) rest = g_byte_array_new();
    g_autoptr(GByteArray) devices = g_byte_array_new();
    Source source = { .pieces = { b, rest }, .pause_ms = 20 };
    size_t cut = 25 + 6 + 16;

    put_false_end(devices, 16, "{\"012345678\":12}");
    put_bytes(b, devices->data, cut);
    put_bytes(rest, devices->data + cut, devices->len - cut);
    put_end(rest);
    check_source(&source, LOG_RETURN_PATH
                 "complete 25+16 resumed complete 52+18 end", devices);
}

/* Pauses elsewhere are none of the end, also behind a false one. */
static void test_silence_elsewhere(void)
{
    g_autoptr(GByteArray) b = return_path_stream();
    g_autoptr(GByteArray) middle = g_byte_array_new();
    g_autoptr(GByteArray) rest = g_byte_array_new();
    g_autoptr(GByteArray) devices = g_byte_array_new();
    Source source = { .pieces = { b, middle, rest }, .pause_ms = 300 };
    size_t cut = 25 + 6 + 16 + 2;

    put_false_end(devices, 16, "{\"012345678\":12}");
    put_bytes(b, devices->data, cut);
    put_full(devices, 6, "rtc", "xy", 2);
    put_bytes(middle, devices->data + cut, devices->len - cut - 6);
    put_bytes(rest, devices->data + devices->len - 6, 6);
    put_end(rest);
    check_source(&source, LOG_RETURN_PATH
                 "complete 25+16 resumed complete 76+18 end", devices);
}

/* A pause behind what looks like the end without description */
static void test_silence_false_eof(void)
{
    g_autoptr(GByteArray) b = return_path_stream();
    g_autoptr(GByteArray) rest = g_byte_array_new();
    g_autoptr(GByteArray) devices = g_byte_array_new();
    Source source = { .pieces = { b, rest }, .pause_ms = 200 };

    put_full(devices, 5, "cpu", "\x7e\0\0\0\5\0\1\2", 8);
    put_bytes(b, devices->data, devices->len - 7);
    put_bytes(rest, devices->data + devices->len - 7, 7);
    put_u8(rest, QEMU_VM_EOF);
    check_source(&source, LOG_RETURN_PATH "complete 30+0 end", devices);
}

/* Without return path the end of the file is waited for. */
static void test_silence_no_return_path(void)
{
    g_autoptr(GByteArray) b = started_stream();
    g_autoptr(GByteArray) rest = g_byte_array_new();
    g_autoptr(GByteArray) devices = g_byte_array_new();
    Source source = {
        .pieces = { b, rest }, .pause_ms = 1200, .closes = true
    };

    put_devices(devices);
    put_final(b);
    put_eos(b);
    put_devices(b);
    put_end(rest);
    put_u8(b, rest->data[0]);
    g_byte_array_remove_index(rest, 0);
    check_source(&source, "setup final eos devices complete 58+18 end",
                 devices);
}

/* --- runs of pages --- */

/* Blocks of the streams with runs, in pages */
#define RUN_RAM_PAGES   2000
#define RUN_VGA_PAGES   4

/* A page is over: how much of the stream that is, and of the log */
typedef struct PageEnd {
    size_t bytes;
    size_t log;
} PageEnd;

/**
 * RunStream: a stream in the making, and what it says
 * @log: as it is to be read
 * @ends: where each page ends
 * @fill: of the next page
 */
typedef struct RunStream {
    unsigned page_bits;
    GByteArray *bytes;
    GString *log;
    GArray *ends;
    uint8_t fill;
} RunStream;

static void run_begin(RunStream *s, unsigned page_bits)
{
    GByteArray *b = g_byte_array_new();

    *s = (RunStream) {
        .page_bits = page_bits,
        .bytes = b,
        .log = g_string_new("setup "),
        .ends = g_array_new(false, false, sizeof(PageEnd)),
        .fill = 1,
    };
    put_header(b);
    put_subsection(b, "configuration/target-page-bits");
    put_be32(b, page_bits);
    put_ram_head(b, (uint64_t)(RUN_RAM_PAGES + RUN_VGA_PAGES) << page_bits);
    put_block(b, "pc.ram", (uint64_t)RUN_RAM_PAGES << page_bits);
    put_block(b, "vga.vram", (uint64_t)RUN_VGA_PAGES << page_bits);
    put_eos(b);
    put_part(b);
}

static void run_destroy(RunStream *s)
{
    g_byte_array_unref(s->bytes);
    g_string_free(s->log, true);
    g_array_unref(s->ends);
}

/* The word of a record, and the name of the block where it is @named */
static void run_record(RunStream *s, int block, bool named, unsigned page,
                       unsigned flag)
{
    static const char *const names[] = { "pc.ram", "vga.vram" };
    uint64_t offset = (uint64_t)page << s->page_bits;

    put_record(s->bytes, offset | flag | (named ? 0 : RAM_SAVE_FLAG_CONTINUE),
               named ? names[block] : NULL);
}

/* @nb pages from @page on, each of which is full of another byte */
static void run_pages(RunStream *s, int block, bool named, unsigned page,
                      unsigned nb)
{
    size_t page_size = (size_t)1 << s->page_bits;
    g_autofree uint8_t *data = g_malloc(page_size);

    for (unsigned i = 0; i < nb; i++) {
        PageEnd end;

        memset(data, s->fill, page_size);
        run_record(s, block, named && i == 0, page + i, RAM_SAVE_FLAG_PAGE);
        put_bytes(s->bytes, data, page_size);
        g_string_append_printf(s->log, "page %d+%zx=%02x ", block,
                               (page + i) * page_size, s->fill++);
        end = (PageEnd) { s->bytes->len, s->log->len };
        g_array_append_val(s->ends, end);
    }
}

static void run_zero(RunStream *s, int block, bool named, unsigned page)
{
    run_record(s, block, named, page, RAM_SAVE_FLAG_ZERO);
    put_u8(s->bytes, 0);
    g_string_append_printf(s->log, "zero %d+%zx ", block,
                           (size_t)page << s->page_bits);
}

/* The section is over, and another one begins. */
static void run_eos(RunStream *s)
{
    put_eos(s->bytes);
    put_part(s->bytes);
    g_string_append(s->log, "eos ");
}

static void run_end(RunStream *s)
{
    put_eos(s->bytes);
    put_devices(s->bytes);
    put_end(s->bytes);
    g_string_append(s->log, "eos " LOG_DEVICES);
}

static Result *run_read(const RunStream *s, size_t chunk, unsigned room)
{
    TestChannel *channel = test_channel_new(s->bytes->data, s->bytes->len,
                                            chunk);
    Result *res = read_channel(QIO_CHANNEL(channel), room);

    object_unref(OBJECT(channel));
    return res;
}

/*
 * The stream says the same, whatever there is room for and however it comes.
 * Where all of it is there at once, and room, the pages come in @runs; NULL
 * for any.
 */
static void run_check(const RunStream *s, const char *runs)
{
    static const unsigned rooms[] = { 1, 3, MUCH_ROOM };

    for (size_t i = 0; i < ARRAY_SIZE(rooms); i++) {
        for (size_t j = 0; j < ARRAY_SIZE(chunks); j++) {
            g_autoptr(Result) res = run_read(s, chunks[j], rooms[i]);

            if (strcmp(outcome(res), s->log->str)) {
                g_test_message("room for %u, %zu bytes at a time: %s",
                               rooms[i], chunks[j], outcome(res));
                g_test_fail();
            }
            if (runs && rooms[i] == MUCH_ROOM && chunks[j] == SIZE_MAX) {
                g_assert_cmpstr(res->runs->str, ==, runs);
            }
        }
    }
}

/* The stream is refused behind all that it has said, with @why. */
static void run_check_refused(const RunStream *s, const char *why)
{
    for (size_t i = 0; i < ARRAY_SIZE(chunks); i++) {
        g_autoptr(Result) res = run_read(s, chunks[i], MUCH_ROOM);

        g_assert_cmpstr(res->log->str, ==, s->log->str);
        if (!says(res, why)) {
            g_test_message("'%s' does not name '%s'", outcome(res), why);
            g_test_fail();
        }
    }
}

/* The first page stands alone: it does not follow any. */
static void test_run(void)
{
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 0, true, 0, 10);
    run_end(&s);
    run_check(&s, "0+0:1 0+400:9 ");
    run_destroy(&s);
}

static void test_run_zero_page(void)
{
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_zero(&s, 0, true, 0);
    run_pages(&s, 0, false, 1, 3);
    run_zero(&s, 0, false, 4);
    run_pages(&s, 0, false, 5, 2);
    run_zero(&s, 0, false, 7);
    run_zero(&s, 0, false, 8);
    run_pages(&s, 0, false, 9, 1);
    run_end(&s);
    /* Pages between zero ones say nothing of the next. */
    run_check(&s, "0+400:1 0+800:2 0+1400:1 0+1800:1 0+2400:1 ");
    run_destroy(&s);
}

static void test_run_other_block(void)
{
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 0, true, 0, 3);
    run_pages(&s, 1, true, 0, 3);
    run_pages(&s, 0, true, 3, 3);
    /* It would go on, were it not another block. */
    run_pages(&s, 1, true, 3, 1);
    run_end(&s);
    run_check(&s, "0+0:1 0+400:2 1+0:1 1+400:2 0+c00:1 0+1000:2 1+c00:1 ");
    run_destroy(&s);
}

/* A block that is named again goes on all the same. */
static void test_run_named_again(void)
{
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 0, true, 0, 3);
    run_pages(&s, 0, true, 3, 3);
    run_end(&s);
    run_check(&s, "0+0:1 0+400:2 0+c00:1 0+1000:2 ");
    run_destroy(&s);
}

static void test_run_eos(void)
{
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 0, true, 0, 3);
    run_eos(&s);
    run_pages(&s, 0, false, 3, 3);
    run_eos(&s);
    run_eos(&s);
    run_pages(&s, 0, false, 6, 1);
    run_end(&s);
    run_check(&s, "0+0:1 0+400:2 0+c00:3 0+1800:1 ");
    run_destroy(&s);
}

static void test_run_flush(void)
{
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 0, true, 0, 3);
    put_be64(s.bytes, RAM_SAVE_FLAG_MULTIFD_FLUSH);
    g_string_append(s.log, "flush ");
    run_pages(&s, 0, false, 3, 3);
    run_end(&s);
    run_check(&s, "0+0:1 0+400:2 0+c00:3 ");
    run_destroy(&s);
}

static void test_run_back(void)
{
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 0, true, 0, 5);
    run_pages(&s, 0, false, 2, 4);
    run_pages(&s, 0, false, 0, 1);
    run_end(&s);
    run_check(&s, "0+0:1 0+400:4 0+800:1 0+c00:3 0+0:1 ");
    run_destroy(&s);
}

static void test_run_repeats(void)
{
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 0, true, 0, 3);
    run_pages(&s, 0, false, 2, 1);
    run_pages(&s, 0, false, 2, 3);
    run_end(&s);
    run_check(&s, "0+0:1 0+400:2 0+800:1 0+800:1 0+c00:2 ");
    run_destroy(&s);
}

static void test_run_jump(void)
{
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 0, true, 7, 2);
    run_pages(&s, 0, false, 10, 2);
    run_pages(&s, 0, false, RUN_RAM_PAGES - 1, 1);
    run_pages(&s, 0, false, 0, 2);
    run_end(&s);
    run_check(&s, "0+1c00:1 0+2000:1 0+2800:1 0+2c00:1 0+1f3c00:1 0+0:1 "
              "0+400:1 ");
    run_destroy(&s);
}

/* Nothing is taken for a page that lies behind the block. */
static void test_run_end_of_block(void)
{
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 1, true, 0, RUN_VGA_PAGES);
    run_pages(&s, 0, true, RUN_RAM_PAGES - 3, 3);
    run_end(&s);
    run_check(&s, "1+0:1 1+400:3 0+1f3400:1 0+1f3800:2 ");
    run_destroy(&s);

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 1, true, 0, RUN_VGA_PAGES);
    run_record(&s, 1, false, RUN_VGA_PAGES, RAM_SAVE_FLAG_PAGE);
    put_zeroes(s.bytes, PAGE);
    run_check_refused(&s, "lies outside RAM block 'vga.vram'");
    run_destroy(&s);
}

/* Nor for one with other flags, or none */
static void test_run_flags(void)
{
    static const unsigned flags[] = {
        0, RAM_SAVE_FLAG_XBZRLE, COMPRESS_PAGE,
        RAM_SAVE_FLAG_PAGE | RAM_SAVE_FLAG_ZERO,
        RAM_SAVE_FLAG_PAGE | RAM_SAVE_FLAG_EOS,
        RAM_SAVE_FLAG_PAGE | 1,
    };

    for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
        RunStream s;

        run_begin(&s, PAGE_BITS);
        run_pages(&s, 0, true, 0, 3);
        run_record(&s, 0, false, 3, flags[i]);
        put_zeroes(s.bytes, PAGE);
        run_check_refused(&s, "");
        run_destroy(&s);
    }
}

static void test_run_room(void)
{
    g_autoptr(Result) res = NULL;
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 0, true, 0, 12);
    run_end(&s);
    res = run_read(&s, SIZE_MAX, 3);
    g_assert_cmpstr(outcome(res), ==, s.log->str);
    g_assert_cmpstr(res->runs->str, ==,
                    "0+0:1 0+400:3 0+1000:3 0+1c00:3 0+2800:2 ");
    run_destroy(&s);
}

/* A channel that brings much at a time is taken with few calls. */
static void check_long_run(unsigned page_bits, unsigned nb_pages)
{
    g_autoptr(Result) res = NULL;
    g_auto(GStrv) runs = NULL;
    RunStream s;

    run_begin(&s, page_bits);
    run_pages(&s, 0, true, 0, nb_pages);
    run_end(&s);
    run_check(&s, NULL);
    res = run_read(&s, SIZE_MAX, MUCH_ROOM);
    runs = g_strsplit(res->runs->str, " ", -1);
    g_assert_cmpuint(g_strv_length(runs), <=,
                     4 + 2 * (s.bytes->len / (64 * KiB)));
    run_destroy(&s);
}

static void test_run_long(void)
{
    check_long_run(10, 1000);
    check_long_run(12, 150);
    check_long_run(16, 10);
}

/* All kinds of records, in all orders */
static void put_random_records(RunStream *s, GRand *rand)
{
    int block = -1;
    unsigned page = 0;

    for (unsigned i = 0; i < 30; i++) {
        bool goes_on = block == 0 && g_rand_int_range(rand, 0, 4);
        unsigned nb = g_rand_int_range(rand, 1, 6);

        if (!goes_on) {
            int old = block;

            block = g_rand_int_range(rand, 0, 4) == 0;
            page = g_rand_int_range(rand, 0, block ? RUN_VGA_PAGES : 50);
            nb = block ? 1 : nb;
            goes_on = block == old && g_rand_boolean(rand);
        }
        switch (g_rand_int_range(rand, 0, 8)) {
        case 0:
            run_zero(s, block, !goes_on, page++);
            break;
        case 1:
            run_pages(s, block, !goes_on, page, 1);
            run_eos(s);
            page++;
            break;
        default:
            run_pages(s, block, !goes_on, page, nb);
            page += nb;
        }
    }
}

static void test_run_random(void)
{
    GRand *rand = g_rand_new_with_seed(20260222);

    for (unsigned i = 0; i < 20; i++) {
        RunStream s;

        run_begin(&s, i % 4 ? 10 : 12);
        put_random_records(&s, rand);
        run_end(&s);
        run_check(&s, NULL);
        run_destroy(&s);
    }
    g_rand_free(rand);
}

/* How much of the log is due when @size bytes have come, at least */
static size_t run_log_due(const RunStream *s, size_t size)
{
    size_t due = 0;

    for (unsigned i = 0; i < s->ends->len; i++) {
        const PageEnd *end = &g_array_index(s->ends, PageEnd, i);

        if (end->bytes <= size) {
            due = end->log;
        }
    }
    return due;
}

/* Pages that came whole count, and none that did not. */
static void check_run_cut(unsigned page_bits, size_t step, bool fails)
{
    static const size_t some[] = { SIZE_MAX, 4095, 1000 };
    RunStream s;

    run_begin(&s, page_bits);
    run_pages(&s, 0, true, 0, 5);
    run_zero(&s, 0, false, 5);
    run_pages(&s, 0, false, 6, 2);
    for (size_t size = 1; size < s.bytes->len; size += step) {
        g_autofree uint8_t *copy = g_memdup2(s.bytes->data, size);
        g_autoptr(Result) res = read_bytes(copy, size, some[size % 3], fails);

        if (!says(res, fails ? "Injected" : "early") ||
            res->log->len < run_log_due(&s, size) ||
            !g_str_has_prefix(s.log->str, res->log->str)) {
            g_test_message("cut at %zu: %s, behind %s", size, outcome(res),
                           res->log->str);
            g_test_fail();
        }
    }
    run_destroy(&s);
}

static void test_run_cut(void)
{
    check_run_cut(10, 1, false);
    check_run_cut(12, 11, false);
    check_run_cut(16, 1021, false);
}

static void test_run_fails(void)
{
    check_run_cut(10, 7, true);
    check_run_cut(16, 5003, true);
}

/* Through a pipe, with pauses amid a page and amid the head of a record */
static void test_run_pauses(void)
{
    static const unsigned bits[] = { 10, 12, 16 };

    for (size_t i = 0; i < ARRAY_SIZE(bits); i++) {
        g_autoptr(Result) res = NULL;
        g_autoptr(GByteArray) second = g_byte_array_new();
        g_autoptr(GByteArray) third = g_byte_array_new();
        Source source = { .pause_ms = 30, .closes = true };
        size_t cuts[2];
        RunStream s;

        run_begin(&s, bits[i]);
        run_pages(&s, 0, true, 0, 4);
        cuts[0] = s.bytes->len - 100;
        run_pages(&s, 0, false, 4, 3);
        cuts[1] = s.bytes->len + 5;
        run_pages(&s, 0, false, 7, 3);
        run_end(&s);

        put_bytes(third, s.bytes->data + cuts[1], s.bytes->len - cuts[1]);
        put_bytes(second, s.bytes->data + cuts[0], cuts[1] - cuts[0]);
        g_byte_array_set_size(s.bytes, cuts[0]);
        source.pieces[0] = s.bytes;
        source.pieces[1] = second;
        source.pieces[2] = third;
        res = read_source(&source);
        g_assert_cmpstr(outcome(res), ==, s.log->str);
        run_destroy(&s);
    }
}

/* --- streams that end too early --- */

/* Every cut is an error, but for the one right behind EOF. */
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

static void test_truncated_background(void)
{
    g_autoptr(GByteArray) b = background_stream();

    check_truncated(b, eof_of(b));
}

static void test_truncated_precopy(void)
{
    g_autoptr(GByteArray) b = precopy_stream();

    check_truncated(b, eof_of(b));
}

static void test_truncated_bitmap(void)
{
    g_autoptr(GByteArray) b = bitmap_stream();

    check_truncated(b, eof_of(b));
}

static void test_truncated_multifd(void)
{
    g_autoptr(GByteArray) b = multifd_stream();

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

/* The end of the file stays the end, though bytes come behind it. */
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

/* --- streams that cannot be taken --- */

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

/* --- the writer --- */

typedef struct WriteJob WriteJob;
typedef void coroutine_fn WriteFn(WriteJob *job, SnapStreamWriter *writer);

struct WriteJob {
    QEMUFile *file;
    SnapLayout layout;
    SnapRAMSection section;
    WriteFn *fn;
    int ret;
    Error *err;
    bool done;
};

static void coroutine_fn write_entry(void *opaque)
{
    WriteJob *job = opaque;
    g_autoptr(SnapStreamWriter) writer =
        snap_stream_writer_new(job->file, &job->layout, &job->section);

    job->fn(job, writer);
    job->ret = snap_stream_flush(writer, &job->err);
    job->done = true;
}

static void write_job_init(WriteJob *job, WriteFn *fn, bool footers)
{
    *job = (WriteJob) {
        .section = { .id = RAM_ID, .footers = footers },
        .fn = fn,
    };
    snap_layout_init(&job->layout, PAGE_BITS);
    snap_layout_add(&job->layout, "pc.ram", RAM_LENGTH, 0, &error_abort);
    snap_layout_add(&job->layout, "vga.vram", VGA_LENGTH, 0, &error_abort);
}

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

/* --- the writer into the reader, through a pipe --- */

#define MANY    600

static QIOChannel *pipe_channel(int fd)
{
    QIOChannel *ioc = QIO_CHANNEL(qio_channel_file_new_fd(fd));

    qio_channel_set_blocking(ioc, false, &error_abort);
    return ioc;
}

static QEMUFile *pipe_output(int fd)
{
    g_autoptr(QIOChannel) ioc = pipe_channel(fd);

    return qemu_file_new_output(ioc);
}

static SnapInput *pipe_input(int fd)
{
    g_autoptr(QIOChannel) ioc = pipe_channel(fd);

    return snap_input_new(ioc);
}

static void coroutine_fn write_many(WriteJob *job, SnapStreamWriter *writer)
{
    g_autofree uint8_t *pages = g_malloc(256 * PAGE);
    g_autoptr(GByteArray) b = g_byte_array_new();

    for (int i = 0; i < 256; i++) {
        memset(pages + i * PAGE, i, PAGE);
    }
    put_header(b);
    snap_stream_put(writer, b->data, b->len);
    snap_stream_put_ram_start(writer, NULL);
    for (int i = 0; i < MANY; i++) {
        snap_stream_begin_ram(writer, i == MANY - 1);
        snap_stream_put_page(writer, 0, i % 4 * PAGE, pages + i % 256 * PAGE);
        snap_stream_put_zero_page(writer, 1, i % 2 * PAGE);
        snap_stream_end_ram(writer);
    }
    g_byte_array_set_size(b, 0);
    put_devices(b);
    snap_stream_put(writer, b->data, b->len);
    snap_stream_put_eof(writer, VMDESC, strlen(VMDESC));
    snap_stream_flush(writer, &job->err);
}

static char *log_many(void)
{
    GString *log = g_string_new("setup ");

    for (int i = 0; i < MANY; i++) {
        g_string_append_printf(log, "%spage 0+%x=%02x zero 1+%x eos ",
                               i == MANY - 1 ? "final " : "",
                               i % 4 * PAGE, i % 256, i % 2 * PAGE);
    }
    g_string_append(log, LOG_DEVICES);
    return g_string_free(log, false);
}

static void test_round_trip(void)
{
    g_autoptr(Result) res = result_new();
    g_autofree char *log = log_many();
    ReadJob read_job = { .room = MUCH_ROOM, .res = res };
    WriteJob write_job;
    int fds[2];

    g_unix_open_pipe(fds, FD_CLOEXEC, NULL);
    write_job_init(&write_job, write_many, true);
    write_job.file = pipe_output(fds[1]);
    read_job.input = pipe_input(fds[0]);

    qemu_coroutine_enter(qemu_coroutine_create(write_entry, &write_job));
    g_assert_false(write_job.done);
    qemu_coroutine_enter(qemu_coroutine_create(read_entry, &read_job));
    while (!write_job.done) {
        main_loop_wait(false);
    }
    qemu_fclose(write_job.file);
    while (!read_job.done) {
        main_loop_wait(false);
    }
    snap_input_free(read_job.input);

    g_assert_cmpint(write_job.ret, ==, 0);
    g_assert_cmpint(res->ret, ==, 0);
    g_assert_cmpstr(res->log->str, ==, log);
    g_assert_cmpmem(res->vmdesc->data, res->vmdesc->len,
                    VMDESC, strlen(VMDESC));
    snap_layout_destroy(&write_job.layout);
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

typedef struct Test {
    const char *path;
    GTestFunc fn;
} Test;

static const Test tests[] = {
    { "read/background", test_background },
    { "read/precopy", test_precopy },
    { "read/identity", test_identity },
    { "read/no-vmdesc", test_no_vmdesc },
    { "read/no-configuration", test_no_configuration },
    { "read/no-footers", test_no_footers },
    { "read/commands", test_commands },
    { "read/early-sections", test_early_sections },
    { "read/early-false-footer", test_early_false_footer },
    { "read/dirty-bitmap", test_dirty_bitmap },
    { "read/multifd-flush", test_multifd_flush },
    { "read/multifd-flush/none", test_no_multifd_flush },
    { "read/setup-before-footer", test_setup_before_footer },
    { "read/page-bits", test_page_bits },
    { "read/uuid", test_uuid },
    { "read/no-capability", test_no_capability },
    { "read/page-size", test_page_size },
    { "read/page-size-below-target", test_page_size_below_target },
    { "read/large-devices", test_large_devices },
    { "false-end/short", test_false_end_short },
    { "false-end/over-real", test_false_end_over_real },
    { "false-end/beyond-file", test_false_end_beyond_file },
    { "false-end/without-vmdesc", test_false_end_without_vmdesc },
    { "false-end/object", test_false_end_object },
    { "false-end/string", test_false_end_string },
    { "false-end/nested", test_false_end_nested },
    { "false-end/implausible", test_false_end_implausible },
    { "false-end/eof", test_false_eof },
    { "false-end/section-ids", test_section_ids },
    { "false-end/footer", test_false_end_footer },
    { "silence/end", test_silence },
    { "silence/no-vmdesc", test_silence_no_vmdesc },
    { "silence/false-end", test_silence_false_end },
    { "silence/short", test_silence_short },
    { "silence/elsewhere", test_silence_elsewhere },
    { "silence/false-eof", test_silence_false_eof },
    { "silence/no-return-path", test_silence_no_return_path },
    { "runs", test_run },
    { "runs/zero-page", test_run_zero_page },
    { "runs/other-block", test_run_other_block },
    { "runs/named-again", test_run_named_again },
    { "runs/eos", test_run_eos },
    { "runs/flush", test_run_flush },
    { "runs/back", test_run_back },
    { "runs/repeats", test_run_repeats },
    { "runs/jump", test_run_jump },
    { "runs/end-of-block", test_run_end_of_block },
    { "runs/flags", test_run_flags },
    { "runs/room", test_run_room },
    { "runs/long", test_run_long },
    { "runs/random", test_run_random },
    { "runs/cut", test_run_cut },
    { "runs/fails", test_run_fails },
    { "runs/pauses", test_run_pauses },
    { "truncated/background", test_truncated_background },
    { "truncated/precopy", test_truncated_precopy },
    { "truncated/bitmap", test_truncated_bitmap },
    { "truncated/multifd", test_truncated_multifd },
    { "truncated/configuration", test_truncated_configuration },
    { "truncated/growing", test_growing },
    { "truncated/channel-fails", test_channel_fails },
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
    { "round-trip", test_round_trip },
};

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    module_call_init(MODULE_INIT_QOM);
    qemu_init_main_loop(&error_abort);
    g_test_init(&argc, &argv, NULL);
    g_test_set_nonfatal_assertions();

    for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
        g_autofree char *path = g_strdup_printf("/snap/stream/%s",
                                                tests[i].path);

        g_test_add_func(path, tests[i].fn);
    }
    return g_test_run();
}
