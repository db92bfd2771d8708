/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SIGINT, SIGTERM and SIGHUP as events of the main AioContext
 */

#ifndef SNAP_INTERRUPT_H
#define SNAP_INTERRUPT_H

typedef struct SnapInterrupt SnapInterrupt;

/**
 * snap_interrupt_new: watch for the signals
 * @func: called in the main AioContext when one has come
 *
 * The signals are blocked for this thread and those it starts later, for good:
 * one that comes when all is decided must not change what is reported.
 */
SnapInterrupt *snap_interrupt_new(void (*func)(void *opaque), void *opaque);
void snap_interrupt_free(SnapInterrupt *interrupt);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapInterrupt, snap_interrupt_free)

#endif /* SNAP_INTERRUPT_H */
