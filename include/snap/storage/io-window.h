/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A bounded window of requests in flight
 *
 * A pool of aligned buffers, each of which is free, held by the caller, or in
 * flight.  Requests run in coroutines of their own; the caller goes on, and
 * waits only when no buffer is free.  Writes that overlap are carried out in
 * the order in which they were submitted.  How many buffers there are is up to
 * the caller: see ram/walk, postcopy/demand and image/ram-writer.  All calls
 * come from one coroutine in the AioContext of the BlockBackend.
 */

#ifndef SNAP_STORAGE_IO_WINDOW_H
#define SNAP_STORAGE_IO_WINDOW_H

#include "qemu/coroutine.h"
#include "system/block-backend.h"
#include "snap/storage/coalesce.h"

typedef struct SnapIOWindow SnapIOWindow;

/**
 * SnapIOBuffer: one buffer of the window
 * @data: the bytes, aligned for direct I/O
 * @offset: their place in the image, in bytes; set by the holder
 */
typedef struct SnapIOBuffer {
    uint8_t *data;
    uint64_t offset;
} SnapIOBuffer;

/**
 * snap_io_window_new: a window on @blk
 * @blk: not owned
 * @nb_buffers: buffers in the pool, which bounds requests and memory
 * @buffer_size: bytes of each
 */
SnapIOWindow *snap_io_window_new(BlockBackend *blk, unsigned nb_buffers,
                                 size_t buffer_size);

/* Nothing must be in flight: drain it before. */
void snap_io_window_free(SnapIOWindow *window);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapIOWindow, snap_io_window_free)

/**
 * snap_io_window_get: take a free buffer, wait for one if there is none
 *
 * Returns: a buffer, held by the caller, content undefined
 */
SnapIOBuffer *coroutine_fn snap_io_window_get(SnapIOWindow *window);

/* Give a buffer back that is held. */
void snap_io_window_put(SnapIOWindow *window, SnapIOBuffer *buffer);

/**
 * snap_io_window_write: start to write ranges of a buffer that is held
 * @page_bits: log2 of the unit of @extents
 * @extents: ranges, copied
 *
 * The window gives the buffer back to the pool when it is written.
 * See snap_io_window_status() for errors; after one, nothing is written.
 */
void coroutine_fn snap_io_window_write(SnapIOWindow *window,
                                      SnapIOBuffer *buffer, unsigned page_bits,
                                      const SnapExtent *extents,
                                      unsigned nb_extents);

/**
 * snap_io_window_read: start to fill a buffer that is held
 * @bytes: how many to read, starting at the buffer's offset
 *
 * The buffer stays held; do not touch it before snap_io_window_wait().
 */
void coroutine_fn snap_io_window_read(SnapIOWindow *window,
                                      SnapIOBuffer *buffer, size_t bytes);

/**
 * snap_io_window_wait: wait until a read is done
 *
 * Returns: 0 or -errno of that read
 */
int coroutine_fn snap_io_window_wait(SnapIOWindow *window,
                                     SnapIOBuffer *buffer);

/* Wait until nothing is in flight. */
void coroutine_fn snap_io_window_drain(SnapIOWindow *window);

/* Returns: 0, or the first error (-errno) of any write that is done. */
int snap_io_window_status(const SnapIOWindow *window);

#endif /* SNAP_STORAGE_IO_WINDOW_H */
