/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Input that can tell silence
 *
 * QEMUFile cannot say whether anything is buffered or could be read now, nor
 * whether an error was the end of the file.  This channel lies between it and
 * the channel proper, and knows.
 */

#ifndef SNAP_INPUT_CHANNEL_H
#define SNAP_INPUT_CHANNEL_H

#include "io/channel.h"
#include "qom/object.h"

#define TYPE_SNAP_INPUT_CHANNEL "snap-input-channel"
OBJECT_DECLARE_SIMPLE_TYPE(SnapInputChannel, SNAP_INPUT_CHANNEL)

/**
 * snap_input_channel_new: read from @inner
 * @inner: channel to read from, non-blocking by the time of the first read; a
 *         reference is taken
 * @fd: its descriptor, for waiting
 *
 * Has no features, so that descriptors cannot be passed.  Reads only.
 */
SnapInputChannel *snap_input_channel_new(QIOChannel *inner, int fd);

/**
 * snap_input_channel_cast: @ioc if it is such a channel, else NULL
 *
 * For users that take any channel.
 */
SnapInputChannel *snap_input_channel_cast(QIOChannel *ioc);

/**
 * snap_input_channel_set_patience: how long to wait for bytes
 * @ms: milliseconds; negative to wait for ever, as at the beginning
 *
 * A read that has nothing after that time finds the end of the file.  QEMUFile
 * reads only when its buffer is empty, and keeps that end as an error, so the
 * caller must be ready to believe it.  The wait blocks the whole thread, the
 * main loop included.
 */
void snap_input_channel_set_patience(SnapInputChannel *channel, int ms);

/* Whether a read has found the end of the file, or silence. */
bool snap_input_channel_ended(const SnapInputChannel *channel);

#endif /* SNAP_INPUT_CHANNEL_H */
