/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What goes over the channels of a migration with multifd
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/cutils.h"
#include "qapi/error.h"
#include "snap/stream/multifd.h"
#include "snap/trace.h"

#define MAGIC   0x11223344
#define VERSION 1

/* Flags of a packet */
#define FLAG_SYNC         0x01
#define FLAGS_COMPRESSION 0x3e
#define FLAG_DEVICE_STATE 0x40

#define BLOCK_NAME_SIZE 256

typedef struct Init {
    uint32_t magic;
    uint32_t version;
    uint8_t uuid[16];
    uint8_t channel;
    uint8_t unused[39];
} QEMU_PACKED Init;

typedef struct Head {
    uint32_t magic;
    uint32_t version;
    uint32_t flags;
    uint32_t pages_alloc;
    uint32_t nb_normal;
    uint32_t data_size;
    uint64_t number;
    uint32_t nb_zero;           /* 0 in QEMU before 9.0 */
    uint32_t unused[7];
    char block[BLOCK_NAME_SIZE];
    uint64_t offsets[];
} QEMU_PACKED Head;

QEMU_BUILD_BUG_ON(sizeof(Init) != SNAP_MULTIFD_INIT_SIZE);
QEMU_BUILD_BUG_ON(sizeof(Head) != 320);

void snap_multifd_encode_init(uint8_t buf[SNAP_MULTIFD_INIT_SIZE],
                              const QemuUUID *uuid, uint8_t channel)
{
    Init init = {
        .magic = cpu_to_be32(MAGIC),
        .version = cpu_to_be32(VERSION),
        .channel = channel,
    };

    memcpy(init.uuid, uuid->data, sizeof(init.uuid));
    memcpy(buf, &init, sizeof(init));
}

static int multifd_check_version(uint32_t magic, uint32_t version,
                                 const char *what, Error **errp)
{
    if (be32_to_cpu(magic) != MAGIC) {
        error_setg(errp, "Bad magic 0x%08x in multifd %s", be32_to_cpu(magic),
                   what);
        return -EINVAL;
    }
    if (be32_to_cpu(version) != VERSION) {
        error_setg(errp, "multifd version %u is not supported",
                   be32_to_cpu(version));
        return -ENOTSUP;
    }
    return 0;
}

int snap_multifd_decode_init(const uint8_t buf[SNAP_MULTIFD_INIT_SIZE],
                             Error **errp)
{
    Init init;
    int ret;

    memcpy(&init, buf, sizeof(init));
    ret = multifd_check_version(init.magic, init.version, "handshake", errp);
    return ret < 0 ? ret : init.channel;
}

bool snap_multifd_flushes_each_section(const char *machine)
{
    const char *version = strrchr(machine, '-');
    const char *dot, *end;
    unsigned major, minor;

    return version &&
           qemu_strtoui(version + 1, &dot, 10, &major) == 0 && *dot == '.' &&
           qemu_strtoui(dot + 1, &end, 10, &minor) == 0 &&
           (major < 8 || (major == 8 && minor < 2));
}

unsigned snap_multifd_packet_pages(const SnapRAMBlocks *ram)
{
    return SNAP_MULTIFD_DATA_SIZE >> ram->page_bits;
}

size_t snap_multifd_head_size(const SnapRAMBlocks *ram)
{
    return sizeof(Head) + sizeof(uint64_t) * snap_multifd_packet_pages(ram);
}

/* The block, and where its pages are in it. */
static void multifd_encode_pages(Head *head, const SnapMultifdPacket *packet,
                                 unsigned nb_pages, const SnapRAMBlocks *ram)
{
    const SnapRAMBlock *block = snap_ram_block_of(ram, packet->pages[0]);

    g_strlcpy(head->block, block->name, sizeof(head->block));
    for (unsigned i = 0; i < nb_pages; i++) {
        head->offsets[i] = cpu_to_be64(snap_ram_page_offset(ram, block,
                                                            packet->pages[i]));
    }
}

void snap_multifd_encode(uint8_t *buf, const SnapMultifdPacket *packet,
                         const SnapRAMBlocks *ram)
{
    unsigned nb_pages = packet->nb_normal + packet->nb_zero;
    Head *head = (Head *)buf;

    assert(nb_pages <= snap_multifd_packet_pages(ram));
    memset(buf, 0, snap_multifd_head_size(ram));
    *head = (Head) {
        .magic = cpu_to_be32(MAGIC),
        .version = cpu_to_be32(VERSION),
        .flags = cpu_to_be32(packet->sync ? FLAG_SYNC : 0),
        .pages_alloc = cpu_to_be32(snap_multifd_packet_pages(ram)),
        .nb_normal = cpu_to_be32(packet->nb_normal),
        .data_size = cpu_to_be32(packet->nb_normal << ram->page_bits),
        .number = cpu_to_be64(packet->number),
        .nb_zero = cpu_to_be32(packet->nb_zero),
    };
    if (nb_pages) {
        multifd_encode_pages(head, packet, nb_pages, ram);
    }
}

/* The counts of pages, which bound everything else. */
static int multifd_decode_counts(const Head *head, SnapMultifdPacket *packet,
                                 const SnapRAMBlocks *ram, Error **errp)
{
    unsigned max = snap_multifd_packet_pages(ram);
    uint32_t nb_normal = be32_to_cpu(head->nb_normal);
    uint32_t nb_zero = be32_to_cpu(head->nb_zero);

    if (nb_normal > max || nb_zero > max - nb_normal) {
        error_setg(errp, "multifd packet has %u normal and %u zero pages, more "
                   "than %u", nb_normal, nb_zero, max);
        return -EINVAL;
    }
    /* QEMU before 9.0 fills this in even if there is no data. */
    if (nb_normal &&
        be32_to_cpu(head->data_size) != nb_normal << ram->page_bits) {
        error_setg(errp, "multifd packet of %u pages has %u bytes of data",
                   nb_normal, be32_to_cpu(head->data_size));
        return -EINVAL;
    }
    packet->nb_normal = nb_normal;
    packet->nb_zero = nb_zero;
    return 0;
}

static int multifd_decode_pages(const Head *head, SnapMultifdPacket *packet,
                                const SnapRAMBlocks *ram, Error **errp)
{
    char name[BLOCK_NAME_SIZE + 1] = { };
    const SnapRAMBlock *block;
    int index;

    memcpy(name, head->block, BLOCK_NAME_SIZE);
    index = snap_ram_blocks_find(ram, name, -1);
    if (index < 0) {
        error_setg(errp, "multifd packet of an unknown RAM block");
        return -EINVAL;
    }
    block = &ram->blocks[index];
    for (unsigned i = 0; i < packet->nb_normal + packet->nb_zero; i++) {
        uint64_t offset = be64_to_cpu(head->offsets[i]);

        if (offset >= block->length) {
            error_setg(errp, "Page at offset 0x%" PRIx64 " lies outside RAM "
                       "block '%s'", offset, block->name);
            return -EINVAL;
        }
        if (offset & (snap_ram_page_size(ram) - 1)) {
            error_setg(errp, "Page at offset 0x%" PRIx64 " of RAM block '%s' "
                       "is unaligned", offset, block->name);
            return -EINVAL;
        }
        packet->pages[i] = snap_ram_page(ram, block, offset);
    }
    return 0;
}

int snap_multifd_decode(const uint8_t *buf, SnapMultifdPacket *packet,
                        const SnapRAMBlocks *ram, Error **errp)
{
    const Head *head = (const Head *)buf;
    uint32_t flags = be32_to_cpu(head->flags);
    int ret = multifd_check_version(head->magic, head->version, "packet", errp);

    if (ret < 0) {
        return ret;
    }
    if (flags & FLAGS_COMPRESSION) {
        error_setg(errp, "Compressed pages are not supported: set the "
                   "migration parameter 'multifd-compression' to 'none'");
        return -ENOTSUP;
    }
    if (flags & FLAG_DEVICE_STATE) {
        error_setg(errp, "Device state over multifd is not supported");
        return -ENOTSUP;
    }
    if (flags & ~FLAG_SYNC) {
        error_setg(errp, "Unknown flags 0x%x in multifd packet",
                   flags & ~FLAG_SYNC);
        return -ENOTSUP;
    }
    packet->sync = flags & FLAG_SYNC;
    packet->number = be64_to_cpu(head->number);
    ret = multifd_decode_counts(head, packet, ram, errp);
    if (!ret && packet->nb_normal + packet->nb_zero) {
        ret = multifd_decode_pages(head, packet, ram, errp);
    }
    trace_snap_multifd_packet(packet->number, packet->sync,
                              packet->nb_normal, packet->nb_zero);
    return ret;
}
