/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Loading by postcopy: the guest runs first, its RAM follows
 */

#include "qemu/osdep.h"
#include "block/aio.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "snap/postcopy/postcopy.h"
#include "snap/postcopy/resumption.h"
#include "snap/stream/return-path.h"
#include "snap/util/task-group.h"
#include "snap/image/working-set.h"
#include "snap/trace.h"

/*
 * What the destination is asked to echo once it has got there: it has taken
 * the configuration, agreed to postcopy, found its RAM in that of the snapshot,
 * loaded the devices.  QEMU itself uses 3 for the last one
 * (migration/migration.c:postcopy_start).
 */
enum {
    PING_BEFORE  = 0,
    PING_AGREED  = 1,
    PING_ADVISED = 2,
    PING_RUN     = 3,
};

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
    SnapSender preempt;             /* without a writer: no such channel */
    SnapResumption *resumption;     /* NULL if nothing is remembered */
    QEMUTimer *confirm_timer;       /* likewise */

    /* the RAM to be loaded */
    SnapHostPages host_pages;
    SnapPageMap map;
    SnapDemand *demand;
    SnapPushPlan *plan;
    SnapPusher *pusher;
    GArray *working_set;            /* NULL for none */
    GArray *record;                 /* NULL for none */

    /* what the destination said: set by the coroutine of the return path */
    SnapReturnPath *rp;
    bool pong[PING_RUN + 1];
    bool awaits_resumption;
    bool resumed;
    bool shut;
    uint32_t shut_status;
    int awaited_bitmap;             /* index of a block, -1 for none */
    bool rp_over;

    /* the coroutine that sends */
    bool sent_end;
    bool work_over;

    /* both of them */
    SnapTaskGroup *tasks;
    bool disconnected;              /* one has found that */

    /* who waits for one of the above */
    QemuCoSleep work_sleep;
    QemuCoSleep run_sleep;
};

static bool open_preempt(SnapPostcopy *pc, Error **errp)
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

static void confirm_resumption(void *opaque)
{
    snap_resumption_confirm(opaque);
}

/* Whether a load that is resumed may be the one that broke off. */
static bool coroutine_fn open_resumption(SnapPostcopy *pc, Error **errp)
{
    const SnapPostcopyOptions *options = pc->options;

    if (!options->load_records) {
        return true;
    }
    pc->resumption = snap_resumption_new(options->load_records, pc->transport,
                                         &pc->sender->image->header.uuid);
    pc->confirm_timer = aio_timer_new(qemu_get_aio_context(),
                                      QEMU_CLOCK_REALTIME, SCALE_NS,
                                      confirm_resumption, pc->resumption);
    return !options->resume ||
           snap_resumption_check(pc->resumption, &options->resumed, errp);
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
static void make_pusher(SnapPostcopy *pc)
{
    SnapImage *image = pc->sender->image;
    const SnapPusherOptions *options = &pc->options->push;
    SnapPusherParts parts;

    pc->demand = snap_demand_new(image, &pc->map, postcopy_stats(pc),
                                 postcopy_page_is_ready, pc);
    pc->plan = snap_push_plan_new(image, &pc->map, options->reasons);
    parts = (SnapPusherParts) {
        .sender = pc->sender,
        .preempt = pc->preempt.writer ? &pc->preempt : NULL,
        .transport = pc->transport,
        .map = &pc->map,
        .demand = pc->demand,
        .plan = pc->plan,
        .progress = pc->progress,
    };
    pc->pusher = snap_pusher_new(&parts, options);
}

SnapPostcopy *coroutine_fn
snap_postcopy_new(SnapSender *sender, SnapTransport *transport,
                  const SnapPostcopyOptions *options, SnapProgress *progress,
                  Error **errp)
{
    SnapPostcopy *pc = g_new(SnapPostcopy, 1);
    const SnapRAMBlocks *ram = &sender->image->ram;
    SnapInput *input = snap_transport_input(transport);

    *pc = (SnapPostcopy) {
        .sender = sender,
        .transport = transport,
        .options = options,
        .progress = progress,
        .preempt = { .image = sender->image, .stats = sender->stats },
        .awaited_bitmap = -1,
        .tasks = snap_task_group_new(NULL, NULL),
    };
    postcopy_stats(pc)->active = true;
    if (!input) {
        error_setg(errp, "Postcopy needs a return path, and nothing can be "
                   "read from the destination");
    } else if (snap_host_pages_init(&pc->host_pages, ram,
                                    options->host_pages, errp) &&
               snap_page_map_init(&pc->map, ram, &pc->host_pages, errp) &&
               (!options->preempt || open_preempt(pc, errp)) &&
               open_resumption(pc, errp)) {
        pc->rp = snap_return_path_new(input, ram, &pc->host_pages);
        make_pusher(pc);
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
    snap_page_map_destroy(&pc->map);
    snap_host_pages_destroy(&pc->host_pages);
    snap_return_path_free(pc->rp);
    snap_stream_writer_free(pc->preempt.writer);
    timer_free(pc->confirm_timer);
    snap_resumption_free(pc->resumption);
    if (pc->working_set) {
        g_array_unref(pc->working_set);
    }
    if (pc->record) {
        g_array_unref(pc->record);
    }
    snap_task_group_free(pc->tasks);
    g_free(pc);
}

bool snap_postcopy_guest_runs(const SnapPostcopy *pc)
{
    return pc->resumed || pc->pong[PING_RUN];
}

bool snap_postcopy_is_idle(const SnapPostcopy *pc)
{
    return !snap_task_group_nb_running(pc->tasks) &&
           snap_pusher_is_idle(pc->pusher) && snap_demand_is_quiet(pc->demand);
}

/* Whether @ret says only that the other end has gone. */
static bool is_disconnect(int ret)
{
    return ret == -EPIPE || ret == -ECONNABORTED || ret == -ECONNRESET;
}

/*
 * That the other end has gone is no error of a coroutine's own: another one may
 * know why, see collect_result().
 */
static int note_disconnect(SnapPostcopy *pc, int ret, Error *err, Error **errp)
{
    if (is_disconnect(ret)) {
        pc->disconnected = true;
        error_free(err);
        return 0;
    }
    error_propagate(errp, err);
    return ret;
}

/* --- the return path --- */

static void wake(SnapPostcopy *pc)
{
    qemu_co_sleep_wake(&pc->work_sleep);
    qemu_co_sleep_wake(&pc->run_sleep);
}

static void confirm_later(SnapPostcopy *pc)
{
    if (pc->resumption) {
        timer_mod(pc->confirm_timer,
                  qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + CONFIRM_NS);
    }
}

static void handle_pong(SnapPostcopy *pc, uint32_t value)
{
    if (value > PING_RUN || pc->pong[value]) {
        return;
    }
    pc->pong[value] = true;
    if (value == PING_RUN) {
        postcopy_stats(pc)->run_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
        confirm_later(pc);
    }
}

static int handle_bitmap(SnapPostcopy *pc, SnapReturnEvent *event,
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

static int handle_resume_ack(SnapPostcopy *pc, uint32_t value, Error **errp)
{
    if (!pc->awaits_resumption) {
        error_setg(errp, "Unexpected RESUME_ACK (%" PRIu32 ")", value);
        return -EINVAL;
    }
    if (value != RESUME_ACK) {
        error_setg(errp, "The destination cannot resume (RESUME_ACK %" PRIu32
                   ")", value);
        return -EINVAL;
    }
    pc->awaits_resumption = false;
    pc->resumed = true;
    return 0;
}

static void note_late_request(SnapPostcopy *pc, const SnapReturnEvent *event)
{
    uint64_t nb_pages = event->length / snap_host_pages_size(&pc->host_pages,
                                                             event->block);

    postcopy_stats(pc)->requests += nb_pages;
    postcopy_stats(pc)->already_sent += nb_pages;
}

static int coroutine_fn handle_event(SnapPostcopy *pc, SnapReturnEvent *event,
                                     Error **errp)
{
    switch (event->type) {
    case SNAP_RP_SHUT:
        pc->shut = true;
        pc->shut_status = event->value;
        return 0;
    case SNAP_RP_PONG:
        handle_pong(pc, event->value);
        return 0;
    case SNAP_RP_REQ_PAGES:
        if (!pc->sent_end || pc->preempt.writer) {
            return snap_demand_request(pc->demand, event->block, event->offset,
                                       event->length, errp);
        }
        /* After the end, QEMU fills missing pages with zeroes. */
        note_late_request(pc, event);
        return 0;
    case SNAP_RP_RECV_BITMAP:
        return handle_bitmap(pc, event, errp);
    case SNAP_RP_RESUME_ACK:
        return handle_resume_ack(pc, event->value, errp);
    default:
        return 0;
    }
}

static int coroutine_fn read_return_path(SnapPostcopy *pc, Error **errp)
{
    unsigned nb_events = 0;
    int ret = 0;

    while (!ret && !pc->shut) {
        SnapReturnEvent event;

        ret = snap_return_path_next(pc->rp, &event, errp);
        if (ret <= 0) {
            return ret;
        }
        ret = handle_event(pc, &event, errp);
        g_free(event.bitmap);
        wake(pc);
        if (++nb_events % MAX_EVENTS_AT_ONCE == 0) {
            /* Let others work, however much more there is to read. */
            snap_task_pause();
        }
    }
    return ret;
}

static int coroutine_fn postcopy_return_path_entry(void *opaque, Error **errp)
{
    SnapPostcopy *pc = opaque;
    Error *err = NULL;
    int ret = read_return_path(pc, &err);

    pc->rp_over = true;
    /* Its end is a failure, unless it comes at the end of the load. */
    snap_pusher_stop(pc->pusher, pc->shut && pc->sent_end ? 0 : ECONNABORTED);
    wake(pc);
    return note_disconnect(pc, ret, err, errp);
}

/* Whether the destination has gone away, or has no use for anything more. */
static bool peer_left(const SnapPostcopy *pc)
{
    return pc->rp_over && !(pc->shut && pc->sent_end && !pc->shut_status);
}

/* Wait for *@condition. */
static int coroutine_fn wait_for(SnapPostcopy *pc, const bool *condition)
{
    while (!*condition) {
        if (pc->rp_over) {
            return -ECONNABORTED;
        }
        qemu_co_sleep(&pc->work_sleep);
    }
    return 0;
}

/* --- ahead of the switch --- */

/* Whether all target pages of a host page have to be sent. */
static bool sends_whole(const SnapPostcopy *pc, const SnapRAMPiece *piece)
{
    return snap_host_pages_targets(&pc->host_pages, piece->block) > 1;
}

/*
 * Mark the pages of a piece as sent: they must not be sent again.
 *
 * Returns: how many have data
 */
static unsigned note_precopied(SnapPostcopy *pc, const SnapRAMPiece *piece)
{
    const SnapRAMBlocks *ram = pc->map.ram;
    uint64_t first = snap_ram_page(ram, &ram->blocks[piece->block],
                                   piece->offset);
    bool whole = sends_whole(pc, piece);
    unsigned nb_stored = 0;

    for (unsigned i = 0; i < piece->nb_pages; i++) {
        if (whole || piece->entries[i] != SNAP_PAGE_UNSENT) {
            snap_page_map_send(&pc->map, first + i, 1);
        }
        nb_stored += snap_page_is_stored(piece->entries[i]);
    }
    return nb_stored;
}

/* Whether a piece is worth sending: it has data, or its host page may have. */
static bool is_wanted(const SnapPostcopy *pc, const SnapRAMPiece *piece)
{
    return piece->data || snap_host_pages_size(&pc->host_pages, piece->block) >
                          PRECOPY_PIECE_SIZE;
}

/* Whether the next piece begins a host page. */
static bool ends_host_page(const SnapPostcopy *pc, const SnapRAMPiece *piece)
{
    uint64_t end = piece->offset +
                   ((uint64_t)piece->nb_pages << pc->map.ram->page_bits);

    return !(end & (snap_host_pages_size(&pc->host_pages, piece->block) - 1));
}

static uint64_t precopy_goal(const SnapPostcopy *pc)
{
    uint64_t stored = snap_image_stored_pages(pc->sender->image);

    /* Not stored * percent: page counts of an image may be large. */
    return stored / 100 * pc->options->percent +
           DIV_ROUND_UP(stored % 100 * pc->options->percent, 100);
}

static int coroutine_fn send_precopy_pieces(SnapPostcopy *pc,
                                            SnapRAMReader *reader,
                                            Error **errp)
{
    const SnapStats *stats = pc->sender->stats;
    uint64_t goal = precopy_goal(pc);
    uint64_t nb_stored = 0;
    bool ended = true;
    SnapRAMPiece piece;
    int ret = 0;

    while (!pc->rp_over && (nb_stored < goal || !ended) &&
           (ret = snap_ram_reader_next(reader, &piece, errp)) > 0) {
        ended = ends_host_page(pc, &piece);
        if (!is_wanted(pc, &piece)) {
            continue;
        }
        nb_stored += note_precopied(pc, &piece);
        ret = snap_send_piece(pc->sender, &piece, sends_whole(pc, &piece),
                              errp);
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

static int coroutine_fn send_precopy(SnapPostcopy *pc, Error **errp)
{
    g_autoptr(SnapRAMReader) reader = NULL;
    int ret;

    if (!pc->options->percent) {
        return 0;
    }
    reader = snap_ram_reader_new(pc->sender->image, PRECOPY_PIECE_SIZE, NULL,
                                 NULL);
    ret = send_precopy_pieces(pc, reader, errp);
    snap_ram_reader_abort(reader);
    return ret;
}

/* --- the switch --- */

/* Discard what was not sent of a block. Returns: how many ranges */
static uint64_t coroutine_fn discard_block(SnapPostcopy *pc, int block)
{
    g_autofree SnapStreamRange *ranges = g_new(SnapStreamRange,
                                               SNAP_MAX_DISCARD_RANGES);
    uint64_t offset = 0;
    uint64_t length;
    uint64_t total = 0;
    unsigned nb = 0;

    while (offset < pc->map.ram->blocks[block].length &&
           snap_page_map_next_unsent(&pc->map, block, &offset, &length)) {
        ranges[nb++] = (SnapStreamRange) { offset, length };
        offset += length;
        total++;
        if (nb == SNAP_MAX_DISCARD_RANGES) {
            snap_stream_put_discard(pc->sender->writer, block, ranges, nb);
            nb = 0;
        }
    }
    if (nb) {
        snap_stream_put_discard(pc->sender->writer, block, ranges, nb);
    }
    return total;
}

/*
 * The destination's memory may hold something for pages not sent: stale data,
 * or zeroes of transparent huge pages, which no page could be placed
 * over.  QEMU also needs one such command at least
 * (migration/postcopy-ram.c:postcopy_ram_prepare_discard).
 */
static int coroutine_fn send_discards(SnapPostcopy *pc, Error **errp)
{
    uint64_t total = 0;

    for (int i = 0; i < pc->map.ram->nb_blocks; i++) {
        total += discard_block(pc, i);
    }
    if (!total) {
        uint64_t nb_pages;

        snap_page_map_host_page(&pc->map, 0, &nb_pages);
        snap_page_map_forget(&pc->map, 0, nb_pages);
        total = discard_block(pc, 0);
    }
    trace_snap_postcopy_discard(total);
    return snap_stream_flush(pc->sender->writer, errp);
}

/* Device state, and what makes the guest run with it, in one package. */
static int coroutine_fn send_package(SnapPostcopy *pc, Error **errp)
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
static int coroutine_fn prepare_resumption(SnapPostcopy *pc, Error **errp)
{
    int ret = 0;

    if (pc->resumption) {
        ret = snap_stream_flush(pc->sender->writer, errp) ?:
              wait_for(pc, &pc->pong[PING_ADVISED]);
    }
    if (!ret && pc->resumption) {
        snap_resumption_prepare(pc->resumption);
    }
    return ret;
}

static int coroutine_fn start_postcopy(SnapPostcopy *pc, Error **errp)
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
    snap_stream_put_ping(writer, PING_ADVISED);
    ret = send_precopy(pc, errp);
    if (!ret) {
        ret = send_discards(pc, errp);
    }
    if (!ret) {
        ret = prepare_resumption(pc, errp);
    }
    return ret ?: send_package(pc, errp);
}

/* --- going on after a break --- */

static int coroutine_fn request_bitmap(SnapPostcopy *pc, int block,
                                       Error **errp)
{
    int ret;

    pc->awaited_bitmap = block;
    snap_stream_put_recv_bitmap(pc->sender->writer, block);
    ret = snap_stream_flush(pc->sender->writer, errp);
    while (!ret && pc->awaited_bitmap >= 0) {
        if (pc->rp_over) {
            return -ECONNABORTED;
        }
        qemu_co_sleep(&pc->work_sleep);
    }
    return ret;
}

static int coroutine_fn resume_postcopy(SnapPostcopy *pc, Error **errp)
{
    int ret = 0;

    for (int i = 0; i < pc->map.ram->nb_blocks && !ret; i++) {
        ret = request_bitmap(pc, i, errp);
    }
    if (ret < 0) {
        return ret;
    }
    pc->awaits_resumption = true;
    snap_stream_put_command(pc->sender->writer, SNAP_CMD_POSTCOPY_RESUME, NULL,
                            0);
    ret = snap_stream_flush(pc->sender->writer, errp);
    if (!ret) {
        ret = wait_for(pc, &pc->resumed);
    }
    if (!ret) {
        confirm_later(pc);
    }
    return ret;
}

/* --- working sets --- */

/* A working set is a hint: one that cannot be read is no failure. */
static void coroutine_fn read_working_set(SnapPostcopy *pc)
{
    const char *path = pc->options->working_set;
    SnapImage *image = pc->sender->image;
    Error *err = NULL;
    int ret = 0;

    if (!(pc->options->push.reasons & (1u << SNAP_PUSH_WORKING_SET))) {
        return;
    }
    if (path) {
        ret = snap_working_set_load(path, &image->header, &pc->working_set,
                                    &err);
    }
    if (!ret) {
        ret = snap_image_working_set(image, &pc->working_set, &err);
    }
    if (ret < 0) {
        warn_report_err(err);
    } else if (ret > 0) {
        snap_push_plan_set_working_set(pc->plan,
                                       (uint64_t *)pc->working_set->data,
                                       pc->working_set->len);
    }
}

static void start_record(SnapPostcopy *pc)
{
    if (pc->options->record) {
        pc->record = g_array_new(false, false, sizeof(uint64_t));
        snap_demand_record(pc->demand, pc->record, SNAP_MAX_WORKING_SET);
    }
}

/* Also of a load that was broken off: what was requested stays true. */
static int store_record(SnapPostcopy *pc, int ret, Error **errp)
{
    Error *err = NULL;

    if (!pc->record || !pc->record->len ||
        snap_working_set_store(pc->options->working_set, pc->record,
                               &pc->sender->image->header.uuid, &err)) {
        return ret;
    }
    if (ret < 0) {
        warn_report_err(err);
        return ret;
    }
    error_propagate(errp, err);
    return -EIO;
}

/* --- all of it --- */

static int coroutine_fn send_end(SnapPostcopy *pc, Error **errp)
{
    SnapStreamWriter *writer = pc->sender->writer;

    pc->sent_end = true;
    snap_stream_begin_ram(writer, true);
    snap_stream_end_ram(writer);
    snap_stream_put_eof(writer, NULL, 0);
    return snap_stream_flush(writer, errp);
}

/* End the preempt channel once there were no requests for a while. */
static int coroutine_fn end_preempt(SnapPostcopy *pc, Error **errp)
{
    int64_t start_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);

    while (!pc->shut && !pc->rp_over) {
        int64_t idle_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME) -
                          MAX(start_ns, snap_demand_last_ns(pc->demand));

        if (idle_ns >= PREEMPT_IDLE_NS) {
            snap_stream_put_end_of_records(pc->preempt.writer);
            return snap_stream_flush(pc->preempt.writer, errp);
        }
        qemu_co_sleep_ns_wakeable(&pc->work_sleep, QEMU_CLOCK_REALTIME,
                                  PREEMPT_IDLE_NS - idle_ns);
    }
    return 0;
}

/* The destination has everything, and confirms it once it is processed. */
static int coroutine_fn wait_for_end(SnapPostcopy *pc, Error **errp)
{
    int ret = pc->preempt.writer ? end_preempt(pc, errp) : 0;

    return ret ?: wait_for(pc, &pc->shut);
}

static int coroutine_fn work(SnapPostcopy *pc, Error **errp)
{
    int ret;

    start_record(pc);
    ret = pc->options->resume ? resume_postcopy(pc, errp) :
                                start_postcopy(pc, errp);
    if (ret < 0) {
        return ret;
    }
    trace_snap_postcopy_switched(pc->options->resume);
    read_working_set(pc);
    ret = snap_pusher_run(pc->pusher, errp);
    if (!ret) {
        ret = send_end(pc, errp);
    }
    return ret ?: wait_for_end(pc, errp);
}

static int coroutine_fn postcopy_work_entry(void *opaque, Error **errp)
{
    SnapPostcopy *pc = opaque;
    Error *err = NULL;
    int ret = work(pc, &err);

    pc->work_over = true;
    wake(pc);
    return note_disconnect(pc, ret, err, errp);
}

/* Say what went wrong, in terms of what the user can do about it. */
static void explain(const SnapPostcopy *pc, Error **errp)
{
    if (pc->options->resume && !pc->resumed) {
        error_setg(errp, "The destination closed the channel: it has to be in "
                   "the state postcopy-paused, with migrate-recover");
    } else if (pc->options->resume || pc->pong[PING_RUN]) {
        error_setg(errp, "The destination closed the channel before all of RAM "
                   "was loaded");
    } else if (pc->pong[PING_ADVISED]) {
        error_setg(errp, "The destination has failed to load the devices, "
                   "which have to be those of the snapshot; its own log says "
                   "why");
    } else if (pc->pong[PING_AGREED]) {
        error_setg(errp, "The destination refuses the snapshot's RAM: names "
                   "and sizes of its RAM blocks have to be those that "
                   "'qemu-snap info' shows, and its host pages what "
                   "--host-page-size says; its own log says more");
    } else if (pc->pong[PING_BEFORE]) {
        error_setg(errp, "The destination refuses postcopy: its capability "
                   "postcopy-ram has to be on, it has to be allowed to use "
                   "userfaultfd, and its host pages have to be what "
                   "--host-page-size says; its own log says more");
    } else {
        error_setg(errp, "The destination has failed before it answered: it "
                   "has to be a QEMU that waits for a migration, with the "
                   "machine type that 'qemu-snap info' shows; its own log says "
                   "more");
    }
}

static int collect_result(SnapPostcopy *pc, Error **errp)
{
    int ret = snap_task_group_status(pc->tasks, errp);

    if (ret < 0) {
        return ret;
    }
    if (pc->shut && pc->shut_status && pc->pong[PING_RUN]) {
        error_setg(errp, "The destination has failed to load (status %" PRIu32
                   "); its own log says why", pc->shut_status);
        return -EIO;
    }
    if (pc->disconnected || !pc->work_over || pc->shut_status) {
        explain(pc, errp);
        return -ECONNABORTED;
    }
    return 0;
}

int coroutine_fn snap_postcopy_run(SnapPostcopy *pc, Error **errp)
{
    int ret;

    snap_task_group_start(pc->tasks, "return path", postcopy_return_path_entry,
                          pc);
    snap_task_group_start(pc->tasks, "sender", postcopy_work_entry, pc);
    /*
     * The sender may be stuck in a channel that nobody reads: do not wait for
     * it if the destination has gone.
     */
    while (!pc->work_over && !peer_left(pc)) {
        qemu_co_sleep(&pc->run_sleep);
    }
    if (pc->resumption) {
        timer_del(pc->confirm_timer);
    }
    if (pc->disconnected && pc->work_over) {
        /* What a destination said before it left tells why. */
        snap_task_group_wait_until(pc->tasks, DRAIN_NS +
                                   qemu_clock_get_ns(QEMU_CLOCK_REALTIME));
    }
    trace_snap_postcopy_over(snap_task_group_nb_running(pc->tasks),
                             snap_task_group_status(pc->tasks, NULL), pc->shut);
    ret = collect_result(pc, errp);
    if (!ret) {
        postcopy_stats(pc)->complete_ns =
            qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
        if (pc->resumption) {
            snap_resumption_end(pc->resumption);
        }
    }
    return store_record(pc, ret, errp);
}
