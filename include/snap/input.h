/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Buffered input from a channel
 *
 * What QEMUFile is for output, and more than it offers for input: it tells the
 * end of the channel from errors, can take silence for the end, knows how much
 * it has read ahead, and reads the bulk of a stream straight to where it
 * belongs.
 *
 * Behind an error or the end, everything that is read is zero: look at
 * snap_input_error() before a value is used.  All calls that read belong into
 * one coroutine.
 */

#ifndef SNAP_INPUT_H
#define SNAP_INPUT_H

#include "qemu/coroutine.h"
#include "qemu/units.h"
#include "io/channel.h"

/* As much can be peeked at, and handed back. */
#define SNAP_INPUT_MAX_BACK (256 * KiB)

typedef struct SnapInput SnapInput;

/**
 * snap_input_new: read from @ioc
 * @ioc: a reference is taken; not blocking, by the time of the first read
 * @fd: its descriptor, for snap_input_set_patience(); -1 where it has none
 */
SnapInput *snap_input_new(QIOChannel *ioc, int fd);
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
 * Returns: bytes read, less than the first element only behind an error or the
 * end
 */
size_t coroutine_fn snap_input_read_ahead(SnapInput *input,
                                          const struct iovec *iov,
                                          unsigned niov);

/**
 * snap_input_unread: hand bytes back, to be read again
 * @iov: the bytes
 * @skip: bytes of @iov to leave out at the beginning
 * @length: how many to hand back, SNAP_INPUT_MAX_BACK at most; they must be
 *          what was read last
 */
void snap_input_unread(SnapInput *input, const struct iovec *iov,
                       unsigned niov, size_t skip, size_t length);

/**
 * snap_input_peek: look at what comes next
 * @data: returns the bytes, valid until the next call
 * @length: how many are wanted, SNAP_INPUT_MAX_BACK at most
 *
 * Returns: how many there are, less than @length only behind an error or the
 * end
 */
size_t coroutine_fn snap_input_peek(SnapInput *input, const uint8_t **data,
                                    size_t length);

/* The next byte, 0 where there is none. */
uint8_t coroutine_fn snap_input_peek_byte(SnapInput *input);

/* Take @length bytes that were peeked at. */
void snap_input_skip(SnapInput *input, size_t length);

/* Bytes that were read from the channel, and not taken yet. */
size_t snap_input_buffered(const SnapInput *input);

/**
 * snap_input_error: whether all that was read is real
 *
 * Returns: 0 or -errno with @errp set; -EIO at the end, too
 */
int snap_input_error(const SnapInput *input, Error **errp);

/* Whether that was the end of the channel, or silence. */
bool snap_input_ended(const SnapInput *input);

/**
 * snap_input_set_patience: how long to wait for bytes
 * @ms: milliseconds; negative to wait for ever, as at the beginning
 *
 * A read that has nothing after that time finds the end, which stays; the
 * channel is read only when nothing is buffered.  The wait blocks the whole
 * thread, the main loop included.
 */
void snap_input_set_patience(SnapInput *input, int ms);

/**
 * snap_input_hurry: do not wait longer than that from now on
 * @ms: as of snap_input_set_patience(), also for a read that waits already
 *
 * Call outside the coroutine that reads.
 */
void snap_input_hurry(SnapInput *input, int ms);

/**
 * snap_input_set_limit: read less far ahead
 * @bytes: how much to read of the channel at a time, not 0
 */
void snap_input_set_limit(SnapInput *input, size_t bytes);

/**
 * snap_input_set_nap: let bytes gather in a channel that has had few
 * @ns: how long, in nanoseconds; 0 for not at all, as at the beginning
 *
 * Who writes little at a time wakes up whoever waits for it each time, or waits
 * for who reads at the same time; and who reads gets bytes that are still in
 * the other CPU's cache.  All of it costs more than the bytes do.
 */
void snap_input_set_nap(SnapInput *input, int64_t ns);

#endif /* SNAP_INPUT_H */
