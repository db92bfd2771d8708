/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Loading: from a snapshot image to a migration stream
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "snap/image/image.h"
#include "snap/postcopy/postcopy.h"
#include "snap/postcopy/resumption.h"
#include "snap/stream/writer.h"
#include "snap/transfer/precopy.h"
#include "snap/util/progress.h"
#include "snap/util/task.h"
#include "snap/verb/load.h"

/* A large pipe makes a precopy faster. */
#define PIPE_SIZE (1 * MiB)

/* How long requests in flight may take when a load is interrupted. */
#define GRACE_NS (2 * NANOSECONDS_PER_SECOND)

struct SnapLoad {
    /* constant */
    BlockBackend *blk;
    SnapTransport *transport;
    bool no_verify;
    SnapPostcopyOptions *postcopy_options;      /* NULL for a precopy */
    SnapMultifdOptions *multifd_options;        /* NULL for one channel */
    SnapTask *task;

    /* set from the main loop */
    bool interrupted;

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

    if (l->postcopy) {
        snap_postcopy_cancel(l->postcopy);
    }
    snap_transport_cancel(l->transport);
}

/* A load that is left may use its options whenever storage answers. */
static SnapPostcopyOptions *
load_copy_postcopy_options(const SnapPostcopyOptions *options)
{
    SnapPostcopyOptions *copy;

    if (!options) {
        return NULL;
    }
    copy = g_memdup2(options, sizeof(*options));
    copy->load_records = g_strdup(options->load_records);
    copy->host_pages = g_strdupv((char **)options->host_pages);
    copy->working_set = g_strdup(options->working_set);
    return copy;
}

static void load_free_postcopy_options(SnapPostcopyOptions *options)
{
    if (options) {
        g_free((char *)options->load_records);
        g_strfreev((char **)options->host_pages);
        g_free((char *)options->working_set);
        g_free(options);
    }
}

SnapLoad *snap_load_new(BlockBackend *blk, SnapTransport *transport,
                        const SnapLoadOptions *options)
{
    SnapLoad *l = g_new0(SnapLoad, 1);

    l->blk = blk;
    l->transport = transport;
    l->no_verify = options->no_verify;
    l->postcopy_options = load_copy_postcopy_options(options->postcopy);
    l->multifd_options = g_memdup2(options->multifd,
                                   sizeof(*options->multifd));
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
    snap_transport_close(l->transport);
    blk_unref(l->blk);
    load_free_postcopy_options(l->postcopy_options);
    g_free(l->multifd_options);
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
    snap_task_cancel(l->task, l->interrupted ? 0 : GRACE_NS);
    l->interrupted = true;
}

static int coroutine_fn load_by_precopy(SnapLoad *l, Error **errp)
{
    SnapPrecopy precopy = {
        .sender = &l->sender,
        .transport = l->transport,
        .multifd = l->multifd_options,
        .progress = &l->progress,
    };

    return snap_precopy_send(&precopy, errp);
}

static int coroutine_fn load_by_postcopy(SnapLoad *l, Error **errp)
{
    l->postcopy = snap_postcopy_new(&l->sender, l->transport,
                                    l->postcopy_options, &l->progress, errp);
    if (!l->postcopy) {
        return -EINVAL;
    }
    return snap_postcopy_run(l->postcopy, errp);
}

static int coroutine_fn load_open(SnapLoad *l, Error **errp)
{
    l->image = snap_image_open(l->blk, errp);
    if (!l->image) {
        return -EIO;
    }
    l->image->verify_pages = !l->no_verify;
    l->writer = snap_stream_writer_new(snap_transport_output(l->transport),
                                       &l->image->ram,
                                       &l->image->header.section);
    l->sender = (SnapSender) {
        .image = l->image,
        .source = &l->image->source,
        .writer = l->writer,
        .stats = &l->stats,
    };
    l->stats.uuid = l->image->header.uuid;
    l->stats.ram_bytes = l->image->header.nb_pages <<
                         l->image->header.page_bits;
    return 0;
}

static int coroutine_fn load_entry(void *opaque, Error **errp)
{
    SnapLoad *l = opaque;
    int ret = load_open(l, errp);

    if (!ret) {
        /* Verify the device state before anything is sent. */
        ret = snap_image_copy_part(l->image, SNAP_PART_DEVICES, NULL, NULL,
                                   errp);
    }
    if (!ret && l->interrupted) {
        error_setg(errp, "The load is cancelled");
        ret = -ECANCELED;
    }
    if (ret < 0) {
        return ret;
    }
    return l->postcopy_options ? load_by_postcopy(l, errp) :
                                 load_by_precopy(l, errp);
}

typedef struct ResumptionCheck {
    BlockBackend *blk;
    const char *path;
    const SnapPostcopyOptions *options;
} ResumptionCheck;

static int coroutine_fn load_check_resumption_entry(void *opaque, Error **errp)
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
           snap_task_run(load_check_resumption_entry, &c, NULL, errp) == 0;
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
static bool load_is_resumption(const SnapLoad *l)
{
    return l->postcopy_options && l->postcopy_options->resume;
}

/* A guest that has begun to run must not be lost. */
static void load_advise_to_resume(SnapLoad *l, Error **errp)
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
    /* Best effort: unprivileged users may be limited to less. */
    snap_transport_resize_output(l->transport, PIPE_SIZE);
    ret = snap_task_run(load_entry, l, l->task, errp);
    snap_progress_end(&l->progress);
    /* It counts what is about to be written, too. */
    if (ret < 0 && !load_is_resumption(l) &&
        !qemu_file_transferred(snap_transport_output(l->transport))) {
        snap_load_refuse(l->transport);
    }
    if (ret < 0 && l->postcopy && snap_postcopy_guest_runs(l->postcopy)) {
        load_advise_to_resume(l, errp);
    }
    *stats = l->stats;
    return ret;
}
