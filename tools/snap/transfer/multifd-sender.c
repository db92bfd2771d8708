/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that go over several channels
 */

#include "qemu/osdep.h"
#include "qemu/iov.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "snap/ram/walk.h"
#include "snap/stream/multifd.h"
#include "snap/trace.h"
#include "snap/transfer/multifd-sender.h"
#include "snap/util/task-group.h"

/* RAM that a channel takes at a time. */
#define RANGE_SIZE (4 * MiB)

/* Each channel has 16 pieces in memory, all channels together this much. */
#define MAX_PIECE_SIZE (1 * MiB)
#define MIN_PIECE_SIZE (64 * KiB)
#define PIECES_SIZE    (4 * MiB)

typedef struct Channel {
    SnapMultifdSender *multifd;
    QIOChannel *ioc;
    unsigned index;
    SnapRAMWalk *walk;
    uint8_t *head;
    SnapMultifdPacket packet;
    QEMUIOVector qiov;
} Channel;

struct SnapMultifdSender {
    /* constant */
    SnapSender *sender;
    SnapTransport *transport;
    QemuUUID uuid;
    Channel *channels;
    unsigned nb_channels;

    /* the first page that no channel has taken yet */
    uint64_t next;

    /* how far the channels are */
    uint64_t nb_packets;
    SnapTaskGroup *tasks;
};

/* The plan of all walks: each takes a range of what is left. */
static int coroutine_fn multifd_sender_plan(void *opaque, SnapPageRange *range,
                                            Error **errp)
{
    SnapMultifdSender *m = opaque;
    const SnapRAMBlocks *ram = m->sender->source->ram;
    const SnapRAMBlock *block;

    if (m->next == ram->nb_pages) {
        return 0;
    }
    block = snap_ram_block_of(ram, m->next);
    *range = (SnapPageRange) {
        .first = m->next,
        .count = MIN(snap_ram_block_end(ram, block) - m->next,
                     RANGE_SIZE >> ram->page_bits),
    };
    m->next += range->count;
    return 1;
}

static void multifd_sender_init_channel(Channel *c, SnapMultifdSender *m,
                                        QIOChannel *ioc, unsigned index)
{
    SnapPageSource *source = m->sender->source;
    size_t piece_size = pow2floor(PIECES_SIZE / m->nb_channels);

    piece_size = MIN(MAX(piece_size, MIN_PIECE_SIZE), MAX_PIECE_SIZE);
    c->multifd = m;
    c->ioc = ioc;
    c->index = index;
    c->walk = snap_ram_walk_new(source, piece_size, multifd_sender_plan, m);
    c->head = g_malloc(snap_multifd_head_size(source->ram));
    qemu_iovec_init(&c->qiov, 1 + snap_multifd_packet_pages(source->ram));
}

/* Wake whoever waits for what will not come. */
static void multifd_sender_failed(void *opaque)
{
    SnapMultifdSender *m = opaque;

    snap_transport_shutdown_channels(m->transport);
    snap_transport_shutdown_output(m->transport);
}

SnapMultifdSender *snap_multifd_sender_new(SnapSender *sender,
                                           SnapTransport *transport,
                                           const SnapMultifdOptions *options,
                                           Error **errp)
{
    GPtrArray *channels = snap_transport_open_channels(transport,
                                                       options->nb_channels,
                                                       errp);
    SnapMultifdSender *m;

    if (!channels) {
        return NULL;
    }
    m = g_new0(SnapMultifdSender, 1);
    m->sender = sender;
    m->transport = transport;
    m->uuid = options->uuid;
    m->nb_channels = channels->len;
    m->channels = g_new0(Channel, channels->len);
    for (unsigned i = 0; i < channels->len; i++) {
        multifd_sender_init_channel(&m->channels[i], m,
                                    g_ptr_array_index(channels, i), i);
    }
    m->tasks = snap_task_group_new(multifd_sender_failed, m);
    return m;
}

void snap_multifd_sender_free(SnapMultifdSender *m)
{
    if (!m) {
        return;
    }
    for (unsigned i = 0; i < m->nb_channels; i++) {
        snap_ram_walk_free(m->channels[i].walk);
        g_free(m->channels[i].head);
        qemu_iovec_destroy(&m->channels[i].qiov);
    }
    g_free(m->channels);
    snap_task_group_free(m->tasks);
    g_free(m);
}

/* Send the packet: its head, and the data that follows it in the vector. */
static int coroutine_fn multifd_send_packet(Channel *c, Error **errp)
{
    const SnapRAMBlocks *ram = c->multifd->sender->source->ram;

    c->packet.number = c->multifd->nb_packets++;
    snap_multifd_encode(c->head, &c->packet, ram);
    /* QEMUFile calls each error of a channel -EIO; so does this. */
    return qio_channel_writev_all(c->ioc, c->qiov.iov, c->qiov.niov,
                                  errp) < 0 ? -EPIPE : 0;
}

static void multifd_begin_packet(Channel *c, bool sync)
{
    c->packet.sync = sync;
    c->packet.nb_normal = 0;
    c->packet.nb_zero = 0;
    qemu_iovec_reset(&c->qiov);
    qemu_iovec_add(&c->qiov, c->head,
                   snap_multifd_head_size(c->multifd->sender->source->ram));
}

static int coroutine_fn multifd_send_sync(Channel *c, Error **errp)
{
    multifd_begin_packet(c, true);
    return multifd_send_packet(c, errp);
}

static void multifd_add_page(Channel *c, const SnapPages *pages, unsigned i)
{
    unsigned page_bits = c->multifd->sender->source->ram->page_bits;
    uint8_t *data = (uint8_t *)pages->data + ((size_t)i << page_bits);
    struct iovec *last = &c->qiov.iov[c->qiov.niov - 1];

    c->packet.pages[c->packet.nb_normal++] = pages->range.first + i;
    if ((uint8_t *)last->iov_base + last->iov_len == data) {
        last->iov_len += (size_t)1 << page_bits;
        c->qiov.size += (size_t)1 << page_bits;
    } else {
        qemu_iovec_add(&c->qiov, data, (size_t)1 << page_bits);
    }
}

static int coroutine_fn multifd_send_packets(Channel *c, const SnapPages *pages,
                                             Error **errp)
{
    SnapSender *sender = c->multifd->sender;
    unsigned max = snap_multifd_packet_pages(sender->source->ram);
    int ret = 0;

    multifd_begin_packet(c, false);
    for (unsigned i = 0; i < pages->range.count && !ret; i++) {
        if (snap_page_is_stored(pages->entries[i])) {
            multifd_add_page(c, pages, i);
            sender->stats->stored_pages++;
        }
        if (c->packet.nb_normal == max) {
            ret = multifd_send_packet(c, errp);
            multifd_begin_packet(c, false);
        }
    }
    if (!ret && c->packet.nb_normal) {
        ret = multifd_send_packet(c, errp);
    }
    trace_snap_multifd_sender_pages(c->index, pages->range.first,
                                    pages->range.count);
    return ret;
}

static int coroutine_fn multifd_send_init(Channel *c, Error **errp)
{
    uint8_t init[SNAP_MULTIFD_INIT_SIZE];

    snap_multifd_encode_init(init, &c->multifd->uuid, c->index);
    return qio_channel_write_all(c->ioc, (char *)init, sizeof(init),
                                 errp) < 0 ? -EPIPE : 0;
}

static int coroutine_fn multifd_send_pages(Channel *c, Error **errp)
{
    SnapPages pages;
    int ret;

    while ((ret = snap_ram_walk_next(c->walk, &pages, errp)) > 0) {
        snap_co_pause();
        ret = multifd_send_packets(c, &pages, errp);
        if (ret < 0) {
            break;
        }
    }
    if (ret < 0) {
        snap_ram_walk_abort(c->walk);
    }
    return ret;
}

static int coroutine_fn multifd_sender_entry(void *opaque, Error **errp)
{
    Channel *c = opaque;
    int ret = multifd_send_init(c, errp);

    if (!ret) {
        ret = multifd_send_sync(c, errp);
    }
    if (!ret) {
        ret = multifd_send_pages(c, errp);
    }
    if (!ret) {
        ret = multifd_send_sync(c, errp);
    }
    return ret;
}

void coroutine_fn snap_multifd_sender_start(SnapMultifdSender *m)
{
    for (unsigned i = 0; i < m->nb_channels; i++) {
        g_autofree char *name = g_strdup_printf("multifd channel %u", i);

        snap_task_group_start(m->tasks, name, multifd_sender_entry,
                              &m->channels[i]);
    }
}

int snap_multifd_sender_status(const SnapMultifdSender *m, Error **errp)
{
    return snap_task_group_status(m->tasks, errp);
}

int coroutine_fn snap_multifd_sender_wait(SnapMultifdSender *m, Error **errp)
{
    return snap_task_group_wait(m->tasks, errp);
}

void coroutine_fn snap_multifd_sender_abort(SnapMultifdSender *m)
{
    snap_transport_shutdown_channels(m->transport);
    snap_multifd_sender_wait(m, NULL);
}
