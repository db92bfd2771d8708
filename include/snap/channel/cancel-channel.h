/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A channel whose input and output can be cancelled
 *
 * A socket can be shut down, but a pipe cannot, and a shutdown tells the peer
 * before everything is undone.  So each channel of a transport is one of
 * these, which passes all on to another channel until it is cancelled.
 */

#ifndef SNAP_CHANNEL_CANCEL_CHANNEL_H
#define SNAP_CHANNEL_CANCEL_CHANNEL_H

#include "io/channel.h"

/**
 * snap_cancel_channel_new: a channel in front of @master
 * @master: not blocking; the caller's reference is taken over
 */
QIOChannel *snap_cancel_channel_new(QIOChannel *master);

/**
 * snap_cancel_channel_cancel: fail all reads and writes from now on, also those
 * that wait
 * @ioc: of snap_cancel_channel_new()
 *
 * The peer does not notice.  Those that wait run at once; or, if this is called
 * in a coroutine, as soon as that waits.
 *
 * Context: main loop; also in coroutines.
 */
void snap_cancel_channel_cancel(QIOChannel *ioc);

#endif /* SNAP_CHANNEL_CANCEL_CHANNEL_H */
