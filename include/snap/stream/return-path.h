/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The return path: what a destination has to say
 *
 * The reader believes nothing that lies outside the RAM blocks of the snapshot.
 * The writer is for a save, which a source takes for a destination.
 */

#ifndef SNAP_STREAM_RETURN_PATH_H
#define SNAP_STREAM_RETURN_PATH_H

#include "migration/qemu-file-types.h"
#include "snap/channel/input.h"
#include "snap/ram/host-pages.h"
#include "snap/stream/stream.h"

typedef struct SnapReturnPath SnapReturnPath;

/**
 * SnapReturnEvent: one message
 * @type: what it is; SNAP_RP_REQ_PAGES for both forms of a request
 * @value: of SHUT, PONG and RESUME_ACK
 * @pages: of REQ_PAGES: whole host pages
 * @block: of RECV_BITMAP: index of the RAM block
 * @bitmap: of RECV_BITMAP: a bit per target page of the block, owned by the
 *          event
 */
typedef struct SnapReturnEvent {
    SnapReturnMessage type;
    uint32_t value;
    SnapPageRange pages;
    int block;
    uint8_t *bitmap;
} SnapReturnEvent;

/* @input, @ram, @host_pages: not owned, must outlive the reader */
SnapReturnPath *snap_return_path_new(SnapInput *input, const SnapRAMBlocks *ram,
                                     const SnapHostPages *host_pages);
void snap_return_path_free(SnapReturnPath *rp);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapReturnPath, snap_return_path_free)

/**
 * snap_return_path_next: wait for the next message
 * @event: filled in if 1 is returned
 *
 * Returns: 1; 0 at the end of the file; -errno with @errp set if it cannot
 * be read, or is not a message that a destination may send
 */
int coroutine_fn snap_return_path_next(SnapReturnPath *rp,
                                       SnapReturnEvent *event, Error **errp);

/**
 * snap_return_path_shut, snap_return_path_pong: answer a source
 * @file: the return path
 *
 * The messages are flushed.
 *
 * Returns: 0 or -errno
 */
int coroutine_fn snap_return_path_shut(QEMUFile *file, uint32_t status);
int coroutine_fn snap_return_path_pong(QEMUFile *file, uint32_t value);

#endif /* SNAP_STREAM_RETURN_PATH_H */
