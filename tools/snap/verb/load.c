/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Loading: from a snapshot image to a migration stream
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "snap/stream/configuration.h"
#include "snap/image/image.h"
#include "snap/verb/load.h"
#include "snap/stream/multifd.h"
#include "snap/util/progress.h"
#include "snap/image/ram-reader.h"
#include "snap/postcopy/postcopy.h"
#include "snap/postcopy/resumption.h"
#include "snap/transfer/multifd-sender.h"
#include "snap/transfer/send.h"
#include "snap/stream/writer.h"
#include "snap/util/task.h"
#include "snap/trace.h"

/* A large pipe makes a precopy faster. */
#define PIPE_SIZE (1 * MiB)

/* RAM is read in pieces of this size. */
#define PIECE_SIZE (1 * MiB)

/* How long requests in flight may take when a load is interrupted. */
#define GRACE_NS (2 * NANOSECONDS_PER_SECOND)

struct SnapLoad {
    /* constant */
    BlockBackend *blk;
    SnapTransport *transport;
    const SnapLoadOptions *options;
    SnapTask *task;

    /* while it runs */
    SnapImage *image;
    SnapStreamWriter *writer;
    SnapSender sender;
    SnapPostcopy *postcopy;
    SnapStats stats;
    SnapProgress progress;
};

static void load_cancel(void *opaque)
{
    SnapLoad *l = opaque;

    snap_transport_cancel(l->transport);
}

SnapLoad *snap_load_new(BlockBackend *blk, SnapTransport *transport,
                        const SnapLoadOptions *options)
{
    SnapLoad *l = g_new0(SnapLoad, 1);

    l->blk = blk;
    l->transport = transport;
    l->options = options;
    l->task = snap_task_new(load_cancel, l);
    l->progress.enabled = options->progress;
    return l;
}

/* Nothing is in flight. */
static void load_destroy(void *opaque)
{
    SnapLoad *l = opaque;

    snap_postcopy_free(l->postcopy);
    snap_stream_writer_free(l->writer);
    snap_image_close(l->image);
    g_free(l);
}

void snap_load_free(SnapLoad *l)
{
    if (l) {
        snap_task_free(l->task, load_destroy, l);
    }
}

void snap_load_interrupt(SnapLoad *l)
{
    snap_task_cancel(l->task, GRACE_NS);
}

bool snap_load_is_idle(const SnapLoad *l)
{
    return !snap_task_is_left(l->task) &&
           (!l->postcopy || snap_postcopy_is_idle(l->postcopy));
}

static int coroutine_fn send_pages(SnapLoad *l, SnapRAMReader *reader,
                                   Error **errp)
{
    SnapRAMPiece piece;
    int ret;

    while ((ret = snap_ram_reader_next(reader, &piece, errp)) > 0) {
        snap_task_pause();
        ret = snap_send_piece(&l->sender, &piece, false, errp);
        if (ret < 0) {
            break;
        }
        snap_progress_show(&l->progress,
                           l->stats.stored_pages + l->stats.zero_pages,
                           l->image->header.nb_pages);
    }
    return ret;
}

static int coroutine_fn send_ram(SnapLoad *l, Error **errp)
{
    g_autoptr(SnapRAMReader) reader = snap_ram_reader_new(l->image, PIECE_SIZE,
                                                          NULL, NULL);
    int ret = send_pages(l, reader, errp);

    if (ret < 0) {
        snap_ram_reader_abort(reader);
        return ret;
    }
    snap_stream_begin_ram(l->writer, true);
    snap_stream_end_ram(l->writer);
    return snap_stream_flush(l->writer, errp);
}

/* Whether the channels wait at the end of each section, as of old. */
static int coroutine_fn flushes_each_section(SnapLoad *l, bool *result,
                                             Error **errp)
{
    g_autoptr(GByteArray) configuration = NULL;
    g_autofree char *machine = NULL;

    configuration = snap_image_read_part(l->image, SNAP_PART_CONFIGURATION,
                                         errp);
    if (!configuration) {
        return -EIO;
    }
    machine = snap_configuration_machine(configuration->data,
                                         configuration->len);
    *result = machine && snap_multifd_flushes_each_section(machine);
    return 0;
}

/*
 * RAM has two sections with a point where all wait for the channels, START and
 * END.  Where each section is such a point, there must not be others.
 */
static int coroutine_fn send_ram_main(SnapLoad *l, SnapMultifdSender *multifd,
                                      bool each_section, Error **errp)
{
    int ret = 0;

    if (!each_section) {
        ret = snap_send_zero_pages(&l->sender, false, errp);
    }
    if (!ret) {
        ret = snap_multifd_sender_wait(multifd, errp);
    }
    if (!ret) {
        snap_stream_begin_ram(l->writer, true);
        if (each_section) {
            ret = snap_send_zero_pages(&l->sender, true, errp);
        }
        snap_stream_put_multifd_flush(l->writer);
        snap_stream_end_ram(l->writer);
    }
    return ret ?: snap_stream_flush(l->writer, errp);
}

/* Setup and RAM, over several channels. */
static int coroutine_fn send_multifd(SnapLoad *l, Error **errp)
{
    g_autoptr(SnapMultifdSender) multifd = NULL;
    Error *err = NULL;
    bool each_section;
    int ret = flushes_each_section(l, &each_section, errp);

    if (ret < 0) {
        return ret;
    }
    multifd = snap_multifd_sender_new(&l->sender, l->transport,
                                      l->options->multifd, errp);
    if (!multifd) {
        return -EIO;
    }
    if (!each_section) {
        snap_stream_writer_set_multifd_flush(l->writer);
    }
    snap_multifd_sender_start(multifd);
    ret = snap_send_setup(&l->sender, NULL, &err);
    if (!ret) {
        ret = send_ram_main(l, multifd, each_section, &err);
    }
    if (ret < 0) {
        /* A channel that fails ends the main one, and knows better why. */
        if (snap_multifd_sender_status(multifd, errp) < 0) {
            error_free(err);
        } else {
            error_propagate(errp, err);
        }
        snap_multifd_sender_abort(multifd);
    }
    return ret;
}

static int coroutine_fn send_end(SnapLoad *l, Error **errp)
{
    g_autoptr(GByteArray) vmdesc = NULL;
    Error *err = NULL;

    vmdesc = snap_image_read_part(l->image, SNAP_PART_VMDESC, &err);
    if (!vmdesc) {
        /* No destination needs it. */
        warn_report_err(err);
    }
    snap_stream_put_eof(l->writer, vmdesc ? vmdesc->data : NULL,
                        vmdesc ? vmdesc->len : 0);
    return snap_stream_flush(l->writer, errp);
}

/* A destination that fails says so by closing the channel, and no more. */
static void explain_closing(SnapLoad *l, Error **errp)
{
    g_autofree char *text = NULL;

    if (!snap_send_was_closed(*errp)) {
        return;
    }
    text = g_strdup(error_get_pretty(*errp));
    error_free(*errp);
    *errp = NULL;
    error_setg(errp, "The destination has closed %s: it has refused the "
               "snapshot, or has ended, and its own log says why (%s)",
               snap_transport_name(l->transport), text);
}

static int coroutine_fn send_precopy(SnapLoad *l, Error **errp)
{
    int ret = snap_send_configuration(&l->sender, errp);

    if (!ret && l->options->multifd) {
        ret = send_multifd(l, errp);
    } else if (!ret) {
        ret = snap_send_setup(&l->sender, NULL, errp) ?: send_ram(l, errp);
    }
    if (!ret) {
        ret = snap_send_devices(&l->sender, errp);
    }
    return ret ?: send_end(l, errp);
}

static int coroutine_fn precopy(SnapLoad *l, Error **errp)
{
    ERRP_GUARD();
    int ret = send_precopy(l, errp);

    if (ret == -EPIPE) {
        explain_closing(l, errp);
    }
    return ret;
}

static int coroutine_fn postcopy(SnapLoad *l, Error **errp)
{
    l->postcopy = snap_postcopy_new(&l->sender, l->transport,
                                    l->options->postcopy, &l->progress, errp);
    if (!l->postcopy) {
        return -EINVAL;
    }
    return snap_postcopy_run(l->postcopy, errp);
}

static int coroutine_fn load(void *opaque, Error **errp)
{
    SnapLoad *l = opaque;
    int ret;

    l->image = snap_image_open(l->blk, errp);
    if (!l->image) {
        return -EIO;
    }
    l->image->verify_pages = !l->options->no_verify;
    l->writer = snap_stream_writer_new(snap_transport_output(l->transport),
                                       &l->image->ram,
                                       &l->image->header.section);
    l->sender = (SnapSender) {
        .image = l->image,
        .writer = l->writer,
        .stats = &l->stats,
    };
    l->stats.uuid = l->image->header.uuid;
    l->stats.ram_bytes = l->image->header.nb_pages <<
                         l->image->header.page_bits;

    /* Nothing should begin that damage will end. */
    ret = snap_image_copy_part(l->image, SNAP_PART_DEVICES, NULL, NULL, errp);
    if (ret < 0) {
        return ret;
    }
    return l->options->postcopy ? postcopy(l, errp) : precopy(l, errp);
}

typedef struct ResumptionCheck {
    BlockBackend *blk;
    const char *path;
    const SnapPostcopyOptions *options;
} ResumptionCheck;

static int coroutine_fn check_resumption(void *opaque, Error **errp)
{
    ResumptionCheck *c = opaque;
    g_autoptr(SnapImage) image = snap_image_open(c->blk, errp);

    if (!image) {
        return -EIO;
    }
    return snap_resumption_check_listener(c->options->load_records, c->path,
                                          &image->header.uuid,
                                          &c->options->resumed, errp) ?
           0 : -EINVAL;
}

bool snap_load_check_resumption(BlockBackend *blk,
                                const SnapTransport *transport,
                                const SnapPostcopyOptions *options,
                                Error **errp)
{
    const char *path = snap_transport_connect_path(transport);
    ResumptionCheck c = { blk, path, options };

    return !path || !options->load_records ||
           snap_task_run(check_resumption, &c, NULL, errp) == 0;
}

/*
 * No stream begins like that.  QEMU may look at a channel's first four bytes
 * before it takes any, and waits for them even if the channel has ended
 * (migration/channel.c:migration_channel_read_peek): fewer would not do.
 */
static const uint8_t refusal[4];

void snap_load_refuse(SnapTransport *transport)
{
    snap_transport_put_last_bytes(transport, refusal, sizeof(refusal));
}

bool snap_load_refuse_fd(int fd)
{
    return qemu_write_full(fd, refusal, sizeof(refusal)) == sizeof(refusal);
}

/* A byte 0 would end what is being resumed, as if it were complete. */
static bool is_resumption(const SnapLoadOptions *options)
{
    return options->postcopy && options->postcopy->resume;
}

/* A guest that has begun to run must not be lost. */
static void advise_to_resume(SnapLoad *l, Error **errp)
{
    g_autofree char *uuid = qemu_uuid_unparse_strdup(&l->stats.uuid);
    Error *err = *errp;

    *errp = NULL;
    error_setg(errp, "%s; a paused destination goes on with --resume=%s",
               error_get_pretty(err), uuid);
    error_free(err);
}

int snap_load_run(SnapLoad *l, SnapStats *stats, Error **errp)
{
    ERRP_GUARD();
    int ret;

    GLOBAL_STATE_CODE();
    assert(!qemu_in_coroutine());
    if (!snap_transport_output(l->transport)) {
        error_setg(errp, "Nothing can be written to %s",
                   snap_transport_name(l->transport));
        return -EINVAL;
    }
    /* Where the user may not have that much, what is there must do. */
    snap_transport_resize_output(l->transport, PIPE_SIZE);
    ret = snap_task_run(load, l, l->task, errp);
    snap_progress_end(&l->progress);
    /* It counts what is about to be written, too. */
    if (ret < 0 && !is_resumption(l->options) &&
        !qemu_file_transferred(snap_transport_output(l->transport))) {
        snap_load_refuse(l->transport);
    }
    if (ret < 0 && l->postcopy && snap_postcopy_guest_runs(l->postcopy)) {
        advise_to_resume(l, errp);
    }
    *stats = l->stats;
    return ret;
}
