/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Buffered input from a channel
 *
 * What QEMUFile is for output, and more than it offers for input: it tells the
 * end of the channel from errors, can take silence for the end, knows how much
 * it has read ahead, and reads the bulk of a stream straight to where it
 * belongs.
 *
 * After an error or the end, reads return zeroes; check snap_input_error()
 * before using a value.  All reads must come from one coroutine, in the main
 * AioContext.
 */

#ifndef SNAP_CHANNEL_INPUT_H
#define SNAP_CHANNEL_INPUT_H

#include "qemu/coroutine.h"
#include "qemu/units.h"
#include "io/channel.h"

/* Largest amount that can be peeked at or pushed back. */
#define SNAP_INPUT_MAX_BACK (256 * KiB)

typedef struct SnapInput SnapInput;

/**
 * snap_input_new: read from @ioc
 * @ioc: a reference is taken; not blocking, by the time of the first read
 */
SnapInput *snap_input_new(QIOChannel *ioc);
void snap_input_free(SnapInput *input);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapInput, snap_input_free)

/* Big-endian integers */
uint8_t coroutine_fn snap_input_get_byte(SnapInput *input);
uint16_t coroutine_fn snap_input_get_be16(SnapInput *input);
uint32_t coroutine_fn snap_input_get_be32(SnapInput *input);
uint64_t coroutine_fn snap_input_get_be64(SnapInput *input);

/* Read @length bytes to @buf. */
void coroutine_fn snap_input_read(SnapInput *input, void *buf, size_t length);

/**
 * snap_input_read_ahead: read to @iov, and on as far as bytes are there
 * @iov: the first element is filled whatever it takes, the others only with
 *       what can be had at the same time
 *
 * Returns: bytes read, less than the first element only after an error or the
 * end
 */
size_t coroutine_fn snap_input_read_ahead(SnapInput *input,
                                          const struct iovec *iov,
                                          unsigned niov);

/**
 * snap_input_unread: push bytes back, to be read again
 * @iov: the bytes
 * @skip: bytes of @iov to leave out at the beginning
 * @length: how many to push back, SNAP_INPUT_MAX_BACK at most; they must be the
 *          last ones that were read
 */
void snap_input_unread(SnapInput *input, const struct iovec *iov,
                       unsigned niov, size_t skip, size_t length);

/**
 * snap_input_peek: look at what comes next
 * @data: returns the bytes, valid until the next call
 * @length: how many are wanted, SNAP_INPUT_MAX_BACK at most
 *
 * Returns: how many there are, less than @length only after an error or the
 * end
 */
size_t coroutine_fn snap_input_peek(SnapInput *input, const uint8_t **data,
                                    size_t length);

/* The next byte, 0 at the end. */
uint8_t coroutine_fn snap_input_peek_byte(SnapInput *input);

/* Take @length bytes that were peeked at. */
void snap_input_skip(SnapInput *input, size_t length);

/* Bytes that were read from the channel, and not taken yet. */
size_t snap_input_buffered(const SnapInput *input);

/**
 * snap_input_error: whether all that was read is real
 *
 * Returns: 0 or -errno with @errp set: -ECONNRESET if the peer has gone and
 * left something unread, -EIO at the end and for any other error
 */
int snap_input_error(const SnapInput *input, Error **errp);

/* Whether that was the end of the channel, or silence. */
bool snap_input_ended(const SnapInput *input);

/**
 * snap_input_set_timeout: limit how long a read waits for bytes
 * @ms: milliseconds; negative to wait indefinitely, which is the default
 *
 * A read that has found nothing for this long finds the end, which stays; the
 * channel is read only if nothing is buffered.
 */
void snap_input_set_timeout(SnapInput *input, int ms);

/**
 * snap_input_hurry: limit the wait from now on, also of a read that is waiting
 * @ms: see snap_input_set_timeout()
 *
 * Call outside the coroutine that reads.
 */
void snap_input_hurry(SnapInput *input, int ms);

/**
 * snap_input_set_readahead: limit a read of the channel
 * @bytes: most to read at a time, not 0; unlimited by default
 */
void snap_input_set_readahead(SnapInput *input, size_t bytes);

/**
 * snap_input_set_coalescing: let bytes accumulate after a short read
 * @ns: how long to wait, in nanoseconds; 0, the default, for not at all
 *
 * Small writes wake the reader each time and contend for the pipe's lock, and
 * it reads what is still in the other CPU's cache; waiting a little costs less.
 */
void snap_input_set_coalescing(SnapInput *input, int64_t ns);

#endif /* SNAP_CHANNEL_INPUT_H */
