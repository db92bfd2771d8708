/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of what may come over the channels of multifd, and when
 */

#include "qemu/osdep.h"
#include "io/channel-socket.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/sockets.h"
#include "snap/stream/multifd.h"
#include "snap/transfer/multifd-receiver.h"
#include "saved-ram.h"
#include "snap-coroutine.h"

#define NB_CHANNELS 2
#define WHILE_NS    (60 * NANOSECONDS_PER_SECOND)

/**
 * Case: what comes over the channels
 * @channels: for each, letters as of put_letter()
 * @nb_syncs: of the main channel
 * @nb_pages: how many pages come in time
 * @error: what is wrong with it, NULL for nothing
 */
typedef struct Case {
    const char *name;
    const char *channels[NB_CHANNELS];
    unsigned nb_syncs;
    unsigned nb_pages;
    const char *error;
} Case;

/* SYNC with the pages of the packet before, and an empty one: before 9.0 */
static const Case cases[] = {
    { "channels-may-send-syncs-alone", { "IS", "IS" }, 1, 0 },
    { "pages-of-all-channels-are-stored", { "IPPS", "IZS" }, 1, 3 },
    { "rounds-end-with-a-sync-of-each-channel", { "ISPSPPS", "ISSZS" }, 3, 4 },
    { "sync-may-have-pages", { "IPB", "IZB" }, 1, 4 },
    { "empty-packets-may-come-before-a-sync", { "IES", "IPEEES" }, 1, 1 },
    { "empty-packets-may-come-after-a-sync", { "ISEPS", "IBES" }, 2, 2 },
    { "empty-packets-may-come-after-the-last-sync", { "IPBE", "ISEE" }, 1, 2 },
    { "empty-packets-may-be-as-many-as-allowed",
      { "IS", "ISEEEEEEEEEEEEEEEE" }, 1, 0 },
    { "empty-packets-without-end-are-refused",
      { "IS", "ISEEEEEEEEEEEEEEEEE" }, 1, 0,
      "multifd channel 1 sent more than 16 packets after the last SYNC" },
    { "page-after-last-sync-is-refused", { "IS", "ISP" }, 1, 0,
      "multifd channel 1 sent pages after the last SYNC" },
    { "zero-page-after-last-sync-is-refused", { "ISZ", "IS" }, 1, 0,
      "multifd channel 0 sent pages after the last SYNC" },
    { "page-after-empty-packets-is-refused", { "ISEEP", "IS" }, 1, 0,
      "multifd channel 0 sent pages after the last SYNC" },
    { "sync-with-pages-after-last-sync-is-refused", { "ISB", "IS" }, 1, 0,
      "multifd channel 0 sent pages after the last SYNC" },
    { "sync-after-last-sync-is-refused", { "ISS", "ISS" }, 1, 0,
      "multifd channel 0 sent more SYNCs than the main channel" },
    { "sync-after-empty-packets-is-refused", { "IS", "ISES" }, 1, 0,
      "multifd channel 1 sent more SYNCs than the main channel" },
    { "end-before-sync-is-refused", { "IPX", "IS" }, 1, 0,
      "A multifd channel ends too early" },
    { "channels-may-end-after-the-last-sync", { "ISX", "ISEX" }, 1, 0 },
};

typedef struct Fixture {
    const Case *c;
    SavedRAM saved;
    SnapTransport *transport;
    int main;                   /* the other ends */
    int peers[NB_CHANNELS];
    GPtrArray *channels;
    SnapMultifdReceiver *receiver;
    unsigned nb_pages;          /* that were sent */
} Fixture;

static void make_pair(int pair[2])
{
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), ==, 0);
}

static void open_channels(Fixture *f)
{
    g_autofree char *uri = NULL;
    int pair[2];

    make_pair(pair);
    f->main = pair[0];
    uri = g_strdup_printf("fd:%d", pair[1]);
    f->transport = snap_transport_open(uri, true, NULL, &error_abort);
    close(pair[1]);

    f->channels = g_ptr_array_new_with_free_func(object_unref);
    for (unsigned i = 0; i < NB_CHANNELS; i++) {
        QIOChannelSocket *sioc;

        make_pair(pair);
        f->peers[i] = pair[0];
        sioc = qio_channel_socket_new_fd(pair[1], &error_abort);
        qio_channel_set_follow_coroutine_ctx(QIO_CHANNEL(sioc), true);
        qio_channel_set_blocking(QIO_CHANNEL(sioc), false, &error_abort);
        g_ptr_array_add(f->channels, sioc);
    }
}

static void put(int fd, const void *data, size_t size)
{
    g_assert_cmpint(qemu_write_full(fd, data, size), ==, size);
}

/* @nb_normal, @nb_zero: one page at most */
static void put_packet(Fixture *f, int fd, bool sync, unsigned nb_normal,
                       unsigned nb_zero)
{
    const SnapRAMBlocks *blocks = &f->saved.snapshot.blocks;
    g_autofree uint8_t *head = g_malloc(snap_multifd_head_size(blocks));
    g_autofree uint8_t *page = g_malloc(PAGE);
    SnapMultifdPacket packet = {
        .sync = sync,
        .nb_normal = nb_normal,
        .nb_zero = nb_zero,
    };

    packet.pages[0] = RAM_FIRST + f->nb_pages;
    snap_multifd_encode(head, &packet, blocks);
    put(fd, head, snap_multifd_head_size(blocks));
    memset(page, 1, PAGE);
    put(fd, page, nb_normal * PAGE);
    f->nb_pages += nb_normal + nb_zero;
}

static void put_letter(Fixture *f, unsigned channel, char letter)
{
    uint8_t init[SNAP_MULTIFD_INIT_SIZE];
    int fd = f->peers[channel];

    switch (letter) {
    case 'I':
        snap_multifd_encode_init(init, &(QemuUUID) { }, channel);
        put(fd, init, sizeof(init));
        break;
    case 'S':                   /* SYNC */
    case 'E':                   /* nothing */
        put_packet(f, fd, letter == 'S', 0, 0);
        break;
    case 'P':                   /* a page */
    case 'B':                   /* and SYNC */
        put_packet(f, fd, letter == 'B', 1, 0);
        break;
    case 'Z':                   /* a page that is zero */
        put_packet(f, fd, false, 0, 1);
        break;
    case 'X':                   /* the end */
        shutdown(fd, SHUT_WR);
        break;
    default:
        g_assert_not_reached();
    }
}

static void set_up(Fixture *f, gconstpointer data)
{
    f->c = data;
    saved_ram_init(&f->saved, PAGE_BITS);
    open_channels(f);
    f->receiver = snap_multifd_receiver_new(f->transport, f->channels,
                                            &f->saved.snapshot.blocks,
                                            f->saved.snapshot.ram);
    for (unsigned i = 0; f->c && i < NB_CHANNELS; i++) {
        for (const char *p = f->c->channels[i]; *p; p++) {
            put_letter(f, i, *p);
        }
    }
}

static void tear_down(Fixture *f, gconstpointer data)
{
    snap_multifd_receiver_free(f->receiver);
    g_ptr_array_unref(f->channels);
    for (unsigned i = 0; i < NB_CHANNELS; i++) {
        close(f->peers[i]);
    }
    close(f->main);
    snap_transport_close(f->transport);
    saved_ram_destroy(&f->saved);
}

static void coroutine_fn end(Fixture *f)
{
    for (unsigned i = 0; i < NB_CHANNELS; i++) {
        shutdown(f->peers[i], SHUT_RDWR);
    }
    snap_multifd_receiver_end(f->receiver, WHILE_NS);
    snap_ram_writer_abort(f->saved.snapshot.ram);
}

static void coroutine_fn case_entry(void *opaque)
{
    Fixture *f = opaque;
    SnapRAMWriter *ram = f->saved.snapshot.ram;
    Error *err = NULL;
    int ret = 0;

    snap_multifd_receiver_start(f->receiver);
    for (unsigned i = 0; i < f->c->nb_syncs && !ret; i++) {
        ret = snap_multifd_receiver_sync(f->receiver, &err);
    }
    if (!ret) {
        ret = snap_multifd_receiver_pages_end(f->receiver, &err);
    }
    if (f->c->error) {
        g_assert_cmpint(ret, <, 0);
        g_assert_cmpstr(error_get_pretty(err), ==, f->c->error);
        error_free(err);
    } else {
        g_assert_null(err);
        g_assert_cmpuint(snap_ram_writer_missing(ram), ==,
                         NB_PAGES - f->c->nb_pages);
    }
    end(f);
}

static void test_case(Fixture *f, gconstpointer data)
{
    run_in_coroutine(case_entry, f);
}

/* RAM is over, and the channels are open. */
static void coroutine_fn begin(Fixture *f)
{
    for (unsigned i = 0; i < NB_CHANNELS; i++) {
        put_letter(f, i, 'I');
        put_letter(f, i, 'S');
    }
    snap_multifd_receiver_start(f->receiver);
    snap_multifd_receiver_sync(f->receiver, &error_abort);
    snap_multifd_receiver_pages_end(f->receiver, &error_abort);
}

static void coroutine_fn late_page_entry(void *opaque)
{
    Fixture *f = opaque;
    Error *err = NULL;

    begin(f);
    put_letter(f, 1, 'E');
    put_letter(f, 1, 'P');
    while (!snap_multifd_receiver_status(f->receiver, NULL)) {
        snap_co_pause();
    }
    g_assert_cmpint(snap_multifd_receiver_status(f->receiver, &err), <, 0);
    g_assert_cmpstr(error_get_pretty(err), ==,
                    "multifd channel 1 sent pages after the last SYNC");
    error_free(err);
    end(f);
}

/* Whenever it comes, and whoever waits for the main channel learns of it */
static void test_late_page(Fixture *f, gconstpointer data)
{
    run_in_coroutine(late_page_entry, f);
}

static void add(const char *name, const Case *c,
                void (*test)(Fixture *f, gconstpointer data))
{
    g_autofree char *path = g_strdup_printf("/snap/multifd-receiver/%s", name);

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
    add("page-after-the-end-of-pages-is-refused", NULL, test_late_page);
    return g_test_run();
}
