/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Loading by postcopy: the guest runs first, its RAM follows
 *
 * Theory of operation
 * ===================
 *
 * Two coroutines are started here, the sender and the return path, and the one
 * that called snap_postcopy_run() waits for both.  All that is sent over the
 * main channel is sent by the sender, which goes through these states:
 *
 *   STARTING  sends configuration, OPEN_RETURN_PATH, PING 0; ADVISE, PING 1;
 *             RAM's START and the setup, PING 2; PERCENT of the pages with
 *             data; DISCARD for all other pages; and in one package LISTEN,
 *             the device state, PING 3 and RUN
 *             resuming: sends RECV_BITMAP for each RAM block, and waits for
 *             each bitmap; sends RESUME, and waits for RESUME_ACK
 *   PUSHING   runs the pusher, until all that is to be pushed was sent
 *   ENDING    sends RAM's END and EOF; ends the preempt channel once there were
 *             no requests for a while; waits for SHUT
 *   OVER      has ended, or failed
 *
 * The return path is read from the beginning to the end, whatever the sender
 * waits for:
 *
 *   message      says                         what is done
 *   -----------  ---------------------------  ---------------------------------
 *   PONG n       all up to PING n was taken   it explains a failure; 2: what is
 *                                             loaded is noted for a resumption,
 *                                             3: and confirmed, a little later
 *   REQ_PAGES    the guest waits for pages    demand reads, the pusher sends
 *                                             them; in ENDING, without a
 *                                             preempt channel, they are only
 *                                             counted: QEMU fills missing pages
 *                                             with zeroes
 *   RECV_BITMAP  what it has of a RAM block   the page map has it as sent
 *   RESUME_ACK   it goes on                   the sender goes on
 *   SHUT         it has ended, with a status  0 in ENDING: the load is over;
 *                                             else it has failed
 *   the end      it has gone                  the load has failed
 *
 * Whatever fails first ends all others.  A closed channel explains little: what
 * is reported is what the destination said before, or else what the last PING
 * that it answered tells.
 */

#include "qemu/osdep.h"
#include "block/aio.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "snap/postcopy/postcopy.h"
#include "snap/postcopy/recording.h"
#include "snap/postcopy/resumption.h"
#include "snap/ram/walk.h"
#include "snap/stream/return-path.h"
#include "snap/trace.h"
#include "snap/util/task-group.h"

/*
 * What the destination is asked to echo once it has got there: it has taken
 * the configuration, agreed to postcopy, found its RAM in that of the snapshot,
 * loaded the devices.  QEMU itself uses 3 for the last one
 * (migration/migration.c:postcopy_start).
 */
typedef enum Ping {
    PING_NONE    = -1,
    PING_BEFORE  = 0,
    PING_AGREED  = 1,
    PING_RAM_FOUND = 2,
    PING_RUN     = 3,
} Ping;

typedef enum SenderState {
    SENDER_STARTING,
    SENDER_PUSHING,
    SENDER_ENDING,
    SENDER_OVER,
} SenderState;

typedef enum ReturnPathState {
    RP_OPEN,
    RP_SHUT,                    /* by the destination, with a status */
    RP_LOST,                    /* ended in any other way */
} ReturnPathState;

typedef enum ResumeState {
    RESUME_NONE,
    RESUME_AWAITED,
    RESUME_DONE,
} ResumeState;

/*
 * Precopy goes in pieces of the size of a transparent huge page: a smaller one
 * would make the destination fill all of such a page with zeroes first.
 */
#define PRECOPY_PIECE_SIZE (2 * MiB)

/*
 * QEMU 7.2 and before wait for the end of the preempt channel; later ones do
 * not, and may request pages up to the end.
 */
#define PREEMPT_IDLE_NS (1 * NANOSECONDS_PER_SECOND)

/* How long to read the return path of a destination that takes no more. */
#define DRAIN_NS (1 * NANOSECONDS_PER_SECOND)

/*
 * When to look anew at what is remembered: not while the guest, which has just
 * begun to run, waits for its first pages.
 */
#define CONFIRM_NS (1 * NANOSECONDS_PER_SECOND)

/* migration/migration.c:MIGRATION_RESUME_ACK_VALUE */
#define RESUME_ACK 1

/* Messages of the return path that are read in one go. */
#define MAX_EVENTS_AT_ONCE 64

struct SnapPostcopy {
    /* constant */
    SnapSender *sender;
    SnapTransport *transport;
    const SnapPostcopyOptions *options;
    SnapProgress *progress;
    SnapSender preempt;             /* a writer only if there is a channel */
    SnapResumption *resumption;     /* NULL if nothing is remembered */
    QEMUTimer *confirm_timer;       /* likewise */

    /* the RAM to be loaded */
    SnapHostPages host_pages;
    SnapPageMap map;
    SnapDemand *demand;
    SnapPushPlan *plan;
    SnapPusher *pusher;
    SnapRecording *recording;

    /* what the destination said: set by the coroutine of the return path */
    SnapReturnPath *rp;
    ReturnPathState rp_state;
    uint32_t shut_status;
    Ping answered;                  /* the last one */
    ResumeState resume_state;       /* set by the sender as well */
    int awaited_bitmap;             /* likewise; a block, -1 for none */

    SenderState sender_state;

    /* both coroutines */
    SnapTaskGroup *tasks;
    bool disconnected;              /* one has found that */
    bool cancelled;

    /* who waits for one of the above */
    QemuCoSleep sender_sleep;
    QemuCoSleep run_sleep;
};

static bool postcopy_open_preempt(SnapPostcopy *pc, Error **errp)
{
    QEMUFile *file = snap_transport_open_preempt(pc->transport, errp);

    if (!file) {
        return false;
    }
    pc->preempt.writer =
        snap_stream_writer_new(file, &pc->sender->image->ram,
                               &pc->sender->image->header.section);
    return true;
}

static void postcopy_confirm_resumption(void *opaque)
{
    snap_resumption_confirm(opaque);
}

static void postcopy_make_resumption(SnapPostcopy *pc)
{
    pc->resumption = snap_resumption_new(pc->options->load_records,
                                         pc->transport,
                                         &pc->sender->image->header.uuid);
    pc->confirm_timer = aio_timer_new(qemu_get_aio_context(),
                                      QEMU_CLOCK_REALTIME, SCALE_NS,
                                      postcopy_confirm_resumption,
                                      pc->resumption);
}

static SnapPostcopyStats *postcopy_stats(const SnapPostcopy *pc)
{
    return &pc->sender->stats->postcopy;
}

static void postcopy_page_is_ready(void *opaque)
{
    SnapPostcopy *pc = opaque;

    snap_pusher_wake(pc->pusher);
}

/* What to send, and who sends it */
static void postcopy_make_pusher(SnapPostcopy *pc)
{
    SnapPageSource *source = pc->sender->source;
    const SnapPusherOptions *options = &pc->options->push;
    SnapPusherParts parts;

    pc->demand = snap_demand_new(source, &pc->map, postcopy_stats(pc),
                                 postcopy_page_is_ready, pc);
    pc->plan = snap_push_plan_new(pc->sender->image, source, &pc->map,
                                  options->reasons);
    parts = (SnapPusherParts) {
        .sender = pc->sender,
        .preempt = pc->options->preempt ? &pc->preempt : NULL,
        .transport = pc->transport,
        .map = &pc->map,
        .demand = pc->demand,
        .plan = pc->plan,
        .progress = pc->progress,
    };
    pc->pusher = snap_pusher_new(&parts, options);
}

SnapPostcopy *snap_postcopy_new(SnapSender *sender, SnapTransport *transport,
                                const SnapPostcopyOptions *options,
                                SnapProgress *progress, Error **errp)
{
    SnapPostcopy *pc = g_new(SnapPostcopy, 1);
    const SnapRAMBlocks *ram = &sender->image->ram;
    SnapInput *input = snap_transport_input(transport);

    *pc = (SnapPostcopy) {
        .sender = sender,
        .transport = transport,
        .options = options,
        .progress = progress,
        .preempt = { .source = sender->source, .stats = sender->stats },
        .answered = PING_NONE,
        .awaited_bitmap = -1,
        .tasks = snap_task_group_new(NULL, NULL),
    };
    postcopy_stats(pc)->active = true;
    if (!input) {
        error_setg(errp, "Postcopy needs a return path, and nothing can be "
                   "read from the destination");
    } else if (snap_host_pages_init(&pc->host_pages, ram,
                                    options->host_pages, errp) &&
               snap_page_map_init(&pc->map, ram, &pc->host_pages, errp)) {
        if (options->load_records) {
            postcopy_make_resumption(pc);
        }
        pc->rp = snap_return_path_new(input, ram, &pc->host_pages);
        pc->recording = snap_recording_new(sender->image,
                                           options->working_set);
        postcopy_make_pusher(pc);
        return pc;
    }
    snap_postcopy_free(pc);
    return NULL;
}

void snap_postcopy_free(SnapPostcopy *pc)
{
    if (!pc) {
        return;
    }
    snap_pusher_free(pc->pusher);
    snap_push_plan_free(pc->plan);
    snap_demand_free(pc->demand);
    snap_recording_free(pc->recording);
    snap_page_map_destroy(&pc->map);
    snap_host_pages_destroy(&pc->host_pages);
    snap_return_path_free(pc->rp);
    snap_stream_writer_free(pc->preempt.writer);
    timer_free(pc->confirm_timer);
    snap_resumption_free(pc->resumption);
    snap_task_group_free(pc->tasks);
    g_free(pc);
}

bool snap_postcopy_guest_runs(const SnapPostcopy *pc)
{
    return pc->resume_state == RESUME_DONE || pc->answered == PING_RUN;
}

/* Whether @ret says only that the other end has gone. */
static bool postcopy_is_disconnect(int ret)
{
    return ret == -EPIPE || ret == -ECONNABORTED || ret == -ECONNRESET;
}

/*
 * That the other end has gone is no error of a coroutine's own: another one may
 * know why, see postcopy_collect_result().
 */
static int postcopy_note_disconnect(SnapPostcopy *pc, int ret, Error *err,
                                    Error **errp)
{
    if (postcopy_is_disconnect(ret)) {
        pc->disconnected = true;
        error_free(err);
        return 0;
    }
    error_propagate(errp, err);
    return ret;
}

/* --- the return path --- */

static void postcopy_wake(SnapPostcopy *pc)
{
    qemu_co_sleep_wake(&pc->sender_sleep);
    qemu_co_sleep_wake(&pc->run_sleep);
}

static void postcopy_confirm_later(SnapPostcopy *pc)
{
    if (pc->resumption) {
        timer_mod(pc->confirm_timer,
                  qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + CONFIRM_NS);
    }
}

static void postcopy_handle_pong(SnapPostcopy *pc, uint32_t value)
{
    if (value > PING_RUN || (int)value <= pc->answered) {
        return;
    }
    pc->answered = value;
    if (value == PING_RUN) {
        postcopy_stats(pc)->run_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
        postcopy_confirm_later(pc);
    }
}

static int postcopy_handle_bitmap(SnapPostcopy *pc, SnapReturnEvent *event,
                                  Error **errp)
{
    uint64_t nb_received;

    if (event->block != pc->awaited_bitmap) {
        error_setg(errp, "The destination sent a bitmap that was not "
                   "requested");
        return -EINVAL;
    }
    nb_received = snap_page_map_received(&pc->map, event->block,
                                         event->bitmap);
    trace_snap_postcopy_received(event->block, nb_received);
    pc->awaited_bitmap = -1;
    return 0;
}

static int postcopy_handle_resume_ack(SnapPostcopy *pc, uint32_t value,
                                      Error **errp)
{
    if (pc->resume_state != RESUME_AWAITED) {
        error_setg(errp, "Unexpected RESUME_ACK (%" PRIu32 ")", value);
        return -EINVAL;
    }
    if (value != RESUME_ACK) {
        error_setg(errp, "The destination cannot resume (RESUME_ACK %" PRIu32
                   ")", value);
        return -EINVAL;
    }
    pc->resume_state = RESUME_DONE;
    return 0;
}

static void postcopy_note_late_request(SnapPostcopy *pc,
                                       const SnapReturnEvent *event)
{
    uint64_t nb_pages = event->pages.count /
        snap_page_map_host_page(&pc->map, event->pages.first).count;

    postcopy_stats(pc)->requests += nb_pages;
    postcopy_stats(pc)->already_sent += nb_pages;
}

static int coroutine_fn postcopy_handle_event(SnapPostcopy *pc,
                                              SnapReturnEvent *event,
                                              Error **errp)
{
    switch (event->type) {
    case SNAP_RP_SHUT:
        pc->rp_state = RP_SHUT;
        pc->shut_status = event->value;
        return 0;
    case SNAP_RP_PONG:
        postcopy_handle_pong(pc, event->value);
        return 0;
    case SNAP_RP_REQ_PAGES:
        if (pc->sender_state < SENDER_ENDING || pc->options->preempt) {
            return snap_demand_request(pc->demand, event->pages, errp);
        }
        /* After the end, QEMU fills missing pages with zeroes. */
        postcopy_note_late_request(pc, event);
        return 0;
    case SNAP_RP_RECV_BITMAP:
        return postcopy_handle_bitmap(pc, event, errp);
    case SNAP_RP_RESUME_ACK:
        return postcopy_handle_resume_ack(pc, event->value, errp);
    default:
        return 0;
    }
}

static int coroutine_fn postcopy_read_return_path(SnapPostcopy *pc,
                                                  Error **errp)
{
    unsigned nb_events = 0;
    int ret = 0;

    while (!ret && pc->rp_state == RP_OPEN) {
        SnapReturnEvent event;

        if (++nb_events % MAX_EVENTS_AT_ONCE == 0) {
            /* Let others work, however much more there is to read. */
            snap_co_pause();
        }
        ret = snap_return_path_next(pc->rp, &event, errp);
        if (ret <= 0) {
            return ret;
        }
        ret = postcopy_handle_event(pc, &event, errp);
        g_free(event.bitmap);
        postcopy_wake(pc);
    }
    return ret;
}

static int coroutine_fn postcopy_return_path_entry(void *opaque, Error **errp)
{
    SnapPostcopy *pc = opaque;
    Error *err = NULL;
    int ret = postcopy_read_return_path(pc, &err);

    if (pc->rp_state != RP_SHUT) {
        pc->rp_state = RP_LOST;
    }
    snap_pusher_stop(pc->pusher);
    postcopy_wake(pc);
    return postcopy_note_disconnect(pc, ret, err, errp);
}

/* Whether the destination has gone away, or has no use for anything more. */
static bool postcopy_peer_left(const SnapPostcopy *pc)
{
    switch (pc->rp_state) {
    case RP_OPEN:
        return false;
    case RP_SHUT:
        return pc->sender_state < SENDER_ENDING || pc->shut_status;
    default:
        return true;
    }
}

static bool postcopy_is_advised(const SnapPostcopy *pc)
{
    return pc->answered >= PING_RAM_FOUND;
}

static bool postcopy_has_bitmap(const SnapPostcopy *pc)
{
    return pc->awaited_bitmap < 0;
}

static bool postcopy_is_resumed(const SnapPostcopy *pc)
{
    return pc->resume_state == RESUME_DONE;
}

static bool postcopy_is_shut(const SnapPostcopy *pc)
{
    return pc->rp_state == RP_SHUT;
}

/*
 * Let the sender wait for the destination to say something.
 *
 * Returns: 0; -ECONNABORTED if it says nothing any more
 */
static int coroutine_fn
postcopy_wait_for(SnapPostcopy *pc, bool (*condition)(const SnapPostcopy *pc))
{
    while (!condition(pc)) {
        if (pc->rp_state != RP_OPEN) {
            return -ECONNABORTED;
        }
        qemu_co_sleep(&pc->sender_sleep);
    }
    return 0;
}

/* --- before the switch --- */

/* Whether all target pages of a host page have to be sent. */
static bool postcopy_sends_whole(const SnapPostcopy *pc, const SnapPages *pages)
{
    return snap_page_map_host_page(&pc->map, pages->range.first).count > 1;
}

/*
 * Mark pages as sent: they must not be sent again.
 *
 * Returns: how many have data
 */
static unsigned postcopy_note_precopied(SnapPostcopy *pc,
                                        const SnapPages *pages)
{
    bool whole = postcopy_sends_whole(pc, pages);
    unsigned nb_stored = 0;

    for (unsigned i = 0; i < pages->range.count; i++) {
        if (whole || pages->entries[i] != SNAP_PAGE_UNSENT) {
            snap_page_map_send(&pc->map, (SnapPageRange) {
                .first = pages->range.first + i, .count = 1,
            });
        }
        nb_stored += snap_page_is_stored(pages->entries[i]);
    }
    return nb_stored;
}

/* Whether pages are worth sending: they have data, or their host page may. */
static bool postcopy_is_wanted(const SnapPostcopy *pc, const SnapPages *pages)
{
    return pages->data ||
           snap_page_map_host_page(&pc->map, pages->range.first).count >
           PRECOPY_PIECE_SIZE >> pc->map.ram->page_bits;
}

/* Whether the next page begins a host page. */
static bool postcopy_ends_host_page(const SnapPostcopy *pc,
                                    const SnapPages *pages)
{
    uint64_t last = pages->range.first + pages->range.count - 1;
    SnapPageRange host_page = snap_page_map_host_page(&pc->map, last);

    return last + 1 == host_page.first + host_page.count;
}

static uint64_t postcopy_precopy_goal(const SnapPostcopy *pc)
{
    uint64_t stored = snap_image_stored_pages(pc->sender->image);

    /* Not stored * percent: page counts of an image may be large. */
    return stored / 100 * pc->options->percent +
           DIV_ROUND_UP(stored % 100 * pc->options->percent, 100);
}

static int coroutine_fn postcopy_send_precopy_pieces(SnapPostcopy *pc,
                                                     SnapRAMWalk *walk,
                                                     Error **errp)
{
    const SnapStats *stats = pc->sender->stats;
    uint64_t goal = postcopy_precopy_goal(pc);
    uint64_t nb_stored = 0;
    bool ended = true;
    SnapPages pages;
    int ret = 0;

    while (pc->rp_state == RP_OPEN && (nb_stored < goal || !ended) &&
           (ret = snap_ram_walk_next(walk, &pages, errp)) > 0) {
        ended = postcopy_ends_host_page(pc, &pages);
        if (!postcopy_is_wanted(pc, &pages)) {
            continue;
        }
        nb_stored += postcopy_note_precopied(pc, &pages);
        ret = snap_send_pages(pc->sender, &pages,
                              postcopy_sends_whole(pc, &pages), errp);
        if (ret < 0) {
            return ret;
        }
        snap_progress_show(pc->progress, nb_stored,
                           snap_image_stored_pages(pc->sender->image));
    }
    postcopy_stats(pc)->sent[SNAP_PUSH_PRECOPY] = stats->stored_pages +
                                                  stats->zero_pages;
    return MIN(ret, 0);
}

static int coroutine_fn postcopy_send_precopy(SnapPostcopy *pc, Error **errp)
{
    g_autoptr(SnapRAMWalk) walk = NULL;
    int ret;

    if (!pc->options->percent) {
        return 0;
    }
    walk = snap_ram_walk_new(pc->sender->source, PRECOPY_PIECE_SIZE, NULL,
                             NULL);
    ret = postcopy_send_precopy_pieces(pc, walk, errp);
    snap_ram_walk_abort(walk);
    return ret;
}

/* --- the switch --- */

/* Discard what was not sent of a block. Returns: how many ranges */
static uint64_t coroutine_fn postcopy_discard_block(SnapPostcopy *pc,
                                                    const SnapRAMBlock *block)
{
    g_autofree SnapPageRange *ranges = g_new(SnapPageRange,
                                             SNAP_MAX_DISCARD_RANGES);
    uint64_t page = block->first_page;
    uint64_t end = snap_ram_block_end(pc->map.ram, block);
    uint64_t total = 0;
    unsigned nb = 0;

    while (snap_page_map_next_unsent(&pc->map, page, end, &ranges[nb])) {
        page = ranges[nb].first + ranges[nb].count;
        total++;
        if (++nb == SNAP_MAX_DISCARD_RANGES) {
            snap_stream_put_discard(pc->sender->writer, ranges, nb);
            nb = 0;
        }
    }
    if (nb) {
        snap_stream_put_discard(pc->sender->writer, ranges, nb);
    }
    return total;
}

/*
 * The destination's memory may hold something for pages not sent: stale data,
 * or zeroes of transparent huge pages, which no page could be placed
 * over.  QEMU also needs one such command at least
 * (migration/postcopy-ram.c:postcopy_ram_prepare_discard).
 */
static int coroutine_fn postcopy_send_discards(SnapPostcopy *pc, Error **errp)
{
    uint64_t total = 0;

    for (int i = 0; i < pc->map.ram->nb_blocks; i++) {
        total += postcopy_discard_block(pc, &pc->map.ram->blocks[i]);
    }
    if (!total) {
        snap_page_map_forget(&pc->map, snap_page_map_host_page(&pc->map, 0));
        total = postcopy_discard_block(pc, &pc->map.ram->blocks[0]);
    }
    trace_snap_postcopy_discard(total);
    return snap_stream_flush(pc->sender->writer, errp);
}

/* Device state, and what makes the guest run with it, in one package. */
static int coroutine_fn postcopy_send_package(SnapPostcopy *pc, Error **errp)
{
    SnapStreamWriter *writer = pc->sender->writer;
    const SnapHeader *header = &pc->sender->image->header;
    uint64_t length = header->parts[SNAP_PART_DEVICES].length +
                      SNAP_COMMAND_SIZE + SNAP_PING_SIZE + SNAP_COMMAND_SIZE;
    int ret;

    if (length > UINT32_MAX) {
        error_setg(errp, "The device state is too large for postcopy");
        return -EFBIG;
    }
    snap_stream_begin_package(writer, length);
    snap_stream_put_command(writer, SNAP_CMD_POSTCOPY_LISTEN, NULL, 0);
    ret = snap_send_devices(pc->sender, errp);
    if (ret < 0) {
        return ret;
    }
    snap_stream_put_ping(writer, PING_RUN);
    snap_stream_put_command(writer, SNAP_CMD_POSTCOPY_RUN, NULL, 0);
    return snap_stream_flush(writer, errp);
}

/*
 * Nothing is remembered of a load that the destination does not take: it may
 * be in the middle of another one.
 */
static int coroutine_fn postcopy_prepare_resumption(SnapPostcopy *pc,
                                                    Error **errp)
{
    int ret;

    if (!pc->resumption) {
        return 0;
    }
    ret = snap_stream_flush(pc->sender->writer, errp);
    if (!ret) {
        ret = postcopy_wait_for(pc, postcopy_is_advised);
    }
    if (!ret) {
        snap_resumption_prepare(pc->resumption);
    }
    return ret;
}

static int coroutine_fn postcopy_start(SnapPostcopy *pc, Error **errp)
{
    SnapStreamWriter *writer = pc->sender->writer;
    int ret = snap_send_configuration(pc->sender, errp);

    if (ret < 0) {
        return ret;
    }
    snap_stream_put_command(writer, SNAP_CMD_OPEN_RETURN_PATH, NULL, 0);
    snap_stream_put_ping(writer, PING_BEFORE);
    snap_stream_put_advise(writer, &pc->host_pages);
    snap_stream_put_ping(writer, PING_AGREED);
    ret = snap_send_setup(pc->sender, &pc->host_pages, errp);
    if (ret < 0) {
        return ret;
    }
    snap_stream_put_ping(writer, PING_RAM_FOUND);
    ret = postcopy_send_precopy(pc, errp);
    if (!ret) {
        ret = postcopy_send_discards(pc, errp);
    }
    if (!ret) {
        ret = postcopy_prepare_resumption(pc, errp);
    }
    if (!ret) {
        ret = postcopy_send_package(pc, errp);
    }
    return ret;
}

/* --- going on after a break --- */

static int coroutine_fn postcopy_request_bitmap(SnapPostcopy *pc, int block,
                                                Error **errp)
{
    int ret;

    pc->awaited_bitmap = block;
    snap_stream_put_recv_bitmap(pc->sender->writer, block);
    ret = snap_stream_flush(pc->sender->writer, errp);
    if (!ret) {
        ret = postcopy_wait_for(pc, postcopy_has_bitmap);
    }
    return ret;
}

static int coroutine_fn postcopy_resume(SnapPostcopy *pc, Error **errp)
{
    int ret = 0;

    for (int i = 0; i < pc->map.ram->nb_blocks && !ret; i++) {
        ret = postcopy_request_bitmap(pc, i, errp);
    }
    if (ret < 0) {
        return ret;
    }
    pc->resume_state = RESUME_AWAITED;
    snap_stream_put_command(pc->sender->writer, SNAP_CMD_POSTCOPY_RESUME, NULL,
                            0);
    ret = snap_stream_flush(pc->sender->writer, errp);
    if (!ret) {
        ret = postcopy_wait_for(pc, postcopy_is_resumed);
    }
    if (!ret) {
        postcopy_confirm_later(pc);
    }
    return ret;
}

/* --- all of it --- */

static int coroutine_fn postcopy_send_end(SnapPostcopy *pc, Error **errp)
{
    SnapStreamWriter *writer = pc->sender->writer;

    pc->sender_state = SENDER_ENDING;
    snap_stream_begin_ram(writer, true);
    snap_stream_end_ram(writer);
    snap_stream_put_eof(writer, NULL, 0);
    return snap_stream_flush(writer, errp);
}

/* End the preempt channel once there were no requests for a while. */
static int coroutine_fn postcopy_end_preempt(SnapPostcopy *pc, Error **errp)
{
    int64_t start_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);

    while (pc->rp_state == RP_OPEN) {
        int64_t idle_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME) -
                          MAX(start_ns, snap_demand_last_ns(pc->demand));

        if (idle_ns >= PREEMPT_IDLE_NS) {
            snap_stream_put_end_of_records(pc->preempt.writer);
            return snap_stream_flush(pc->preempt.writer, errp);
        }
        qemu_co_sleep_ns_wakeable(&pc->sender_sleep, QEMU_CLOCK_REALTIME,
                                  PREEMPT_IDLE_NS - idle_ns);
    }
    return 0;
}

/* The destination has everything, and confirms it once it is processed. */
static int coroutine_fn postcopy_wait_for_end(SnapPostcopy *pc, Error **errp)
{
    int ret = pc->options->preempt ? postcopy_end_preempt(pc, errp) : 0;

    if (!ret) {
        ret = postcopy_wait_for(pc, postcopy_is_shut);
    }
    return ret;
}

static int coroutine_fn postcopy_send_all(SnapPostcopy *pc, Error **errp)
{
    int ret;

    if (pc->options->record) {
        snap_recording_start(pc->recording, pc->demand);
    }
    ret = pc->options->resume ? postcopy_resume(pc, errp) :
                                postcopy_start(pc, errp);
    if (ret < 0) {
        return ret;
    }
    trace_snap_postcopy_switched(pc->options->resume);
    pc->sender_state = SENDER_PUSHING;
    if (pc->options->push.reasons & (1u << SNAP_PUSH_WORKING_SET)) {
        snap_recording_plan(pc->recording, pc->plan);
    }
    ret = snap_pusher_run(pc->pusher, errp);
    if (!ret) {
        ret = postcopy_send_end(pc, errp);
    }
    if (!ret) {
        ret = postcopy_wait_for_end(pc, errp);
    }
    return ret;
}

static int coroutine_fn postcopy_sender_entry(void *opaque, Error **errp)
{
    SnapPostcopy *pc = opaque;
    Error *err = NULL;
    int ret = postcopy_send_all(pc, &err);

    pc->sender_state = SENDER_OVER;
    postcopy_wake(pc);
    return postcopy_note_disconnect(pc, ret, err, errp);
}

/* Say what went wrong, in terms of what the user can do about it. */
static void postcopy_explain(const SnapPostcopy *pc, Error **errp)
{
    if (pc->options->resume && !postcopy_is_resumed(pc)) {
        error_setg(errp, "The destination closed the channel: it has to be in "
                   "the state postcopy-paused, with migrate-recover");
        return;
    }
    switch (pc->options->resume ? PING_RUN : pc->answered) {
    case PING_NONE:
        error_setg(errp, "The destination has failed before it answered: it "
                   "has to be a QEMU that waits for a migration, with the "
                   "machine type that 'qemu-snap info' shows; its own log says "
                   "more");
        break;
    case PING_BEFORE:
        error_setg(errp, "The destination refuses postcopy: its capability "
                   "postcopy-ram has to be on, it has to be allowed to use "
                   "userfaultfd, and its host pages have to be what "
                   "--host-page-size says; its own log says more");
        break;
    case PING_AGREED:
        error_setg(errp, "The destination refuses the snapshot's RAM: names "
                   "and sizes of its RAM blocks have to be those that "
                   "'qemu-snap info' shows, and its host pages what "
                   "--host-page-size says; its own log says more");
        break;
    case PING_RAM_FOUND:
        error_setg(errp, "The destination has failed to load the devices, "
                   "which have to be those of the snapshot; its own log says "
                   "why");
        break;
    case PING_RUN:
        error_setg(errp, "The destination closed the channel before all of RAM "
                   "was loaded");
        break;
    }
}

static int postcopy_collect_result(SnapPostcopy *pc, Error **errp)
{
    int ret = snap_task_group_status(pc->tasks, errp);

    if (ret < 0) {
        return ret;
    }
    if (postcopy_is_shut(pc) && pc->shut_status && pc->answered == PING_RUN) {
        error_setg(errp, "The destination has failed to load (status %" PRIu32
                   "); its own log says why", pc->shut_status);
        return -EIO;
    }
    if (pc->disconnected || pc->sender_state != SENDER_OVER ||
        pc->shut_status) {
        postcopy_explain(pc, errp);
        return -ECONNABORTED;
    }
    return 0;
}

/*
 * Also of a load that was broken off, unless by the user: what was requested
 * stays true.
 */
static int postcopy_store_record(SnapPostcopy *pc, int ret, Error **errp)
{
    Error *err = NULL;

    if (pc->cancelled || snap_recording_store(pc->recording, &err)) {
        return ret;
    }
    if (ret < 0) {
        warn_report_err(err);
        return ret;
    }
    error_propagate(errp, err);
    return -EIO;
}

/* What may fail or wait before anything is sent */
static bool coroutine_fn postcopy_connect(SnapPostcopy *pc, Error **errp)
{
    const SnapPostcopyOptions *options = pc->options;

    if (options->preempt && !postcopy_open_preempt(pc, errp)) {
        return false;
    }
    return !options->resume || !pc->resumption ||
           snap_resumption_check(pc->resumption, &options->resumed, errp);
}

/* Send, until all is over or nothing more can come of it. */
static void coroutine_fn postcopy_send(SnapPostcopy *pc)
{
    snap_task_group_start(pc->tasks, "return path", postcopy_return_path_entry,
                          pc);
    snap_task_group_start(pc->tasks, "sender", postcopy_sender_entry, pc);
    while (pc->sender_state != SENDER_OVER && !postcopy_peer_left(pc)) {
        qemu_co_sleep(&pc->run_sleep);
    }
    if (pc->disconnected && pc->sender_state == SENDER_OVER) {
        /* What a destination said before it left tells why. */
        snap_task_group_wait_until(pc->tasks, DRAIN_NS +
                                   qemu_clock_get_ns(QEMU_CLOCK_REALTIME));
    }
}

/*
 * Wait until nothing is in flight.  The return path may wait for a destination
 * that has nothing to say, and senders be stuck in a channel that nobody reads.
 */
static void coroutine_fn postcopy_end_tasks(SnapPostcopy *pc)
{
    snap_transport_cancel(pc->transport);
    snap_pusher_stop(pc->pusher);
    snap_task_group_wait(pc->tasks, NULL);
    snap_pusher_end(pc->pusher);
    if (pc->resumption) {
        timer_del(pc->confirm_timer);
    }
}

int coroutine_fn snap_postcopy_run(SnapPostcopy *pc, Error **errp)
{
    int ret;

    if (!postcopy_connect(pc, errp)) {
        return -EINVAL;
    }
    postcopy_send(pc);
    trace_snap_postcopy_over(snap_task_group_nb_running(pc->tasks),
                             snap_task_group_status(pc->tasks, NULL),
                             pc->rp_state);
    ret = postcopy_collect_result(pc, errp);
    postcopy_end_tasks(pc);
    if (!ret) {
        postcopy_stats(pc)->complete_ns =
            qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
        if (pc->resumption) {
            snap_resumption_end(pc->resumption);
        }
    }
    return postcopy_store_record(pc, ret, errp);
}

void snap_postcopy_cancel(SnapPostcopy *pc)
{
    pc->cancelled = true;
    if (pc->resumption) {
        snap_resumption_cancel(pc->resumption);
    }
    snap_pusher_stop(pc->pusher);
}
