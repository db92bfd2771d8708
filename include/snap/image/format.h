/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The snapshot image's own structures, between bytes and memory
 *
 * Pure functions.  docs/interop/snapshot-image.rst is the specification.
 */

#ifndef SNAP_IMAGE_FORMAT_H
#define SNAP_IMAGE_FORMAT_H

#include "qemu/units.h"
#include "qemu/uuid.h"
#include "snap/image/layout.h"
#include "snap/ram/section.h"

#define SNAP_HEADER_SIZE    512
#define SNAP_VERSION        1

/* Everything after RAM starts at multiples of this. */
#define SNAP_PART_ALIGN     (64 * KiB)
/* Room that a new image has for device state and description. */
#define SNAP_DEVICE_RESERVE (64 * MiB)
/* Bytes after the description: its checksum. */
#define SNAP_VMDESC_TRAILER 8
/* Maximum number of entries in the arrival list. */
#define SNAP_MAX_ARRIVALS   (256 * KiB)
#define SNAP_MAX_METADATA   (64 * KiB)
/* What a working set may have of pages, and of bytes. */
#define SNAP_MAX_WORKING_SET       (256 * KiB)
#define SNAP_WORKING_SET_HEAD      40
#define SNAP_MAX_WORKING_SET_BYTES (SNAP_WORKING_SET_HEAD + \
                                    SNAP_MAX_WORKING_SET * 8 + 8)

/* Feature bits that make an image unreadable for who does not know them. */
#define SNAP_INCOMPATIBLE_KNOWN UINT64_C(0)
/* Feature bits that a reader may ignore. */
#define SNAP_COMPATIBLE_WORKING_SET UINT64_C(1)

/* Flags in the header. */
#define SNAP_FLAG_FOOTERS             (1u << 0)
#define SNAP_FLAG_ARRIVALS_TRUNCATED  (1u << 1)
#define SNAP_FLAG_RAM_END             (1u << 2)

/* Parts of an image other than RAM, in the order of the header's array. */
typedef enum SnapPart {
    SNAP_PART_PAGE_TABLE,
    SNAP_PART_ARRIVALS,
    SNAP_PART_BLOCK_TABLE,
    SNAP_PART_CONFIGURATION,
    SNAP_PART_SETUP,
    SNAP_PART_METADATA,
    SNAP_PART_DEVICES,
    SNAP_PART_VMDESC,
    SNAP_PART_WORKING_SET,      /* with SNAP_COMPATIBLE_WORKING_SET only */
    SNAP_PART__MAX,
} SnapPart;

/**
 * SnapPartInfo: location of a part
 * @offset: in bytes
 * @length: in bytes; 0 if there is no such part
 * @checksum: XXH3-64 of the bytes; 0 for parts that check themselves
 */
typedef struct SnapPartInfo {
    uint64_t offset;
    uint64_t length;
    uint64_t checksum;
} SnapPartInfo;

/**
 * SnapHeader: the header
 * @incompatible: feature bits that a reader must know
 * @compatible: feature bits that a reader may ignore
 * @uuid: of this snapshot; seeds the checksums of chunks
 * @created: seconds since the epoch
 * @flags: SNAP_FLAG_*
 * @page_bits: log2 of the target page size
 * @nb_blocks: RAM blocks
 * @nb_pages: target pages in all blocks
 * @nb_arrivals: entries of the arrival list
 * @before_ram: bytes of the setup part that go before RAM's START section
 * @section: identity of the RAM section
 * @parts: where everything else lies
 */
typedef struct SnapHeader {
    uint64_t incompatible;
    uint64_t compatible;
    QemuUUID uuid;
    uint64_t created;
    uint32_t flags;
    uint32_t page_bits;
    uint32_t nb_blocks;
    uint64_t nb_pages;
    uint64_t nb_arrivals;
    uint64_t before_ram;
    SnapRAMSection section;
    SnapPartInfo parts[SNAP_PART__MAX];
} SnapHeader;

/* Name of a part, for messages. */
const char *snap_part_name(SnapPart part);

/* Entry of the page table for a page of @size bytes that is not zero */
uint64_t snap_page_entry(const void *page, size_t size);

/* XXH3-64 of @length bytes, as parts carry it. */
uint64_t snap_checksum(const void *data, size_t length);

/* Seed of the checksums of a table's chunks: each table has its own. */
uint64_t snap_header_seed(const SnapHeader *header, SnapPart table);

/* Write @header to @buf. */
void snap_header_encode(const SnapHeader *header,
                        uint8_t buf[SNAP_HEADER_SIZE]);

/* Whether @buf begins a snapshot, of whatever version. */
bool snap_header_present(const uint8_t buf[SNAP_HEADER_SIZE]);

/**
 * snap_header_encode_claim: what a save in progress has in the header's place
 * @uuid: of the snapshot that it will be
 *
 * No header, but it tells whether another save has begun since.
 */
void snap_header_encode_claim(const QemuUUID *uuid,
                              uint8_t buf[SNAP_HEADER_SIZE]);

/* Whether @buf is the header, or the claim, of this snapshot. */
bool snap_header_is_of(const uint8_t buf[SNAP_HEADER_SIZE],
                       const QemuUUID *uuid);

/**
 * snap_header_decode: read and check a header
 * @buf: first bytes of the image
 * @image_size: size of the virtual disk in bytes
 *
 * Returns: 0; -errno with @errp set: -EINVAL no snapshot, -EBADMSG damaged,
 * -ENOTSUP of a version or with a feature that is not known
 */
int snap_header_decode(SnapHeader *header, const uint8_t buf[SNAP_HEADER_SIZE],
                       uint64_t image_size, Error **errp);

/**
 * SnapPageCounts: what an image has of a RAM block, for information
 * @stored: pages with data
 * @zero: pages known to be zero; all others were never sent
 */
typedef struct SnapPageCounts {
    uint64_t stored;
    uint64_t zero;
} SnapPageCounts;

/**
 * snap_block_table_encode: append the block table of @ram to @array
 * @counts: one for each block
 */
void snap_block_table_encode(const SnapRAMBlocks *ram,
                             const SnapPageCounts *counts, GByteArray *array);

/**
 * snap_block_table_decode: make RAM blocks of a block table
 * @ram: uninitialised; to be destroyed by the caller on success only
 * @counts: filled in on success with a newly allocated array, one for each
 *          block
 *
 * Returns: 0 on success, -EBADMSG with @errp set if table and header do not
 * agree
 */
int snap_block_table_decode(SnapRAMBlocks *ram, SnapPageCounts **counts,
                            const SnapHeader *header, const uint8_t *data,
                            size_t length, Error **errp);

#endif /* SNAP_IMAGE_FORMAT_H */
