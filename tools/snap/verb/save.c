/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Saving: from a migration stream to a snapshot image
 *
 * The source must not be able to believe in a snapshot that failed.  Over
 * exec: it asks nobody: it is done when its last byte is in the pipe.  So the
 * reading stops, while the source still has bytes to write, until RAM is on
 * stable storage, and again until the image is committed; where one of them
 * fails the process ends, and the source's write with it.  A source that
 * opened the return path waits for an answer instead.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "qemu-version.h"
#include "qobject/qdict.h"
#include "snap/image/builder.h"
#include "snap/transfer/multifd-receiver.h"
#include "snap/channel/backpressure.h"
#include "snap/util/progress.h"
#include "snap/verb/save.h"
#include "snap/stream/reader.h"
#include "snap/stream/return-path.h"
#include "snap/util/task.h"
#include "snap/trace.h"

/* Ends of the device state that may turn out to be none. */
#define MAX_RESUMED 8

/* Silence of a source that may have sent its last byte, in milliseconds */
#define LAST_SILENCE 500

/* For a source that has completed to close the channels of multifd */
#define CLOSE_NS NANOSECONDS_PER_SECOND

/*
 * How long requests in flight may take when a save is interrupted that waits
 * for the source
 */
#define GRACE_NS (2 * NANOSECONDS_PER_SECOND)

/* How often to look whether a source that is silent has given up */
#define GIVEN_UP_NS (1 * NANOSECONDS_PER_SECOND)

/* Events until the main loop gets its turn, with signals and completions. */
#define EVENTS_AT_A_TIME 256

struct SnapSave {
    /* constant */
    SnapSaveOptions options;
    SnapImageBuilder *builder;
    SnapTransport *transport;
    SnapTask *task;

    /* set from the main loop: end soon; but only if that was not the end */
    bool interrupted;
    bool ending;

    /* a source that waits for an answer, and sends nothing */
    QEMUTimer *timer;
    unsigned nb_events_before;
    bool given_up;

    /* the way of the data; made when the stream has told the size of RAM */
    SnapStreamReader *reader;
    SnapBackpressure backpressure;
    SnapRAMWriter *ram;             /* of @builder */
    SnapMultifdReceiver *multifd;   /* NULL where there is one channel */

    /* how far the stream is */
    bool reading;           /* the coroutine waits for the channel, maybe */
    unsigned nb_events;
    unsigned nb_resumed;    /* ends of the device state that were none */
    bool return_path;
    bool ram_end;           /* RAM ends with a section of its own */
    bool flushed_early;     /* RAM was flushed when every page was there */
    bool over;
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
    bool again = s->interrupted;

    s->interrupted = true;
    if (again) {
        snap_task_cancel(s->task, 0);
    } else if (s->reading && !snap_image_builder_is_committed(s->builder)) {
        snap_task_cancel(s->task, GRACE_NS);
    } else if (s->reading) {
        /*
         * The source may have sent its last byte.  Then it has completed, and
         * so must the save.
         */
        s->ending = true;
        snap_input_hurry(snap_transport_input(s->transport), LAST_SILENCE);
    }
    /* Else storage will answer, unless one has waited too long. */
}

/* Before each wait for the source: storage was waited for to its end. */
static int check_interrupted(const SnapSave *s, Error **errp)
{
    if (s->interrupted && !s->ending) {
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
static void look_for_the_source(void *opaque)
{
    SnapSave *s = opaque;

    if (s->reading && s->nb_events == s->nb_events_before &&
        snap_transport_peer_waits(s->transport)) {
        s->given_up = true;
        snap_input_hurry(snap_transport_input(s->transport), 0);
        return;
    }
    s->nb_events_before = s->nb_events;
    timer_mod(s->timer, qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + GIVEN_UP_NS);
}

static int coroutine_fn open_return_path(SnapSave *s, Error **errp)
{
    if (!snap_transport_output(s->transport)) {
        error_setg(errp, "The source wants an answer, but %s has no way back",
                   snap_transport_name(s->transport));
        return -ENOTSUP;
    }
    s->return_path = true;
    if (!s->timer) {
        s->timer = aio_timer_new(qemu_get_aio_context(), QEMU_CLOCK_REALTIME,
                                 SCALE_NS, look_for_the_source, s);
        look_for_the_source(s);
    }
    return 0;
}

static int answer(int ret, Error **errp)
{
    trace_snap_save_answer(ret);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not answer the source");
    }
    return ret;
}

static int coroutine_fn pong(SnapSave *s, uint32_t value, Error **errp)
{
    if (!s->return_path) {
        error_setg(errp, "The source wants an answer, but has not opened the "
                   "return path");
        return -EINVAL;
    }
    return answer(snap_return_path_pong(snap_transport_output(s->transport),
                                        value), errp);
}

/* --- RAM --- */

/*
 * The pages that are missing tell how near the end of RAM is, unless pages come
 * again, as in a live precopy, or never come, as those that virtio-mem has
 * unplugged.  That one sends a section ahead of RAM's pages; others that do so
 * are mistaken for it, which costs speed only.
 */
static void apply_backpressure(SnapSave *s, uint64_t missing)
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

static void show_progress(SnapSave *s)
{
    uint64_t nb_pages = snap_stream_ram(s->reader)->nb_pages;

    snap_progress_show(&s->progress, nb_pages - snap_ram_writer_missing(s->ram),
                       nb_pages);
}

static int coroutine_fn save_pages(SnapSave *s, const SnapEvent *event,
                                   Error **errp)
{
    uint64_t page = event->page;
    int ret;

    if (event->type == SNAP_EVENT_ZERO_PAGE) {
        ret = snap_ram_writer_add_zero(s->ram, page, errp);
    } else {
        /* Other channels may place pages as well. */
        unsigned nb_pages = s->multifd ? 1 : UINT_MAX;
        void *buf = snap_ram_writer_reserve(s->ram, page, &nb_pages);

        s->reading = true;
        ret = snap_stream_read_pages(s->reader, buf, &nb_pages, errp);
        s->reading = false;
        if (ret < 0) {
            snap_ram_writer_cancel(s->ram, page);
            return ret;
        }
        ret = snap_ram_writer_commit(s->ram, page, nb_pages, errp);
    }
    if (!s->return_path) {
        apply_backpressure(s, snap_ram_writer_missing(s->ram));
    }
    show_progress(s);
    return ret;
}

static int channels_missing(Error **errp)
{
    error_setg(errp, "The source uses multifd, but its channels have not come: "
               "they need a socket, --uri=unix:PATH");
    return -EINVAL;
}

/* Pages may come over other channels: what follows must come behind them. */
static int coroutine_fn multifd_flush(SnapSave *s, Error **errp)
{
    int ret;

    if (!s->multifd) {
        return channels_missing(errp);
    }
    show_progress(s);
    ret = check_interrupted(s, errp);
    if (ret < 0) {
        return ret;
    }
    s->reading = true;
    ret = snap_multifd_receiver_sync(s->multifd, errp);
    s->reading = false;
    return ret;
}

/*
 * A background snapshot sends every page once, so that RAM is complete when
 * the last one is there.  In other streams this costs one early flush.
 */
static int coroutine_fn ram_section_over(SnapSave *s, Error **errp)
{
    if (s->multifd) {
        return snap_stream_multifd_flush(s->reader) ? 0 :
                                                      multifd_flush(s, errp);
    }
    if (s->flushed_early || s->return_path ||
        snap_ram_writer_missing(s->ram)) {
        return 0;
    }
    s->flushed_early = true;
    return snap_image_builder_flush_ram(s->builder, errp);
}

/* --- device state and the end --- */

static int coroutine_fn commit(SnapSave *s, size_t vmdesc_length, Error **errp)
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
    return snap_image_builder_commit(s->builder, &info, errp);
}

/*
 * Hold the source back until all that has come is safe; see above.  Each thing
 * that looks like an end costs a commit, and a guest can fill its devices with
 * such: after a few, only the real end is committed.
 */
static int coroutine_fn hold(SnapSave *s, const SnapEvent *event, Error **errp)
{
    if (s->multifd && event->type == SNAP_EVENT_DEVICES) {
        int ret;

        s->reading = true;
        ret = snap_multifd_receiver_pages_end(s->multifd, errp);
        s->reading = false;
        if (ret < 0) {
            return ret;
        }
    }
    if (s->return_path || s->nb_resumed >= MAX_RESUMED) {
        return 0;
    }
    return event->type == SNAP_EVENT_DEVICES ?
           snap_image_builder_flush_ram(s->builder, errp) :
           commit(s, event->length, errp);
}

/* What was committed does not count any more. */
static int coroutine_fn uncommit(SnapSave *s, Error **errp)
{
    int ret = snap_image_builder_rollback(s->builder, errp);

    s->ending = false;
    return ret;
}

static int coroutine_fn finish(SnapSave *s, const SnapEvent *event,
                               Error **errp)
{
    Error *err = NULL;
    int ret = 0;

    if (!snap_image_builder_is_committed(s->builder)) {
        ret = commit(s, event->length, errp);
    }
    if (ret < 0) {
        return ret;
    }
    if (event->length &&
        snap_image_builder_vmdesc(s->builder, event->data, event->length,
                                  &err) < 0) {
        /* Only tools that analyse snapshots miss it, no load does. */
        warn_reportf_err(err, "The description of the devices is lost: ");
    }
    s->over = true;
    return 0;
}

/* --- the stream --- */

static int coroutine_fn handle(SnapSave *s, const SnapEvent *event,
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
        return multifd_flush(s, errp);
    case SNAP_EVENT_RAM_EOS:
        return ram_section_over(s, errp);
    case SNAP_EVENT_OPEN_RETURN_PATH:
        return open_return_path(s, errp);
    case SNAP_EVENT_PING:
        return pong(s, event->value, errp);
    case SNAP_EVENT_DEVICES:
    case SNAP_EVENT_DEVICE_END:
        return hold(s, event, errp);
    case SNAP_EVENT_DEVICE_DATA:
        s->device_bytes += event->length;
        return snap_image_builder_devices(s->builder, event->data,
                                          event->length, errp);
    case SNAP_EVENT_DEVICE_RESUMED:
        s->nb_resumed++;
        return uncommit(s, errp);
    case SNAP_EVENT_END:
        return finish(s, event, errp);
    case SNAP_EVENT_RAM_SETUP:
        return 0;
    case SNAP_EVENT_NONE:
        break;
    }
    g_assert_not_reached();
}

static int coroutine_fn next_event(SnapSave *s, SnapEvent *event, Error **errp)
{
    Error *err = NULL;
    int ret;

    s->reading = true;
    ret = snap_stream_next(s->reader, event, &err);
    s->reading = false;
    /* A channel that fails ends the main one, and knows better why. */
    if (ret < 0 && s->multifd &&
        snap_multifd_receiver_status(s->multifd, errp) < 0) {
        error_free(err);
    } else {
        error_propagate(errp, err);
    }
    return ret;
}

static int coroutine_fn read_event(SnapSave *s, SnapEvent *event, Error **errp)
{
    int ret;

    if (s->nb_events++ % EVENTS_AT_A_TIME == 0) {
        snap_task_pause();
    }
    ret = check_interrupted(s, errp) ?: next_event(s, event, errp);
    return ret < 0 ? ret : handle(s, event, errp);
}

/* Read as far as the size of RAM. */
static int coroutine_fn read_setup(void *opaque, Error **errp)
{
    SnapSave *s = opaque;
    SnapEvent event;
    int ret;

    do {
        ret = read_event(s, &event, errp);
    } while (!ret && event.type != SNAP_EVENT_RAM_SETUP);
    return ret;
}

static int coroutine_fn read_stream(SnapSave *s, Error **errp)
{
    SnapEvent event;
    int ret = 0;

    if (s->multifd) {
        snap_multifd_receiver_start(s->multifd);
        /* The end of RAM's START section is a point, too. */
        ret = multifd_flush(s, errp);
    }
    while (!ret && !s->over) {
        ret = read_event(s, &event, errp);
    }
    return ret;
}

static int coroutine_fn read_rest(void *opaque, Error **errp)
{
    SnapSave *s = opaque;
    int ret = snap_image_builder_start(s->builder, errp);

    if (!ret) {
        ret = read_stream(s, errp);
    }
    if (ret < 0 && s->multifd) {
        snap_multifd_receiver_end(s->multifd, 0);
    }
    if (ret < 0) {
        snap_image_builder_abort(s->builder);
    }
    return ret;
}

/* Tell a source that waits for it how it went. */
static int coroutine_fn shut(void *opaque, Error **errp)
{
    SnapSave *s = opaque;

    return answer(snap_return_path_shut(snap_transport_output(s->transport),
                                        s->over ? 0 : 1), errp);
}

/* A source that has completed may still send packets without pages. */
static int coroutine_fn close_channels(void *opaque, Error **errp)
{
    SnapSave *s = opaque;

    snap_multifd_receiver_end(s->multifd, s->over ? CLOSE_NS : 0);
    return 0;
}

/* A save that failed leaves nothing that could be taken for a snapshot. */
static void abandon(SnapSave *s, Error **errp)
{
    if (snap_image_builder_abandon(s->builder,
                                   snap_task_is_left(s->task)) < 0) {
        error_prepend(errp, "The image must not be used: ");
    }
}

/* Make everything that needs the size of RAM. */
static int create_target(SnapSave *s, Error **errp)
{
    GPtrArray *channels = snap_transport_accept_channels(s->transport, errp);
    const SnapRAMBlocks *blocks = snap_stream_ram(s->reader);
    uint64_t ram = blocks->nb_pages << blocks->page_bits;
    int ret;

    if (!channels) {
        return -EIO;
    }
    if (snap_stream_multifd_flush(s->reader) && !channels->len) {
        return channels_missing(errp);
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

static void fill_stats(SnapSave *s, SnapStats *stats)
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
static void warn_of_pipeline(SnapSave *s)
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

static int run(SnapSave *s, Error **errp)
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
    ret = snap_task_run(read_setup, s, s->task, errp);
    if (!ret) {
        warn_of_pipeline(s);
        ret = create_target(s, errp);
    }
    if (!ret) {
        ret = snap_task_run(read_rest, s, s->task, errp);
    }
    return ret;
}

int snap_save_run(SnapSave *s, SnapStats *stats, Error **errp)
{
    ERRP_GUARD();
    int ret;

    GLOBAL_STATE_CODE();
    assert(!qemu_in_coroutine());
    ret = run(s, errp);
    g_clear_pointer(&s->timer, timer_free);
    if (ret < 0 && s->given_up) {
        g_clear_pointer(errp, error_free);
        error_setg(errp, "The source has given up: its migration was "
                   "cancelled, or has failed");
    }
    snap_progress_end(&s->progress);
    if (s->return_path && ret != -EINTR && ret != -ETIMEDOUT) {
        int answer_ret = snap_task_run(shut, s, s->task,
                                       ret ? NULL : errp);

        ret = ret ?: answer_ret;
    }
    if (s->multifd && !snap_task_is_left(s->task)) {
        snap_task_run(close_channels, s, NULL, NULL);
    }
    if (!ret) {
        snap_image_builder_confirm(s->builder);
        fill_stats(s, stats);
    } else {
        abandon(s, errp);
    }
    return ret;
}
