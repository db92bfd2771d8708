/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Loading by precopy: all RAM first, then the devices
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/units.h"
#include "snap/ram/walk.h"
#include "snap/stream/configuration.h"
#include "snap/stream/multifd.h"
#include "snap/transfer/precopy.h"
#include "snap/util/task.h"

/* RAM is read in pieces of this size. */
#define PIECE_SIZE (1 * MiB)

/* --- RAM over one channel --- */

static int coroutine_fn precopy_send_pages(const SnapPrecopy *p,
                                           SnapRAMWalk *walk, Error **errp)
{
    const SnapStats *stats = p->sender->stats;
    SnapPages pages;
    int ret;

    while ((ret = snap_ram_walk_next(walk, &pages, errp)) > 0) {
        snap_co_pause();
        ret = snap_send_pages(p->sender, &pages, false, errp);
        if (ret < 0) {
            return ret;
        }
        snap_progress_show(p->progress, stats->stored_pages + stats->zero_pages,
                           p->sender->image->header.nb_pages);
    }
    return ret;
}

static int coroutine_fn precopy_send_ram(const SnapPrecopy *p, Error **errp)
{
    SnapStreamWriter *writer = p->sender->writer;
    g_autoptr(SnapRAMWalk) walk =
        snap_ram_walk_new(p->sender->source, PIECE_SIZE, NULL, NULL);
    int ret = precopy_send_pages(p, walk, errp);

    if (ret < 0) {
        snap_ram_walk_abort(walk);
        return ret;
    }
    snap_stream_begin_ram(writer, true);
    snap_stream_end_ram(writer);
    return snap_stream_flush(writer, errp);
}

/* --- RAM over several channels --- */

/* Whether the machine type makes each section a point where all wait. */
static int coroutine_fn precopy_flushes_each_section(const SnapPrecopy *p,
                                                     bool *result, Error **errp)
{
    g_autoptr(GByteArray) configuration = NULL;
    g_autofree char *machine = NULL;

    configuration = snap_image_read_part(p->sender->image,
                                         SNAP_PART_CONFIGURATION, errp);
    if (!configuration) {
        return -EIO;
    }
    machine = snap_configuration_machine(configuration->data,
                                         configuration->len);
    *result = machine && snap_multifd_flushes_each_section(machine);
    return 0;
}

/* RAM's END section: its zero pages, if no other section may have them */
static int coroutine_fn precopy_send_end_section(const SnapPrecopy *p,
                                                 bool with_zeroes, Error **errp)
{
    SnapStreamWriter *writer = p->sender->writer;

    snap_stream_begin_ram(writer, true);
    if (with_zeroes) {
        int ret = snap_send_zero_pages(p->sender, true, errp);

        if (ret < 0) {
            return ret;
        }
    }
    snap_stream_put_multifd_flush(writer);
    snap_stream_end_ram(writer);
    return snap_stream_flush(writer, errp);
}

/*
 * START and END are where all channels wait for each other.  If each section
 * is such a point, there must not be others.
 */
static int coroutine_fn precopy_send_main(const SnapPrecopy *p,
                                          SnapMultifdSender *multifd,
                                          bool each_section, Error **errp)
{
    int ret = snap_send_setup(p->sender, NULL, errp);

    if (!ret && !each_section) {
        ret = snap_send_zero_pages(p->sender, false, errp);
    }
    if (!ret) {
        ret = snap_multifd_sender_wait(multifd, errp);
    }
    if (ret < 0) {
        return ret;
    }
    return precopy_send_end_section(p, each_section, errp);
}

/* A channel that fails ends the main one, and knows better why. */
static int precopy_multifd_error(const SnapMultifdSender *multifd, int ret,
                                 Error *err, Error **errp)
{
    int channel_ret = snap_multifd_sender_status(multifd, errp);

    if (channel_ret < 0) {
        error_free(err);
        return channel_ret;
    }
    error_propagate(errp, err);
    return ret;
}

/* Setup and RAM. */
static int coroutine_fn precopy_send_multifd(const SnapPrecopy *p, Error **errp)
{
    g_autoptr(SnapMultifdSender) multifd = NULL;
    Error *err = NULL;
    bool each_section;
    int ret = precopy_flushes_each_section(p, &each_section, errp);

    if (ret < 0) {
        return ret;
    }
    multifd = snap_multifd_sender_new(p->sender, p->transport, p->multifd,
                                      errp);
    if (!multifd) {
        return -EIO;
    }
    if (!each_section) {
        snap_stream_writer_set_multifd_flush(p->sender->writer);
    }
    snap_multifd_sender_start(multifd);
    ret = precopy_send_main(p, multifd, each_section, &err);
    if (ret < 0) {
        ret = precopy_multifd_error(multifd, ret, err, errp);
        snap_multifd_sender_abort(multifd);
    }
    return ret;
}

/* --- all of it --- */

static int coroutine_fn precopy_send_eof(const SnapPrecopy *p, Error **errp)
{
    SnapStreamWriter *writer = p->sender->writer;
    g_autoptr(GByteArray) vmdesc = NULL;
    Error *err = NULL;

    vmdesc = snap_image_read_part(p->sender->image, SNAP_PART_VMDESC, &err);
    if (!vmdesc) {
        /* No destination needs it. */
        warn_report_err(err);
    }
    snap_stream_put_eof(writer, vmdesc ? vmdesc->data : NULL,
                        vmdesc ? vmdesc->len : 0);
    return snap_stream_flush(writer, errp);
}

static int coroutine_fn precopy_send_all(const SnapPrecopy *p, Error **errp)
{
    int ret = snap_send_configuration(p->sender, errp);

    if (ret < 0) {
        return ret;
    }
    if (p->multifd) {
        ret = precopy_send_multifd(p, errp);
    } else {
        ret = snap_send_setup(p->sender, NULL, errp);
        if (!ret) {
            ret = precopy_send_ram(p, errp);
        }
    }
    if (!ret) {
        ret = snap_send_devices(p->sender, errp);
    }
    if (ret < 0) {
        return ret;
    }
    return precopy_send_eof(p, errp);
}

/* A destination that fails says so by closing the channel, and no more. */
static void precopy_explain_closing(const SnapPrecopy *p, Error **errp)
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
               snap_transport_name(p->transport), text);
}

int coroutine_fn snap_precopy_send(const SnapPrecopy *p, Error **errp)
{
    ERRP_GUARD();
    int ret = precopy_send_all(p, errp);

    if (ret == -EPIPE) {
        precopy_explain_closing(p, errp);
    }
    return ret;
}
