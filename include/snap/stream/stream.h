/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU's migration stream, as far as an outside program has to know it
 *
 * The folder stream/ has the stream in both directions, as bytes: the reader
 * makes events of what a source sends, the writer makes bytes for a
 * destination, and return-path reads a destination's answers and writes those
 * to a source.  Packets of multifd are in multifd, heads, footers and ends of
 * sections in sections, and the machine type in configuration.
 *
 * Here is what reader and writer share.  Names and numbers that QEMU keeps
 * private to migration/savevm.c or describes in prose only are given here anew;
 * those of migration/savevm.h and migration/ram.h are used from there.
 */

#ifndef SNAP_STREAM_STREAM_H
#define SNAP_STREAM_STREAM_H

#include "snap/ram/blocks.h"
#include "snap/ram/section.h"

/* Commands of a QEMU_VM_COMMAND section (migration/savevm.c:qemu_vm_cmd). */
typedef enum SnapCommand {
    SNAP_CMD_OPEN_RETURN_PATH = 1,
    SNAP_CMD_PING             = 2,
    SNAP_CMD_POSTCOPY_ADVISE  = 3,
    SNAP_CMD_POSTCOPY_LISTEN  = 4,
    SNAP_CMD_POSTCOPY_RUN     = 5,
    SNAP_CMD_RAM_DISCARD      = 6,
    SNAP_CMD_PACKAGED         = 7,
    SNAP_CMD_POSTCOPY_RESUME  = 9,
    SNAP_CMD_RECV_BITMAP      = 10,
    SNAP_CMD_SWITCHOVER_START = 11,
    SNAP_CMD_MAX              = SNAP_CMD_SWITCHOVER_START,
} SnapCommand;

/* Bytes that a command without data takes, and one with a PING's value. */
#define SNAP_COMMAND_SIZE 5
#define SNAP_PING_SIZE    (SNAP_COMMAND_SIZE + 4)

/* Messages on the return path (migration/migration.h:mig_rp_message_type). */
typedef enum SnapReturnMessage {
    SNAP_RP_SHUT           = 1,
    SNAP_RP_PONG           = 2,
    SNAP_RP_REQ_PAGES_ID   = 3,
    SNAP_RP_REQ_PAGES      = 4,
    SNAP_RP_RECV_BITMAP    = 5,
    SNAP_RP_RESUME_ACK     = 6,
    SNAP_RP_SWITCHOVER_ACK = 7,
} SnapReturnMessage;

/* How the RAM section calls itself (migration/ram.c:savevm_ram_handlers). */
#define SNAP_RAM_SECTION_NAME     "ram"
#define SNAP_RAM_SECTION_VERSION  4

#endif /* SNAP_STREAM_STREAM_H */
