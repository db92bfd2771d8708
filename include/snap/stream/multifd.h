/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Messages on the channels of a migration with multifd
 *
 * Each channel begins with one init message.  Packets follow: a head of a fixed
 * size, which names pages, followed by the data of those that are not zero.
 * (migration/multifd.h:MultiFDInit_t, MultiFDPacket_t)
 */

#ifndef SNAP_STREAM_MULTIFD_H
#define SNAP_STREAM_MULTIFD_H

#include "qemu/units.h"
#include "qemu/uuid.h"
#include "snap/ram/blocks.h"

#define SNAP_MULTIFD_INIT_SIZE 64

/* As many channels as QEMU can have: their number is a byte. */
#define SNAP_MULTIFD_MAX_CHANNELS 255

/* Bytes of a packet's pages (migration/multifd.h:MULTIFD_PACKET_SIZE). */
#define SNAP_MULTIFD_DATA_SIZE (512 * KiB)
#define SNAP_MULTIFD_MAX_PAGES (SNAP_MULTIFD_DATA_SIZE >> SNAP_MIN_PAGE_BITS)

/**
 * snap_multifd_encode_init: what a channel begins with
 * @uuid: of the virtual machine, which the destination compares with its own
 * @channel: number of the channel, from 0 on
 */
void snap_multifd_encode_init(uint8_t buf[SNAP_MULTIFD_INIT_SIZE],
                              const QemuUUID *uuid, uint8_t channel);

/* Returns: the number of the channel, -errno with @errp set */
int snap_multifd_decode_init(const uint8_t buf[SNAP_MULTIFD_INIT_SIZE],
                             Error **errp);

/**
 * snap_multifd_flushes_each_section: what a machine type means to a destination
 * @machine: name of the machine type
 *
 * Machine types before 8.2 have the migration property
 * multifd-flush-after-each-section (hw/core/machine.c:hw_compat_8_1): their
 * channels wait for each other at the end of each section of RAM.
 */
bool snap_multifd_flushes_each_section(const char *machine);

/**
 * SnapMultifdPacket: what a packet's head says
 * @sync: the last packet ahead of a point where all channels wait for each
 *        other
 * @number: counts packets, for debugging
 * @nb_normal: pages whose data follows the head
 * @nb_zero: pages that are zero
 * @pages: page numbers, all of one RAM block; normal ones first
 */
typedef struct SnapMultifdPacket {
    bool sync;
    uint64_t number;
    unsigned nb_normal;
    unsigned nb_zero;
    uint64_t pages[SNAP_MULTIFD_MAX_PAGES];
} SnapMultifdPacket;

/* Pages that a packet may have, and bytes that its head takes */
unsigned snap_multifd_packet_pages(const SnapRAMBlocks *ram);
size_t snap_multifd_head_size(const SnapRAMBlocks *ram);

/**
 * snap_multifd_encode: encode the head of a packet
 * @buf: room for snap_multifd_head_size()
 */
void snap_multifd_encode(uint8_t *buf, const SnapMultifdPacket *packet,
                         const SnapRAMBlocks *ram);

/**
 * snap_multifd_decode: decode the head of a packet
 * @buf: snap_multifd_head_size() bytes
 * @packet: returns what it says, all of it within the bounds of @ram
 *
 * Returns: 0 or -errno with @errp set: it is malformed, or its pages are
 * compressed
 */
int snap_multifd_decode(const uint8_t *buf, SnapMultifdPacket *packet,
                        const SnapRAMBlocks *ram, Error **errp);

#endif /* SNAP_STREAM_MULTIFD_H */
