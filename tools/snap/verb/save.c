/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Saving: from a migration stream to a snapshot image
 *
 * Theory of operation
 *
 * The source must not believe in a snapshot that failed, and learns of one in
 * one of two ways.  A source that opened the return path waits for an answer:
 * the stream is read to its end, the image is committed, and the answer is
 * sent.  Any other one, as over exec:, is done when its last byte is in the
 * pipe.  It is told of a failure by a write that fails, so it must still have
 * something to write when that happens: at two points the reading stops, and
 * the source with it, as the pipe holds less than what is to come
 * (backpressure).
 *
 *   point    event                          what must be safe before it goes on
 *   RAM      RAM_EOS when no page is        pages and tables: flushed
 *            missing, else DEVICES
 *   commit   DEVICE_END                     all but the description: flushed,
 *                                           with its header, under its name
 *
 * The end of the device state shows only in what follows it, so DEVICE_END may
 * be wrong.  Then DEVICE_RESUMED comes next, and the commit is taken back.  As
 * a guest could fill its devices with what looks like an end, after
 * MAX_RESUMED of these only END commits.
 *
 *   state        event           what is done               next state
 *   STREAMING    pages, devices  written                    STREAMING
 *                DEVICE_END      commit                     COMMITTING
 *                END             commit, description        COMMITTING, OVER
 *   COMMITTING   (storage)       header, name               COMMITTED
 *   COMMITTED    DEVICE_RESUMED  the old file gets its name COMMITTING,
 *                                back; header removed       STREAMING
 *                END             the description is written OVER
 *   OVER         -               answer, confirm
 *   any          an error        abort, answer, abandon
 *
 * Who waits for whom: the source for its pipe or the answer, the coroutine for
 * the channels or storage, and the main loop for the coroutine.  So a signal
 * depends on the state:
 *
 *   STREAMING    cancels the channels, and the coroutine returns when storage
 *                has completed what is in flight; that has GRACE_NS
 *   COMMITTING   the save fails when storage has answered, however long it
 *                takes: half a commit is neither one thing nor the other
 *   COMMITTED    the source may have sent its last byte, and then it has
 *                completed, and so must the save: it is read on as long as
 *                there is no silence of LAST_SILENCE_MS, and fails if that was
 *                not the end
 *   OVER         is too late
 *   second one   does not wait for storage: the coroutine is left
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "qobject/qdict.h"
#include "qemu-version.h"
#include "snap/channel/backpressure.h"
#include "snap/image/builder.h"
#include "snap/stream/reader.h"
#include "snap/stream/return-path.h"
#include "snap/trace.h"
#include "snap/transfer/multifd-receiver.h"
#include "snap/util/progress.h"
#include "snap/util/task.h"
#include "snap/verb/save.h"

/* Ends of the device state that may turn out to be none. */
#define MAX_RESUMED 8

/* Silence of a source that may have sent its last byte, in milliseconds */
#define LAST_SILENCE_MS 500

/* For a source that has completed to close the channels of multifd */
#define CLOSE_NS NANOSECONDS_PER_SECOND

/* How long storage may take after a signal */
#define GRACE_NS (10 * NANOSECONDS_PER_SECOND)

/* How often to look whether a source that is silent has given up */
#define GIVEN_UP_NS (1 * NANOSECONDS_PER_SECOND)

/* Events until the main loop gets its turn, with signals and completions. */
#define EVENTS_AT_A_TIME 256

/* How far the save is; see above. */
typedef enum SaveState {
    SAVE_STREAMING,
    SAVE_COMMITTING,
    SAVE_COMMITTED,
    SAVE_OVER,
} SaveState;

/* What a signal has asked for */
typedef enum SaveInterrupt {
    SAVE_GO_ON,
    SAVE_FINISH,            /* to end, if that is still a success */
    SAVE_STOP,              /* to fail */
} SaveInterrupt;

struct SnapSave {
    /* Fields initialised in snap_save_new() and never changed */
    SnapSaveOptions options;
    SnapImageBuilder *builder;
    SnapTransport *transport;
    SnapTask *task;

    /* Set from the main loop */
    SaveInterrupt interrupt;

    /* A source that waits for an answer, and sends nothing: the main loop's */
    QEMUTimer *timer;
    unsigned nb_events_before;
    bool given_up;

    /* Made when the stream has told the size of RAM, and not changed again */
    SnapStreamReader *reader;
    SnapRAMWriter *ram;             /* of @builder */
    SnapMultifdReceiver *multifd;   /* NULL if there is one channel */

    /* How far the stream is: the coroutine's */
    SaveState state;
    SnapBackpressure backpressure;
    unsigned nb_events;
    unsigned nb_resumed;    /* ends of the device state that were none */
    bool return_path;
    bool ram_end;           /* RAM ends with a section of its own */
    bool flushed_early;     /* RAM was flushed when every page was there */
    uint64_t device_bytes;
    SnapProgress progress;
};

static void save_cancel(void *opaque)
{
    SnapSave *s = opaque;

    snap_transport_cancel(s->transport);
}

SnapSave *snap_save_new(const SnapSaveOptions *options, SnapTarget *target,
                        SnapTransport *transport)
{
    SnapSave *s = g_new0(SnapSave, 1);

    s->options = *options;
    s->builder = snap_image_builder_new(target);
    s->transport = transport;
    s->task = snap_task_new(save_cancel, s);
    s->progress.enabled = options->progress;
    return s;
}

/* Nothing is in flight. */
static void save_destroy(void *opaque)
{
    SnapSave *s = opaque;

    timer_free(s->timer);
    snap_multifd_receiver_free(s->multifd);
    snap_image_builder_free(s->builder);
    snap_stream_reader_free(s->reader);
    snap_transport_close(s->transport);
    g_free(s);
}

void snap_save_free(SnapSave *s)
{
    if (s) {
        snap_task_free(s->task, save_destroy, s);
    }
}

void snap_save_interrupt(SnapSave *s)
{
    if (s->interrupt != SAVE_GO_ON) {
        s->interrupt = SAVE_STOP;
        snap_task_cancel(s->task, 0);
        return;
    }
    switch (s->state) {
    case SAVE_STREAMING:
        s->interrupt = SAVE_STOP;
        snap_task_cancel(s->task, GRACE_NS);
        break;
    case SAVE_COMMITTED:
        s->interrupt = SAVE_FINISH;
        snap_input_hurry(snap_transport_input(s->transport), LAST_SILENCE_MS);
        break;
    case SAVE_COMMITTING:
    case SAVE_OVER:
        s->interrupt = SAVE_STOP;
        break;
    }
}

/* Before each wait for the source. Returns: 0 or -errno with @errp set */
static int save_check_interrupt(const SnapSave *s, Error **errp)
{
    if (s->interrupt == SAVE_STOP) {
        error_setg(errp, "Interrupted");
        return -EINTR;
    }
    return 0;
}

/* --- answers to the source --- */

/*
 * When a migration is cancelled or fails, QEMU 10.0 and 11.1 wait with the main
 * thread for the end of the return path (migration/migration.c:
 * close_return_path_on_source), and with the guest for the main thread.  It
 * can shut down a socket, but not a pipe.
 */
static void save_look_for_source(void *opaque)
{
    SnapSave *s = opaque;

    if (s->nb_events == s->nb_events_before &&
        snap_transport_peer_waits(s->transport)) {
        s->given_up = true;
        snap_input_hurry(snap_transport_input(s->transport), 0);
        return;
    }
    s->nb_events_before = s->nb_events;
    timer_mod(s->timer, qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + GIVEN_UP_NS);
}

static int coroutine_fn save_open_return_path(SnapSave *s, Error **errp)
{
    if (!snap_transport_output(s->transport)) {
        error_setg(errp, "The source wants an answer, but %s has no way back",
                   snap_transport_name(s->transport));
        return -ENOTSUP;
    }
    s->return_path = true;
    if (!s->timer) {
        s->timer = aio_timer_new(qemu_get_aio_context(), QEMU_CLOCK_REALTIME,
                                 SCALE_NS, save_look_for_source, s);
        save_look_for_source(s);
    }
    return 0;
}

static int save_answer_result(int ret, Error **errp)
{
    trace_snap_save_answer(ret);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not answer the source");
    }
    return ret;
}

static int coroutine_fn save_pong(SnapSave *s, uint32_t value, Error **errp)
{
    int ret;

    if (!s->return_path) {
        error_setg(errp, "The source wants an answer, but has not opened the "
                   "return path");
        return -EINVAL;
    }
    ret = snap_return_path_pong(snap_transport_output(s->transport), value);
    return save_answer_result(ret, errp);
}

/* Tell a source that waits for it how it went. */
static int coroutine_fn save_shut(void *opaque, Error **errp)
{
    SnapSave *s = opaque;
    int ret = snap_return_path_shut(snap_transport_output(s->transport),
                                    s->state == SAVE_OVER ? 0 : 1);

    return save_answer_result(ret, errp);
}

/* --- RAM --- */

/*
 * The pages that are missing tell how near the end of RAM is, unless pages come
 * again, as in a live precopy, or never come, as those that virtio-mem has
 * unplugged.  That one sends a section ahead of RAM's pages; others that do so
 * are mistaken for it, which costs speed only.
 */
static void save_apply_backpressure(SnapSave *s, uint64_t missing)
{
    size_t before_ram;

    if (!s->backpressure.unpredictable &&
        (snap_ram_writer_repeated(s->ram) ||
         snap_stream_setup(s->reader, &before_ram)->len)) {
        snap_backpressure_end_unpredictable(&s->backpressure);
        if (s->ram_end) {
            snap_backpressure_ram_end(&s->backpressure);
        }
    } else {
        snap_backpressure_update(&s->backpressure, missing);
    }
}

static void save_show_progress(SnapSave *s)
{
    uint64_t nb_pages = snap_stream_ram(s->reader)->nb_pages;

    snap_progress_show(&s->progress, nb_pages - snap_ram_writer_missing(s->ram),
                       nb_pages);
}

/* Read pages with data from @page on to where they belong. */
static int coroutine_fn save_read_pages(SnapSave *s, uint64_t page,
                                        Error **errp)
{
    /* Other channels may place pages as well. */
    unsigned nb_pages = s->multifd ? 1 : UINT_MAX;
    void *buf = snap_ram_writer_reserve(s->ram, page, &nb_pages);
    int ret = snap_stream_read_pages(s->reader, buf, &nb_pages, errp);

    if (ret < 0) {
        snap_ram_writer_cancel(s->ram, page);
        return ret;
    }
    return snap_ram_writer_commit(s->ram, page, nb_pages, errp);
}

static int coroutine_fn save_pages(SnapSave *s, const SnapEvent *event,
                                   Error **errp)
{
    uint64_t page = event->page;
    int ret = event->type == SNAP_EVENT_ZERO_PAGE ?
              snap_ram_writer_add_zero(s->ram, page, errp) :
              save_read_pages(s, page, errp);

    if (ret < 0) {
        return ret;
    }
    if (!s->return_path) {
        save_apply_backpressure(s, snap_ram_writer_missing(s->ram));
    }
    save_show_progress(s);
    return 0;
}

static int save_channels_missing(Error **errp)
{
    error_setg(errp, "The source uses multifd, but its channels have not come: "
               "they need a socket, --uri=unix:PATH");
    return -EINVAL;
}

/* Pages may come over other channels: what follows must come after them. */
static int coroutine_fn save_multifd_sync(SnapSave *s, Error **errp)
{
    int ret;

    if (!s->multifd) {
        return save_channels_missing(errp);
    }
    save_show_progress(s);
    ret = save_check_interrupt(s, errp);
    return ret < 0 ? ret : snap_multifd_receiver_sync(s->multifd, errp);
}

/*
 * A background snapshot sends every page once, so that RAM is complete when
 * the last one is there.  In other streams this costs one early flush.
 */
static int coroutine_fn save_ram_section_end(SnapSave *s, Error **errp)
{
    if (s->multifd) {
        return snap_stream_multifd_flush(s->reader) ?
               0 : save_multifd_sync(s, errp);
    }
    if (s->flushed_early || s->return_path ||
        snap_ram_writer_missing(s->ram)) {
        return 0;
    }
    s->flushed_early = true;
    return snap_image_builder_flush_ram(s->builder, errp);
}

/* --- device state and the end --- */

static int coroutine_fn save_commit(SnapSave *s, size_t vmdesc_length,
                                    Error **errp)
{
    g_autoptr(QDict) metadata = qdict_new();
    SnapCommitInfo info = {
        .configuration = snap_stream_configuration(s->reader),
        .metadata = metadata,
        .flags = s->ram_end ? SNAP_FLAG_RAM_END : 0,
        .vmdesc_length = vmdesc_length,
    };
    int ret = s->multifd ? snap_multifd_receiver_status(s->multifd, errp) : 0;

    if (ret < 0) {
        return ret;
    }
    info.setup = snap_stream_setup(s->reader, &info.before_ram);
    qdict_put_str(metadata, "creator", "qemu-snap " QEMU_FULL_VERSION);
    s->state = SAVE_COMMITTING;
    ret = snap_image_builder_commit(s->builder, &info, errp);
    if (ret < 0) {
        return ret;
    }
    s->state = SAVE_COMMITTED;
    return 0;
}

/* What was committed does not count any more. */
static int coroutine_fn save_uncommit(SnapSave *s, Error **errp)
{
    int ret;

    s->nb_resumed++;
    if (s->interrupt == SAVE_FINISH) {
        s->interrupt = SAVE_STOP;
    }
    if (s->state == SAVE_STREAMING) {
        return 0;
    }
    s->state = SAVE_COMMITTING;
    ret = snap_image_builder_rollback(s->builder, errp);
    if (ret < 0) {
        return ret;
    }
    s->state = SAVE_STREAMING;
    return 0;
}

/* Hold the source back until what has come is safe: one of the two points. */
static int coroutine_fn save_sync_point(SnapSave *s, const SnapEvent *event,
                                        Error **errp)
{
    if (s->multifd && event->type == SNAP_EVENT_DEVICES) {
        int ret = snap_multifd_receiver_pages_end(s->multifd, errp);

        if (ret < 0) {
            return ret;
        }
    }
    if (s->return_path || s->nb_resumed >= MAX_RESUMED) {
        return 0;
    }
    return event->type == SNAP_EVENT_DEVICES ?
           snap_image_builder_flush_ram(s->builder, errp) :
           save_commit(s, event->length, errp);
}

static void coroutine_fn save_description(SnapSave *s, const SnapEvent *event)
{
    Error *err = NULL;

    if (event->length &&
        snap_image_builder_vmdesc(s->builder, event->data, event->length,
                                  &err) < 0) {
        /* Not needed to load; only scripts/analyze-migration.py uses it. */
        warn_reportf_err(err, "The description of the devices is lost: ");
    }
}

static int coroutine_fn save_end(SnapSave *s, const SnapEvent *event,
                                 Error **errp)
{
    if (s->state == SAVE_STREAMING) {
        int ret = save_commit(s, event->length, errp);

        if (ret < 0) {
            return ret;
        }
    }
    save_description(s, event);
    s->state = SAVE_OVER;
    return 0;
}

/* --- the stream --- */

static int coroutine_fn save_handle(SnapSave *s, const SnapEvent *event,
                                    Error **errp)
{
    switch (event->type) {
    case SNAP_EVENT_PAGE:
    case SNAP_EVENT_ZERO_PAGE:
        return save_pages(s, event, errp);
    case SNAP_EVENT_RAM_FINAL:
        s->ram_end = true;
        if (!s->return_path) {
            snap_backpressure_ram_end(&s->backpressure);
        }
        return 0;
    case SNAP_EVENT_MULTIFD_FLUSH:
        return save_multifd_sync(s, errp);
    case SNAP_EVENT_RAM_EOS:
        return save_ram_section_end(s, errp);
    case SNAP_EVENT_OPEN_RETURN_PATH:
        return save_open_return_path(s, errp);
    case SNAP_EVENT_PING:
        return save_pong(s, event->value, errp);
    case SNAP_EVENT_DEVICES:
    case SNAP_EVENT_DEVICE_END:
        return save_sync_point(s, event, errp);
    case SNAP_EVENT_DEVICE_DATA:
        s->device_bytes += event->length;
        return snap_image_builder_devices(s->builder, event->data,
                                          event->length, errp);
    case SNAP_EVENT_DEVICE_RESUMED:
        return save_uncommit(s, errp);
    case SNAP_EVENT_END:
        return save_end(s, event, errp);
    case SNAP_EVENT_RAM_SETUP:
        return 0;
    case SNAP_EVENT_NONE:
        break;
    }
    g_assert_not_reached();
}

static int coroutine_fn save_next_event(SnapSave *s, SnapEvent *event,
                                        Error **errp)
{
    Error *err = NULL;
    int ret = snap_stream_next(s->reader, event, &err);

    /* A channel that fails ends the main one, and knows better why. */
    if (ret < 0 && s->multifd &&
        snap_multifd_receiver_status(s->multifd, errp) < 0) {
        error_free(err);
        return ret;
    }
    error_propagate(errp, err);
    return ret;
}

static int coroutine_fn save_read_event(SnapSave *s, SnapEvent *event,
                                        Error **errp)
{
    int ret;

    if (s->nb_events++ % EVENTS_AT_A_TIME == 0) {
        snap_co_pause();
    }
    ret = save_check_interrupt(s, errp);
    if (ret < 0) {
        return ret;
    }
    ret = save_next_event(s, event, errp);
    return ret < 0 ? ret : save_handle(s, event, errp);
}

/* Read as far as the size of RAM. */
static int coroutine_fn save_read_setup(void *opaque, Error **errp)
{
    SnapSave *s = opaque;
    SnapEvent event;
    int ret;

    do {
        ret = save_read_event(s, &event, errp);
    } while (!ret && event.type != SNAP_EVENT_RAM_SETUP);
    return ret;
}

static int coroutine_fn save_stream(SnapSave *s, Error **errp)
{
    SnapEvent event;
    int ret = save_check_interrupt(s, errp);

    if (ret < 0) {
        return ret;
    }
    ret = snap_image_builder_start(s->builder, errp);
    if (ret < 0) {
        return ret;
    }
    if (s->multifd) {
        snap_multifd_receiver_start(s->multifd);
        /* The end of RAM's START section is a point, too. */
        ret = save_multifd_sync(s, errp);
    }
    while (!ret && s->state != SAVE_OVER) {
        ret = save_read_event(s, &event, errp);
    }
    return ret;
}

static int coroutine_fn save_read_rest(void *opaque, Error **errp)
{
    SnapSave *s = opaque;
    int ret = save_stream(s, errp);

    if (ret < 0) {
        if (s->multifd) {
            snap_multifd_receiver_end(s->multifd, 0);
        }
        snap_image_builder_drain(s->builder);
    }
    return ret;
}

/* A source that has completed may still send packets without pages. */
static int coroutine_fn save_close_channels(void *opaque, Error **errp)
{
    SnapSave *s = opaque;

    snap_multifd_receiver_end(s->multifd, s->state == SAVE_OVER ? CLOSE_NS : 0);
    return 0;
}

/* A save that failed leaves nothing that could be taken for a snapshot. */
static void save_abandon(SnapSave *s, Error **errp)
{
    if (snap_image_builder_abandon(s->builder,
                                   snap_task_is_left(s->task)) < 0) {
        error_prepend(errp, "The image must not be used: ");
    }
}

/* Make everything that needs the size of RAM. */
static int save_create_image(SnapSave *s, Error **errp)
{
    GPtrArray *channels = snap_transport_accept_channels(s->transport, errp);
    const SnapRAMBlocks *blocks = snap_stream_ram(s->reader);
    uint64_t ram = blocks->nb_pages << blocks->page_bits;
    int ret;

    if (!channels) {
        return -EIO;
    }
    if (snap_stream_multifd_flush(s->reader) && !channels->len) {
        return save_channels_missing(errp);
    }
    if (s->options.max_ram && ram > s->options.max_ram) {
        error_setg(errp, "The guest has %" PRIu64 " bytes of RAM, more than "
                   "the image size of %" PRIu64 " bytes that was given", ram,
                   s->options.max_ram);
        return -ENOSPC;
    }
    ret = snap_image_builder_create(s->builder, blocks,
                                    snap_stream_ram_section(s->reader),
                                    !channels->len, errp);
    if (ret < 0) {
        return ret;
    }
    s->ram = snap_image_builder_ram(s->builder);
    if (channels->len) {
        s->multifd = snap_multifd_receiver_new(s->transport, channels, blocks,
                                               s->ram);
    }
    return 0;
}

static void save_fill_stats(SnapSave *s, SnapStats *stats)
{
    const SnapRAMBlocks *ram = snap_stream_ram(s->reader);
    g_autofree SnapPageCounts *counts = snap_ram_writer_counts(s->ram);

    *stats = (SnapStats) {
        .uuid = *snap_image_builder_uuid(s->builder),
        .ram_bytes = ram->nb_pages << ram->page_bits,
        .device_bytes = s->device_bytes,
    };
    for (unsigned i = 0; i < ram->nb_blocks; i++) {
        stats->stored_pages += counts[i].stored;
        stats->zero_pages += counts[i].zero;
    }
}

/*
 * A program between QEMU and this one takes all that QEMU sends, however the
 * save ends; only an answer gets past it.  Whoever has started us is QEMU, or
 * knows how we end.
 */
static void save_warn_of_pipeline(SnapSave *s)
{
    g_autofree char *name = NULL;
    SnapPeer peer;

    if (s->options.quiet || s->return_path ||
        !snap_transport_input_size(s->transport) ||
        !snap_transport_find_peer(s->transport, false, &peer, NULL) ||
        peer.ancestor) {
        return;
    }
    name = snap_peer_name(&peer);
    warn_report("The stream comes through '%s': without 'return-path', QEMU "
                "takes a save that fails at its end for completed", name);
}

static int save_run(SnapSave *s, Error **errp)
{
    SnapInput *input = snap_transport_input(s->transport);
    int ret;

    if (!input) {
        error_setg(errp, "Nothing can be read from %s",
                   snap_transport_name(s->transport));
        return -EINVAL;
    }
    snap_backpressure_init(&s->backpressure, s->transport);
    s->reader = snap_stream_reader_new(input, s->options.page_bits);
    ret = snap_task_run(save_read_setup, s, s->task, errp);
    if (ret < 0) {
        return ret;
    }
    save_warn_of_pipeline(s);
    ret = save_create_image(s, errp);
    if (ret < 0) {
        return ret;
    }
    return snap_task_run(save_read_rest, s, s->task, errp);
}

/* Whatever happened, tell those who wait. Returns: @ret, or a new failure */
static int save_tell(SnapSave *s, int ret, Error **errp)
{
    if (s->return_path && ret != -EINTR && ret != -ETIMEDOUT) {
        int answered = snap_task_run(save_shut, s, s->task,
                                     ret < 0 ? NULL : errp);

        ret = ret < 0 ? ret : answered;
    }
    if (s->multifd && ret != -ETIMEDOUT) {
        snap_task_run(save_close_channels, s, NULL, NULL);
    }
    return ret;
}

int snap_save_run(SnapSave *s, SnapStats *stats, Error **errp)
{
    ERRP_GUARD();
    int ret;

    GLOBAL_STATE_CODE();
    assert(!qemu_in_coroutine());
    ret = save_run(s, errp);
    g_clear_pointer(&s->timer, timer_free);
    if (ret < 0 && s->given_up) {
        g_clear_pointer(errp, error_free);
        error_setg(errp, "The source has given up: its migration was "
                   "cancelled, or has failed");
    }
    snap_progress_end(&s->progress);
    ret = save_tell(s, ret, errp);
    if (ret < 0) {
        save_abandon(s, errp);
        return ret;
    }
    snap_image_builder_confirm(s->builder);
    save_fill_stats(s, stats);
    return 0;
}
