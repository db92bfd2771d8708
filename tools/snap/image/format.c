/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The snapshot image's own structures, between bytes and memory
 */

#include "qemu/osdep.h"
#include <xxhash.h>
#include "qemu/bswap.h"
#include "qemu/range.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "snap/image/format.h"
#include "snap/image/table.h"
#include "snap/ram/source.h"

#define MAGIC "QEMUSNAP"

/* All integers are big-endian. */
typedef struct DiskPart {
    uint64_t offset;
    uint64_t length;
    uint64_t checksum;
} QEMU_PACKED DiskPart;

#define PARTS_OFFSET 104
#define UNUSED_SIZE  (SNAP_HEADER_SIZE - PARTS_OFFSET - \
                      SNAP_PART__MAX * sizeof(DiskPart) - sizeof(uint64_t))

typedef struct DiskHeader {
    char magic[8];
    uint32_t version;
    uint32_t size;
    uint64_t incompatible;
    uint64_t compatible;
    uint8_t uuid[16];
    uint64_t created;
    uint32_t flags;
    uint32_t page_bits;
    uint32_t nb_blocks;
    uint32_t section_id;
    uint32_t instance;
    uint32_t nb_parts;
    uint64_t nb_pages;
    uint64_t nb_arrivals;
    uint64_t before_ram;
    DiskPart parts[SNAP_PART__MAX];
    uint8_t unused[UNUSED_SIZE];
    uint64_t checksum;          /* of all before it */
} QEMU_PACKED DiskHeader;

QEMU_BUILD_BUG_ON(offsetof(DiskHeader, parts) != PARTS_OFFSET);
QEMU_BUILD_BUG_ON(sizeof(DiskHeader) != SNAP_HEADER_SIZE);

/* What the header counts: parts of features have places after these. */
#define NB_PARTS SNAP_PART_WORKING_SET

/* Magic and version of the stream, which the configuration begins with. */
#define STREAM_HEADER 8

/* After each block's name in the block table. */
#define BLOCK_NUMBERS 4

const char *snap_part_name(SnapPart part)
{
    static const char *const names[] = {
        [SNAP_PART_PAGE_TABLE]    = "page table",
        [SNAP_PART_ARRIVALS]      = "arrival list",
        [SNAP_PART_BLOCK_TABLE]   = "block table",
        [SNAP_PART_CONFIGURATION] = "configuration",
        [SNAP_PART_SETUP]         = "setup sections",
        [SNAP_PART_METADATA]      = "metadata",
        [SNAP_PART_DEVICES]       = "device state",
        [SNAP_PART_VMDESC]        = "device description",
        [SNAP_PART_WORKING_SET]   = "working set",
    };

    return names[part];
}

uint64_t snap_page_entry(const void *page, size_t size)
{
    uint64_t hash = XXH3_64bits(page, size);

    /* 0 and 1 are reserved (UNSENT, ZERO). */
    return hash > SNAP_PAGE_ZERO ? hash : hash + 2;
}

uint64_t snap_checksum(const void *data, size_t length)
{
    return XXH3_64bits(data, length);
}

uint64_t snap_header_seed(const SnapHeader *header, SnapPart table)
{
    return ldq_be_p(header->uuid.data +
                    (table == SNAP_PART_PAGE_TABLE ? 0 : 8));
}

static uint64_t header_checksum(const DiskHeader *disk)
{
    return snap_checksum(disk, offsetof(DiskHeader, checksum));
}

void snap_header_encode(const SnapHeader *header,
                        uint8_t buf[SNAP_HEADER_SIZE])
{
    DiskHeader *disk = (DiskHeader *)buf;

    *disk = (DiskHeader) {
        .version = cpu_to_be32(SNAP_VERSION),
        .size = cpu_to_be32(SNAP_HEADER_SIZE),
        .incompatible = cpu_to_be64(header->incompatible),
        .compatible = cpu_to_be64(header->compatible),
        .created = cpu_to_be64(header->created),
        .flags = cpu_to_be32(header->flags | (header->section.footers ?
                                              SNAP_FLAG_FOOTERS : 0)),
        .page_bits = cpu_to_be32(header->page_bits),
        .nb_blocks = cpu_to_be32(header->nb_blocks),
        .section_id = cpu_to_be32(header->section.id),
        .instance = cpu_to_be32(header->section.instance),
        .nb_parts = cpu_to_be32(NB_PARTS),
        .nb_pages = cpu_to_be64(header->nb_pages),
        .nb_arrivals = cpu_to_be64(header->nb_arrivals),
        .before_ram = cpu_to_be64(header->before_ram),
    };
    memcpy(disk->magic, MAGIC, sizeof(disk->magic));
    memcpy(disk->uuid, header->uuid.data, sizeof(disk->uuid));
    for (size_t i = 0; i < SNAP_PART__MAX; i++) {
        disk->parts[i] = (DiskPart) {
            .offset = cpu_to_be64(header->parts[i].offset),
            .length = cpu_to_be64(header->parts[i].length),
            .checksum = cpu_to_be64(header->parts[i].checksum),
        };
    }
    disk->checksum = cpu_to_be64(header_checksum(disk));
}

/* Longest length that a part may have. */
static uint64_t header_part_limit(const SnapHeader *header, SnapPart part)
{
    switch (part) {
    case SNAP_PART_PAGE_TABLE:
        return snap_table_bytes(header->nb_pages);
    case SNAP_PART_ARRIVALS:
        return snap_table_bytes(header->nb_arrivals);
    case SNAP_PART_BLOCK_TABLE:
        return (uint64_t)header->nb_blocks *
               (1 + SNAP_BLOCK_NAME_MAX + BLOCK_NUMBERS * 8);
    case SNAP_PART_CONFIGURATION:
        return SNAP_MAX_CONFIGURATION;
    case SNAP_PART_SETUP:
        return SNAP_MAX_SETUP;
    case SNAP_PART_METADATA:
        return SNAP_MAX_METADATA;
    case SNAP_PART_VMDESC:
        return SNAP_MAX_VMDESC + SNAP_VMDESC_TRAILER;
    case SNAP_PART_WORKING_SET:
        return SNAP_MAX_WORKING_SET_BYTES;
    default:
        return INT64_MAX;
    }
}

static bool header_part_valid(const SnapHeader *header, SnapPart part,
                              uint64_t image_size)
{
    const SnapPartInfo *info = &header->parts[part];
    bool is_table = part == SNAP_PART_PAGE_TABLE || part == SNAP_PART_ARRIVALS;

    if (info->length > header_part_limit(header, part) ||
        (is_table && info->length != header_part_limit(header, part))) {
        return false;
    }
    return info->length == 0 ||
           (info->offset >= SNAP_BLOCK_ALIGN &&
            QEMU_IS_ALIGNED(info->offset, SNAP_PART_ALIGN) &&
            info->offset <= image_size &&
            info->length <= image_size - info->offset);
}

/* Whether a part overlaps one of those before it in the header. */
static bool header_part_overlaps(const SnapHeader *header, SnapPart part)
{
    const SnapPartInfo *a = &header->parts[part];

    for (unsigned i = 0; i < part; i++) {
        const SnapPartInfo *b = &header->parts[i];

        if (a->length && b->length &&
            ranges_overlap(a->offset, a->length, b->offset, b->length)) {
            return true;
        }
    }
    return false;
}

static bool header_numbers_valid(const SnapHeader *header)
{
    return header->page_bits >= SNAP_MIN_PAGE_BITS &&
           header->page_bits <= SNAP_MAX_PAGE_BITS &&
           header->nb_blocks > 0 && header->nb_blocks <= SNAP_MAX_BLOCKS &&
           header->nb_pages <= SNAP_MAX_RAM >> header->page_bits &&
           header->nb_arrivals <= SNAP_MAX_ARRIVALS &&
           header->parts[SNAP_PART_CONFIGURATION].length >= STREAM_HEADER &&
           header->before_ram <= header->parts[SNAP_PART_SETUP].length;
}

static void header_decode_fields(SnapHeader *header, const DiskHeader *disk)
{
    uint32_t flags = be32_to_cpu(disk->flags);

    *header = (SnapHeader) {
        .incompatible = be64_to_cpu(disk->incompatible),
        .compatible = be64_to_cpu(disk->compatible),
        .created = be64_to_cpu(disk->created),
        .flags = flags,
        .page_bits = be32_to_cpu(disk->page_bits),
        .nb_blocks = be32_to_cpu(disk->nb_blocks),
        .nb_pages = be64_to_cpu(disk->nb_pages),
        .nb_arrivals = be64_to_cpu(disk->nb_arrivals),
        .before_ram = be64_to_cpu(disk->before_ram),
        .section.id = be32_to_cpu(disk->section_id),
        .section.instance = be32_to_cpu(disk->instance),
        .section.footers = flags & SNAP_FLAG_FOOTERS,
    };
    memcpy(header->uuid.data, disk->uuid, sizeof(disk->uuid));
    for (size_t i = 0; i < SNAP_PART__MAX; i++) {
        header->parts[i] = (SnapPartInfo) {
            .offset = be64_to_cpu(disk->parts[i].offset),
            .length = be64_to_cpu(disk->parts[i].length),
            .checksum = be64_to_cpu(disk->parts[i].checksum),
        };
    }
    if (!(header->compatible & SNAP_COMPATIBLE_WORKING_SET)) {
        header->parts[SNAP_PART_WORKING_SET] = (SnapPartInfo) { };
    }
}

bool snap_header_present(const uint8_t buf[SNAP_HEADER_SIZE])
{
    const DiskHeader *disk = (const DiskHeader *)buf;

    return !memcmp(disk->magic, MAGIC, sizeof(disk->magic));
}

void snap_header_encode_claim(const QemuUUID *uuid,
                              uint8_t buf[SNAP_HEADER_SIZE])
{
    DiskHeader *disk = (DiskHeader *)buf;

    *disk = (DiskHeader) { };
    memcpy(disk->uuid, uuid->data, sizeof(disk->uuid));
}

bool snap_header_is_of(const uint8_t buf[SNAP_HEADER_SIZE],
                       const QemuUUID *uuid)
{
    const DiskHeader *disk = (const DiskHeader *)buf;

    return !memcmp(disk->uuid, uuid->data, sizeof(disk->uuid));
}

int snap_header_decode(SnapHeader *header, const uint8_t buf[SNAP_HEADER_SIZE],
                       uint64_t image_size, Error **errp)
{
    const DiskHeader *disk = (const DiskHeader *)buf;
    uint64_t unknown;

    if (!snap_header_present(buf)) {
        error_setg(errp, "Not a snapshot, or one whose save did not finish");
        return -EINVAL;
    }
    if (be32_to_cpu(disk->version) != SNAP_VERSION) {
        error_setg(errp, "Snapshot format version %u is not supported",
                   be32_to_cpu(disk->version));
        return -ENOTSUP;
    }
    if (be32_to_cpu(disk->size) != SNAP_HEADER_SIZE ||
        be32_to_cpu(disk->nb_parts) != NB_PARTS ||
        be64_to_cpu(disk->checksum) != header_checksum(disk)) {
        error_setg(errp, "The snapshot's header is corrupt");
        return -EBADMSG;
    }

    header_decode_fields(header, disk);
    unknown = header->incompatible & ~SNAP_INCOMPATIBLE_KNOWN;
    if (unknown) {
        error_setg(errp, "The snapshot uses features that are not supported "
                   "(0x%" PRIx64 ")", unknown);
        return -ENOTSUP;
    }
    if (!header_numbers_valid(header)) {
        error_setg(errp, "The snapshot's header has values out of bounds");
        return -EBADMSG;
    }
    for (unsigned i = 0; i < SNAP_PART__MAX; i++) {
        if (!header_part_valid(header, i, image_size)) {
            error_setg(errp, "The place or length of the snapshot's %s is out "
                       "of bounds", snap_part_name(i));
            return -EBADMSG;
        }
        if (header_part_overlaps(header, i)) {
            error_setg(errp, "The snapshot's %s overlaps another part",
                       snap_part_name(i));
            return -EBADMSG;
        }
    }
    return 0;
}

void snap_block_table_encode(const SnapRAMBlocks *ram,
                             const SnapPageCounts *counts, GByteArray *array)
{
    for (unsigned i = 0; i < ram->nb_blocks; i++) {
        const SnapRAMBlock *block = &ram->blocks[i];
        uint8_t name_length = strlen(block->name);
        uint64_t numbers[BLOCK_NUMBERS] = {
            cpu_to_be64(block->length),
            cpu_to_be64(block->page_size),
            cpu_to_be64(counts[i].stored),
            cpu_to_be64(counts[i].zero),
        };

        g_byte_array_append(array, &name_length, 1);
        g_byte_array_append(array, (const uint8_t *)block->name, name_length);
        g_byte_array_append(array, (const uint8_t *)numbers, sizeof(numbers));
    }
}

/* Returns: bytes of the entry at @data, 0 if it is invalid */
static size_t block_table_decode_entry(SnapRAMBlocks *ram,
                                       SnapPageCounts *counts,
                                       const uint8_t *data, size_t length)
{
    char name[SNAP_BLOCK_NAME_MAX + 1] = "";
    const SnapRAMBlock *block;
    uint64_t nb_pages;
    size_t entry_size;
    const uint8_t *p;

    if (length < 1) {
        return 0;
    }
    entry_size = 1 + data[0] + BLOCK_NUMBERS * 8;
    if (length < entry_size) {
        return 0;
    }
    memcpy(name, data + 1, data[0]);
    p = data + 1 + data[0];
    block = snap_ram_blocks_add(ram, name, ldq_be_p(p), ldq_be_p(p + 8), NULL);
    if (!block || strlen(name) != data[0]) {
        return 0;
    }
    *counts = (SnapPageCounts) {
        .stored = ldq_be_p(p + 16),
        .zero = ldq_be_p(p + 24),
    };
    nb_pages = snap_ram_block_pages(ram, block);
    if (counts->stored > nb_pages ||
        counts->zero > nb_pages - counts->stored) {
        return 0;
    }
    return entry_size;
}

int snap_block_table_decode(SnapRAMBlocks *ram, SnapPageCounts **counts,
                            const SnapHeader *header, const uint8_t *data,
                            size_t length, Error **errp)
{
    g_autofree SnapPageCounts *all = g_new(SnapPageCounts, header->nb_blocks);
    size_t pos = 0;

    snap_ram_blocks_init(ram, header->page_bits);
    for (uint32_t i = 0; i < header->nb_blocks; i++) {
        size_t entry_size = block_table_decode_entry(ram, &all[i], data + pos,
                                                     length - pos);

        if (!entry_size) {
            break;
        }
        pos += entry_size;
    }
    if (ram->nb_blocks != header->nb_blocks || pos != length ||
        ram->nb_pages != header->nb_pages) {
        error_setg(errp, "The snapshot's block table is corrupt");
        snap_ram_blocks_destroy(ram);
        return -EBADMSG;
    }
    *counts = g_steal_pointer(&all);
    return 0;
}
