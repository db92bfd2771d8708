/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the reader of migration streams makes of a stream
 */

#ifndef SNAP_TESTS_READ_STREAM_H
#define SNAP_TESTS_READ_STREAM_H

#include "qemu/main-loop.h"
#include "qapi/error.h"
#include "snap/channel/input.h"
#include "snap/stream/reader.h"
#include "stream-builder.h"
#include "test-channel.h"

/*
 * What a stream said: events as text, such as "page 0+400=aa" for a page full
 * of 0xaa at offset 0x400 of block 0, and the bytes that came along.  Pages
 * that were taken together are an event each; "0+400:3" is such a run.
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

static inline Result *result_new(void)
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

static inline void result_free(Result *res)
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

static inline void note_setup(Result *res, SnapStreamReader *reader)
{
    const GByteArray *configuration = snap_stream_configuration(reader);
    const SnapRAMBlocks *ram = snap_stream_ram(reader);

    put_bytes(res->configuration, configuration->data, configuration->len);
    res->flush = snap_stream_multifd_flush(reader);
    for (unsigned i = 0; i < ram->nb_blocks; i++) {
        g_string_append_printf(res->blocks, "%s:%" PRIx64 ":%" PRIx64 " ",
                               ram->blocks[i].name,
                               ram->blocks[i].length,
                               ram->blocks[i].page_size);
    }
}

/* Log which page it is, @nb pages after that of the event: block and offset. */
static inline void log_page(GString *log, SnapStreamReader *reader,
                            const SnapEvent *event, unsigned nb)
{
    const SnapRAMBlocks *ram = snap_stream_ram(reader);
    const SnapRAMBlock *block = snap_ram_block_of(ram, event->page);

    g_string_append_printf(log, "%d+%" PRIx64, (int)(block - ram->blocks),
                           snap_ram_page_offset(ram, block, event->page + nb));
}

/* Take a page and those that follow it, as many as come and there is room. */
static inline int coroutine_fn note_pages(Result *res, SnapStreamReader *reader,
                                          const SnapEvent *event, unsigned room)
{
    static const uint8_t guard[16] = { 0xfe, 0xdc };
    size_t page = snap_ram_page_size(snap_stream_ram(reader));
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
        g_string_append(res->log, "page ");
        log_page(res->log, reader, event, i);
        g_string_append_printf(res->log, "=%02x ", *p);
    }
    log_page(res->runs, reader, event, 0);
    g_string_append_printf(res->runs, ":%u ", nb_pages);
    return 0;
}

static inline int coroutine_fn note_event(Result *res, SnapStreamReader *reader,
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
        g_string_append(res->log, "zero ");
        log_page(res->log, reader, event, 0);
        g_string_append_c(res->log, ' ');
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

static inline void coroutine_fn read_all(Result *res, SnapInput *input,
                                         unsigned room)
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
    unsigned room;      /* pages to take at a time, at most */
    Result *res;
    bool done;
} ReadJob;

static inline void coroutine_fn read_entry(void *opaque)
{
    ReadJob *job = opaque;

    read_all(job->res, job->input, job->room);
    job->done = true;
}

/* Read all that @ioc gives; other threads may write to it. */
static inline Result *read_channel(QIOChannel *ioc, unsigned room)
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
static inline Result *read_bytes(const uint8_t *data, size_t size, size_t chunk,
                                 bool fails)
{
    TestChannel *channel = test_channel_new(data, size, chunk);
    Result *res;

    channel->fails = fails;
    res = read_channel(QIO_CHANNEL(channel), MUCH_ROOM);
    object_unref(OBJECT(channel));
    return res;
}

static inline bool says(const Result *res, const char *text)
{
    return res->ret && strstr(error_get_pretty(res->err), text);
}

/* For the messages of tests that go through many cases */
static inline const char *outcome(const Result *res)
{
    return res->err ? error_get_pretty(res->err) : res->log->str;
}

static const size_t chunks[] = { SIZE_MAX, 5000, 4097, 4096, 4095, 7, 1 };

static inline Result *read_stream(const GByteArray *b)
{
    return read_bytes(b->data, b->len, SIZE_MAX, false);
}

/* The stream is taken, however it comes, and says @log and @devices. */
static inline void check_devices(const GByteArray *b, const char *log,
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

static inline void check_log(const GByteArray *b, const char *log)
{
    check_devices(b, log, NULL);
}

/* The stream is refused, with @why in the message. */
static inline void check_refused(const GByteArray *b, const char *why)
{
    for (size_t i = 0; i < ARRAY_SIZE(chunks); i++) {
        g_autoptr(Result) res = read_bytes(b->data, b->len, chunks[i], false);

        if (!says(res, why)) {
            g_test_message("'%s' does not name '%s'", outcome(res), why);
            g_test_fail();
        }
    }
}

#endif /* SNAP_TESTS_READ_STREAM_H */
