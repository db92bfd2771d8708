/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SIGINT, SIGTERM and SIGHUP: as events, and while the main thread is blocked
 *
 * They are only delivered here: what one does to a save or load is up to
 * snap_save_interrupt() and snap_load_interrupt().
 */

#ifndef SNAP_UTIL_INTERRUPT_H
#define SNAP_UTIL_INTERRUPT_H

typedef struct SnapInterrupt SnapInterrupt;

/**
 * snap_interrupt_new: take charge of the signals
 * @end: ends the process, because of a signal; does not return.  Called in any
 *       thread, see snap_interrupt_begin_blocking()
 *
 * From now on they stay pending until they are read: for the whole process,
 * even if other threads do not block them.  One that the process was started to
 * ignore, such as SIGHUP under nohup, is still ignored.  For the rest of the
 * process: a signal after the end is decided must not change what is reported.
 */
SnapInterrupt *snap_interrupt_new(void (*end)(void *opaque), void *opaque);

/* The signals stay blocked. */
void snap_interrupt_free(SnapInterrupt *interrupt);

/**
 * snap_interrupt_watch: make the signals events of the main AioContext
 * @func: called in the main loop for each signal that has come or comes; NULL
 *        to let them wait again
 *
 * Does nothing without @interrupt.
 *
 * Context: main loop.
 */
void snap_interrupt_watch(SnapInterrupt *interrupt, void (*func)(void *opaque),
                          void *opaque);

/**
 * snap_interrupt_begin_blocking: the main thread may be blocked from now on
 *
 * Until snap_interrupt_end_blocking(), a signal ends the process: what
 * snap_interrupt_add() has added is called, the last one first, then @end of
 * snap_interrupt_new().  They run in another thread, while the main one is
 * anywhere in the blocking call, or leaves it: so they may read what that call
 * does not change, use descriptors and paths, allocate memory and report
 * errors, but not free anything or run the main loop.  Does nothing without
 * @interrupt; may be nested.
 *
 * If a signal has come before, this does not return.
 *
 * Context: main loop, also in a coroutine.
 */
void snap_interrupt_begin_blocking(SnapInterrupt *interrupt);
void snap_interrupt_end_blocking(SnapInterrupt *interrupt);

/**
 * snap_interrupt_add: something to do before a signal ends the process
 *
 * Does nothing without @interrupt.
 */
void snap_interrupt_add(SnapInterrupt *interrupt, void (*func)(void *opaque),
                        void *opaque);

/* Undo snap_interrupt_add(); does nothing if that was not called. */
void snap_interrupt_remove(SnapInterrupt *interrupt,
                           void (*func)(void *opaque), void *opaque);

#endif /* SNAP_UTIL_INTERRUPT_H */
