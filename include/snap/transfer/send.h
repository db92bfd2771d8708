/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What every load sends of an image, whenever its pages follow
 *
 * The folder transfer/ is where images and streams meet: records made of an
 * image's pages (here), all of a load by precopy, and the channels of multifd,
 * whose pages go straight from an image (multifd-sender) or to one
 * (multifd-receiver).
 */

#ifndef SNAP_TRANSFER_SEND_H
#define SNAP_TRANSFER_SEND_H

#include "snap/image/image.h"
#include "snap/ram/source.h"
#include "snap/stream/writer.h"
#include "snap/transfer/stats.h"

/**
 * SnapSender: source and destination of a load
 * @image: what is sent besides pages, not owned
 * @source: the pages, not owned
 * @writer: not owned
 * @stats: what was sent is added to it, not owned
 */
typedef struct SnapSender {
    SnapImage *image;
    SnapPageSource *source;
    SnapStreamWriter *writer;
    SnapStats *stats;
} SnapSender;

/**
 * snap_send_configuration: send the stream's first bytes
 *
 * Returns: 0 or -errno with @errp set
 */
int coroutine_fn snap_send_configuration(SnapSender *sender, Error **errp);

/**
 * snap_send_setup: send RAM's START section, and what surrounds it
 * @advised: see snap_stream_put_ram_start()
 *
 * Returns: 0 or -errno with @errp set
 */
int coroutine_fn snap_send_setup(SnapSender *sender,
                                 const SnapHostPages *advised, Error **errp);

/**
 * snap_send_page: send one page, as a record of an open section
 * @i: index of the page in @pages
 *
 * Any page without data is sent as a zero page.
 *
 * Returns: whether it has data
 */
bool coroutine_fn snap_send_page(SnapSender *sender, const SnapPages *pages,
                                 unsigned i);

/**
 * snap_send_pages: send pages, as a section of RAM
 * @whole: send never-sent pages as zero pages, because the destination needs
 *         whole host pages; else skip them
 *
 * Zero pages are sent as such: a destination may hold stale data.
 *
 * Returns: 0 or -errno with @errp set
 */
int coroutine_fn snap_send_pages(SnapSender *sender, const SnapPages *pages,
                                 bool whole, Error **errp);

/**
 * snap_send_zero_pages: send the zero pages of all of RAM, and nothing else
 * @in_section: a section of RAM is open, and stays so; else they get sections
 *
 * Returns: 0 or -errno with @errp set
 */
int coroutine_fn snap_send_zero_pages(SnapSender *sender, bool in_section,
                                      Error **errp);

/**
 * snap_send_devices: send the device state, as it is
 *
 * The checksum is known only at the end, so verify the device state before.
 *
 * Returns: 0 or -errno with @errp set
 */
int coroutine_fn snap_send_devices(SnapSender *sender, Error **errp);

/* Whether an error of a channel says that the other end has closed it. */
bool snap_send_was_closed(const Error *err);

#endif /* SNAP_TRANSFER_SEND_H */
