/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reader of QEMU's migration stream
 *
 * A pull parser: each call of snap_stream_next() yields one event.  The reader
 * knows nothing of images; the caller fetches a page's bytes straight into its
 * own buffer.  Everything runs in one coroutine.
 */

#ifndef SNAP_STREAM_READER_H
#define SNAP_STREAM_READER_H

#include "snap/channel/input.h"
#include "snap/stream/stream.h"

typedef struct SnapStreamReader SnapStreamReader;

/**
 * SnapEventType: what came in the stream
 *
 * @SNAP_EVENT_NONE: none yet; never returned
 * @SNAP_EVENT_RAM_SETUP: RAM's START section has told its blocks; they and
 *                        configuration are known from here on, and from the
 *                        next event on, whether sections have footers
 * @SNAP_EVENT_PAGE: a page with data, to be taken with
 *                   snap_stream_read_pages() before the next event
 * @SNAP_EVENT_ZERO_PAGE: a page that is zero
 * @SNAP_EVENT_RAM_FINAL: RAM's END section begins: the last pages of RAM
 *                        follow (never in a background snapshot)
 * @SNAP_EVENT_MULTIFD_FLUSH: a point where the channels of multifd wait for
 *                            each other
 * @SNAP_EVENT_RAM_EOS: a section of RAM is over, except for its footer
 * @SNAP_EVENT_OPEN_RETURN_PATH: the source wants an answer in the end
 * @SNAP_EVENT_PING: the source wants a PONG with @value
 * @SNAP_EVENT_DEVICES: device state begins; RAM is over
 * @SNAP_EVENT_DEVICE_DATA: @length bytes of device state at @data; sections
 *                          of other iterable devices are part of it
 * @SNAP_EVENT_DEVICE_END: the device state seems to be complete; a description
 *                         of @length bytes follows, unless that is 0.  The
 *                         source still has bytes to write
 * @SNAP_EVENT_DEVICE_RESUMED: the announced end was not one (bytes that looked
 *                             like it), device state goes on
 * @SNAP_EVENT_END: end of the stream; @length bytes of description at @data
 */
typedef enum SnapEventType {
    SNAP_EVENT_NONE,
    SNAP_EVENT_RAM_SETUP,
    SNAP_EVENT_PAGE,
    SNAP_EVENT_ZERO_PAGE,
    SNAP_EVENT_RAM_FINAL,
    SNAP_EVENT_MULTIFD_FLUSH,
    SNAP_EVENT_RAM_EOS,
    SNAP_EVENT_OPEN_RETURN_PATH,
    SNAP_EVENT_PING,
    SNAP_EVENT_DEVICES,
    SNAP_EVENT_DEVICE_DATA,
    SNAP_EVENT_DEVICE_END,
    SNAP_EVENT_DEVICE_RESUMED,
    SNAP_EVENT_END,
} SnapEventType;

/**
 * SnapEvent: one event
 * @type: which
 * @page: number of the page (PAGE, ZERO_PAGE)
 * @value: number to answer (PING)
 * @data: bytes owned by the reader, valid until the next event
 * @length: how many, in bytes
 */
typedef struct SnapEvent {
    SnapEventType type;
    uint64_t page;
    uint32_t value;
    const uint8_t *data;
    size_t length;
} SnapEvent;

/**
 * snap_stream_reader_new: read a stream from @input
 * @input: not owned, must outlive the reader
 * @page_bits: log2 of the target page size for streams that do not say it
 *
 * A source that opened the return path keeps the channel open while it waits
 * for the answer, so there is no end of the file to wait for.  What looks like
 * the end is taken for it if the source is silent after it: for 100 ms after a
 * whole description, for 1 s after an EOF byte that follows a footer.  Any byte
 * that comes in that time shows that it was not the end.  Without return path,
 * the reader waits for the end of the file.
 *
 * One case remains: device state that holds bytes that look like the end, from
 * a source that halts for that long right after them.  The stream is then cut
 * there; as a rule, the source goes on writing into a closed channel, and its
 * migration fails.  Without section footers an EOF byte tells too little: the
 * end of a stream with return path and without description is never noticed.
 */
SnapStreamReader *snap_stream_reader_new(SnapInput *input, unsigned page_bits);
void snap_stream_reader_free(SnapStreamReader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapStreamReader, snap_stream_reader_free)

/**
 * snap_stream_next: parse up to the next event
 *
 * Returns: 0, or -errno with @errp set: the stream is malformed, ends too
 * early, or uses a feature that is not supported (which the error names)
 */
int coroutine_fn snap_stream_next(SnapStreamReader *reader, SnapEvent *event,
                                  Error **errp);

/**
 * snap_stream_read_pages: take the data of the page just announced, and of
 * pages that directly follow it
 * @buf: room for *@nb_pages target pages; the room after those that have come
 *       may be written to as well
 * @nb_pages: at least 1; returns how many have come
 *
 * Further pages are not announced, and are taken only as far as the channel has
 * them: reading it in large pieces is cheaper.
 *
 * Returns: 0 or -errno with @errp set
 */
int coroutine_fn snap_stream_read_pages(SnapStreamReader *reader, void *buf,
                                        unsigned *nb_pages, Error **errp);

/**
 * snap_stream_ram: the RAM blocks
 *
 * Valid after SNAP_EVENT_RAM_SETUP; owned by the reader.
 */
const SnapRAMBlocks *snap_stream_ram(const SnapStreamReader *reader);

/* Identity of the RAM section; see SNAP_EVENT_RAM_SETUP. */
const SnapRAMSection *snap_stream_ram_section(const SnapStreamReader *reader);

/**
 * snap_stream_multifd_flush: whether RAM's START section has a MULTIFD_FLUSH
 *
 * Valid after SNAP_EVENT_RAM_SETUP, and true for all sources with multifd
 * except those with the migration property multifd-flush-after-each-section, as
 * in machine types before 8.2: there, each SNAP_EVENT_RAM_EOS is one, and so is
 * the end of START.
 */
bool snap_stream_multifd_flush(const SnapStreamReader *reader);

/**
 * snap_stream_configuration: header and configuration section as they came
 *
 * Valid after SNAP_EVENT_RAM_SETUP; owned by the reader.
 */
const GByteArray *snap_stream_configuration(const SnapStreamReader *reader);

/**
 * snap_stream_setup: sections other than RAM that came before RAM's first page
 * @before_ram: returns how many of the bytes came before RAM's START section
 *
 * Complete from the first PAGE, ZERO_PAGE or RAM_FINAL on; owned by the reader.
 */
const GByteArray *snap_stream_setup(const SnapStreamReader *reader,
                                    size_t *before_ram);

#endif /* SNAP_STREAM_READER_H */
