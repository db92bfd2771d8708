/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of loads that fail: a process can go on, and load again
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include "io/channel-socket.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/sockets.h"
#include "snap/postcopy/postcopy.h"
#include "snap/transfer/multifd-sender.h"
#include "snap/verb/load.h"
#include "saved-ram.h"
#include "snap-coroutine.h"

#define NB_MULTIFD   2
#define MAX_CHANNELS (1 + NB_MULTIFD)

/* Of the return path (migration/migration.h) */
#define MSG_SHUT         1
#define MSG_REQ_PAGES_ID 3

/* For a destination that does not read, until all of the load waits for it */
#define STUCK_NS (30 * SCALE_MS)

/* Some of the stream, and less than all of it */
#define SOME_BYTES (100 * KiB)

typedef enum Mode {
    PRECOPY,
    MULTIFD,
    POSTCOPY,
    PREEMPT,                    /* postcopy, with a channel for requests */
} Mode;

typedef enum Event {
    NONE,
    INTERRUPT,
    CLOSE,                      /* the destination does */
    HANG,                       /* storage does, and then interrupt twice */
} Event;

/**
 * Case: how a load goes wrong
 * @after: bytes that the destination reads
 * @event: what comes then; if storage answers, nothing is read any more
 * @damaged: a page is not what was saved
 * @ret, @error: how it fails; the error begins with that
 */
typedef struct Case {
    const char *name;
    Mode mode;
    size_t after;
    Event event;
    bool damaged;
    int ret;
    const char *error;
} Case;

#define INTERRUPTED .event = INTERRUPT, .ret = -EINTR, .error = "Interrupted"
#define LEFT        .event = HANG, .ret = -ETIMEDOUT, \
                    .error = "Interrupted, and storage does not answer"
#define CLOSED      .event = CLOSE
#define DAMAGED     .after = SIZE_MAX, .damaged = true, .ret = -EBADMSG, \
                    .error = "The snapshot is corrupt: RAM block 'vga.vram'"
#define REFUSED     .ret = -EPIPE, .error = "The destination has closed unix:"
#define SILENT      .ret = -ECONNABORTED, \
                    .error = "The destination has failed before it answered"

static const Case cases[] = {
    { "precopy/interrupted-before-it-is-read", PRECOPY, 0, INTERRUPTED },
    { "precopy/interrupted-in-the-middle", PRECOPY, SOME_BYTES, INTERRUPTED },
    { "precopy/closed-before-it-is-read", PRECOPY, 0, CLOSED, REFUSED },
    { "precopy/closed-in-the-middle", PRECOPY, SOME_BYTES, CLOSED, REFUSED },
    { "precopy/damaged-page", PRECOPY, DAMAGED },
    { "precopy/left-to-storage", PRECOPY, SOME_BYTES, LEFT },

    { "multifd/interrupted-before-it-is-read", MULTIFD, 0, INTERRUPTED },
    { "multifd/interrupted-in-the-middle", MULTIFD, SOME_BYTES, INTERRUPTED },
    { "multifd/closed-in-the-middle", MULTIFD, SOME_BYTES, CLOSED, REFUSED },
    { "multifd/damaged-page", MULTIFD, DAMAGED },
    { "multifd/left-to-storage", MULTIFD, SOME_BYTES, LEFT },

    { "postcopy/interrupted-before-it-is-read", POSTCOPY, 0, INTERRUPTED },
    { "postcopy/interrupted-in-the-middle", POSTCOPY, SOME_BYTES, INTERRUPTED },
    { "postcopy/closed-before-it-is-read", POSTCOPY, 0, CLOSED, SILENT },
    { "postcopy/closed-in-the-middle", POSTCOPY, SOME_BYTES, CLOSED, SILENT },
    { "postcopy/damaged-page", POSTCOPY, DAMAGED },
    { "postcopy/left-to-storage", POSTCOPY, SOME_BYTES, LEFT },

    { "preempt/interrupted-before-it-is-read", PREEMPT, 0, INTERRUPTED },
    { "preempt/interrupted-in-the-middle", PREEMPT, SOME_BYTES, INTERRUPTED },
    { "preempt/closed-in-the-middle", PREEMPT, SOME_BYTES, CLOSED, SILENT },
    { "preempt/damaged-page", PREEMPT, DAMAGED },
};

/**
 * Destination: the other end, which has its turns in the main loop
 * @fds: its channels, in the order of their connections
 * @stream: what has come over the first one
 * @nb_bytes: what has come over all of them
 * @nb_stored: pages with data that it waits for
 */
typedef struct Destination {
    int listener;
    int fds[MAX_CHANNELS];
    unsigned nb_fds;
    GByteArray *stream;
    size_t nb_bytes;
    uint64_t nb_stored;
    bool over;                  /* nothing more is expected of it */
    bool ended;
} Destination;

typedef struct Fixture {
    SavedRAM saved;
    uint64_t nb_stored;
    char *dir;
    char *path;
    unsigned nb_loads;
    Destination destination;
    SnapLoad *load;
} Fixture;

/* --- the snapshot --- */

/* More data than fits into a channel, some zero pages, and some unsent ones */
static void coroutine_fn save_entry(void *opaque)
{
    Fixture *f = opaque;

    for (uint64_t page = 0; page < NB_PAGES - HUGE_PAGES; page++) {
        send_page(&f->saved.snapshot, page, page % 16 ? DATA + page : ZERO);
    }
    saved_ram_commit(&f->saved, NULL, 0);
}

static uint64_t count_stored(const Snapshot *s)
{
    uint64_t nb = 0;

    for (uint64_t i = 0; i < NB_PAGES; i++) {
        nb += s->model[i] >= DATA;
    }
    return nb;
}

/* Damage a page, or undo that. */
static void flip_page(Fixture *f)
{
    Snapshot *s = &f->saved.snapshot;
    uint64_t offset = snap_layout_page_offset(&s->layout,
                                              &s->blocks.blocks[VGA],
                                              VGA_PAGES - 1);

    s->disk->bytes[offset] ^= 1;
}

static void set_up(Fixture *f, gconstpointer data)
{
    saved_ram_init(&f->saved, PAGE_BITS);
    run_in_coroutine(save_entry, f);
    f->nb_stored = count_stored(&f->saved.snapshot);
    f->dir = g_dir_make_tmp("snap-load-XXXXXX", NULL);
    f->path = g_build_filename(f->dir, "socket", NULL);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    g_unlink(f->path);
    g_rmdir(f->dir);
    g_free(f->path);
    g_free(f->dir);
    saved_ram_destroy(&f->saved);
}

/* --- the destination --- */

static void destination_init(Fixture *f)
{
    g_autofree char *uri = g_strdup_printf("unix:%s", f->path);

    f->destination = (Destination) {
        .listener = unix_listen(f->path, &error_abort),
        .stream = g_byte_array_new(),
        .nb_stored = f->nb_stored,
    };
    g_assert_true(g_unix_set_fd_nonblocking(f->destination.listener, true,
                                            NULL));
}

static void destination_close(Destination *d)
{
    for (unsigned i = 0; i < d->nb_fds; i++) {
        close(d->fds[i]);
    }
    d->nb_fds = 0;
}

static void destination_destroy(Destination *d)
{
    destination_close(d);
    close(d->listener);
    g_byte_array_unref(d->stream);
}

static void destination_accept(Destination *d)
{
    int fd = accept(d->listener, NULL, NULL);

    if (fd >= 0) {
        g_assert_cmpuint(d->nb_fds, <, MAX_CHANNELS);
        g_assert_true(g_unix_set_fd_nonblocking(fd, true, NULL));
        d->fds[d->nb_fds++] = fd;
    }
}

static void destination_send(Destination *d, const GByteArray *message)
{
    g_assert_cmpint(write(d->fds[0], message->data, message->len), ==,
                    message->len);
}

/* Some of the pages that come last, so that it reads for this */
static void destination_request(Destination *d)
{
    g_autoptr(GByteArray) message = g_byte_array_new();
    const char *block = "pc.ram";

    put_be16(message, MSG_REQ_PAGES_ID);
    put_be16(message, 12 + 1 + strlen(block));
    put_be64(message, (RAM_PAGES - 64) * PAGE);
    put_be32(message, 64 * PAGE);
    put_u8(message, strlen(block));
    put_bytes(message, block, strlen(block));
    destination_send(d, message);
}

static void destination_shut(Destination *d)
{
    g_autoptr(GByteArray) message = g_byte_array_new();

    put_be16(message, MSG_SHUT);
    put_be16(message, 4);
    put_be32(message, 0);
    destination_send(d, message);
}

/* Read what has come over one channel. */
static void destination_read(Destination *d, unsigned i)
{
    uint8_t buf[8 * KiB];
    ssize_t ret = read(d->fds[i], buf, sizeof(buf));

    if (ret > 0 && i == 0) {
        g_byte_array_append(d->stream, buf, ret);
    }
    d->nb_bytes += MAX(ret, 0);
}

/* Whether all has come: pages, and at last a footer and EOF */
static bool destination_has_all(const Destination *d)
{
    static const uint8_t end[] = { QEMU_VM_SECTION_FOOTER, 0, 0, 0, 2,
                                   QEMU_VM_EOF };
    const GByteArray *s = d->stream;

    return d->nb_bytes > d->nb_stored * PAGE &&
           !memcmp(s->data + s->len - sizeof(end), end, sizeof(end));
}

static void interrupt_bh(void *opaque)
{
    Fixture *f = opaque;

    if (f->load) {
        snap_load_interrupt(f->load);
    }
}

/* Read up to the end, or as much as the case wants. */
static void coroutine_fn destination_take(Destination *d, size_t max,
                                          bool by_postcopy)
{
    bool shut = false;

    while (d->nb_bytes < max && !d->over) {
        destination_accept(d);
        for (unsigned i = 0; i < d->nb_fds; i++) {
            destination_read(d, i);
        }
        if (by_postcopy && !shut && destination_has_all(d)) {
            destination_shut(d);
            shut = true;
        }
        snap_co_pause();
    }
}

static void coroutine_fn interrupt_later(Fixture *f)
{
    qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, STUCK_NS);
    aio_bh_schedule_oneshot(qemu_get_aio_context(), interrupt_bh, f);
}

/* While the load reads, however slow the machine is */
static void coroutine_fn interrupt_twice_entry(void *opaque)
{
    Fixture *f = opaque;

    while (!f->saved.snapshot.disk->in_flight) {
        snap_co_pause();
    }
    interrupt_later(f);
    interrupt_later(f);
}

static void coroutine_fn destination_do(Fixture *f, Event event,
                                        bool by_postcopy)
{
    Destination *d = &f->destination;

    switch (event) {
    case NONE:
        break;
    case CLOSE:
        destination_close(d);
        break;
    case INTERRUPT:
        interrupt_later(f);
        break;
    case HANG:
        f->saved.snapshot.disk->hangs = true;
        qemu_coroutine_enter(qemu_coroutine_create(interrupt_twice_entry, f));
        destination_take(d, SIZE_MAX, by_postcopy);
        break;
    }
}

typedef struct Run {
    Fixture *f;
    const Case *c;
} Run;

static void coroutine_fn destination_entry(void *opaque)
{
    Run *run = opaque;
    Destination *d = &run->f->destination;
    bool by_postcopy = run->c->mode >= POSTCOPY;

    destination_accept(d);
    if (by_postcopy) {
        destination_request(d);
    }
    destination_take(d, run->c->after, by_postcopy);
    destination_do(run->f, run->c->event, by_postcopy);
    d->ended = true;
}

/* --- loads --- */

static SnapTransport *connect_transport(Fixture *f)
{
    g_autofree char *uri = g_strdup_printf("unix:%s", f->path);
    SnapTransport *transport = snap_transport_open(uri, false, NULL,
                                                   &error_abort);

    g_assert_true(snap_transport_connect(transport, &error_abort));
    return transport;
}

static SnapLoad *load_new(Fixture *f, Mode mode, const char *resume)
{
    char *no_host_pages[] = { NULL };
    SnapPostcopyOptions postcopy = {
        .preempt = mode == PREEMPT,
        .resume = resume,
        .load_records = resume,
        .host_pages = no_host_pages,
        .push = { .reasons = 1u << SNAP_PUSH_LINEAR, .backlog = 64 * KiB },
    };
    SnapMultifdOptions multifd = { .nb_channels = NB_MULTIFD };
    SnapLoadOptions options = {
        .postcopy = mode >= POSTCOPY ? &postcopy : NULL,
        .multifd = mode == MULTIFD ? &multifd : NULL,
    };

    blk_ref(f->saved.snapshot.blk);
    return snap_load_new(f->saved.snapshot.blk, connect_transport(f), &options);
}

static int run_load(Fixture *f, const Case *c, SnapStats *stats, Error **errp)
{
    Run run = { f, c };
    int ret;

    destination_init(f);
    f->load = load_new(f, c->mode, NULL);
    aio_co_enter(qemu_get_aio_context(),
                 qemu_coroutine_create(destination_entry, &run));
    ret = snap_load_run(f->load, stats, errp);
    snap_load_free(g_steal_pointer(&f->load));
    f->destination.over = true;
    while (!f->destination.ended) {
        aio_poll(qemu_get_aio_context(), true);
    }
    destination_destroy(&f->destination);
    return ret;
}

/* What was left is freed as soon as storage answers. */
static void assert_all_freed(Fixture *f)
{
    Snapshot *s = &f->saved.snapshot;

    s->disk->hangs = false;
    while (blk_get_refcnt(s->blk) > 1) {
        aio_poll(qemu_get_aio_context(), true);
    }
    g_assert_cmpuint(s->disk->in_flight, ==, 0);
}

static void assert_load_succeeds(Fixture *f, Mode mode)
{
    const Case whole = { .mode = mode, .after = SIZE_MAX };
    SnapStats stats = { };

    g_assert_cmpint(run_load(f, &whole, &stats, &error_abort), ==, 0);
    g_assert_cmpuint(stats.stored_pages, ==, f->nb_stored);
}

static void test_case(Fixture *f, gconstpointer data)
{
    const Case *c = data;
    SnapStats stats = { };
    Error *err = NULL;
    int ret;

    if (c->damaged) {
        flip_page(f);
    }
    ret = run_load(f, c, &stats, &err);
    g_assert_nonnull(err);
    if (!g_str_has_prefix(error_get_pretty(err), c->error)) {
        g_test_message("%s", error_get_pretty(err));
        g_test_fail();
    }
    error_free(err);
    g_assert_cmpint(ret, ==, c->ret);
    assert_all_freed(f);
    if (c->damaged) {
        flip_page(f);
    }
    assert_load_succeeds(f, c->mode);
}

/* One that waits for a destination that does not accept */
static void test_resumption(Fixture *f, gconstpointer data)
{
    SnapStats stats = { };
    Error *err = NULL;
    int ret;

    destination_init(f);
    f->load = load_new(f, POSTCOPY, f->dir);
    aio_bh_schedule_oneshot(qemu_get_aio_context(), interrupt_bh, f);
    ret = snap_load_run(f->load, &stats, &err);
    assert_failed(ret, -EINTR, &err);
    snap_load_free(g_steal_pointer(&f->load));
    assert_all_freed(f);
    destination_destroy(&f->destination);
    assert_load_succeeds(f, POSTCOPY);
}

/* That was never run */
static void test_unused(Fixture *f, gconstpointer data)
{
    destination_init(f);
    snap_load_free(load_new(f, POSTCOPY, NULL));
    snap_load_free(NULL);
    assert_all_freed(f);
    destination_destroy(&f->destination);
}

static void add(const char *name, const Case *c,
                void (*test)(Fixture *f, gconstpointer data))
{
    g_autofree char *path = g_strdup_printf("/snap/load/%s", name);

    g_test_add(path, Fixture, c, set_up, test, tear_down);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    qemu_init_main_loop(&error_abort);
    module_call_init(MODULE_INIT_QOM);
    bdrv_init();
    g_test_init(&argc, &argv, NULL);

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        add(cases[i].name, &cases[i], test_case);
    }
    add("postcopy/interrupted-while-a-resumption-waits", NULL, test_resumption);
    add("may-be-freed-unused", NULL, test_unused);
    return g_test_run();
}
