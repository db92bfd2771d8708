/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writing a snapshot image, except the pages themselves
 */

#include "qemu/osdep.h"
#include <xxhash.h>
#include "qemu/bswap.h"
#include "qemu/memalign.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qobject/qjson.h"
#include "snap/image/disk.h"
#include "snap/image/image.h"
#include "snap/image/writer.h"
#include "snap/trace.h"

/* Chunks of the tables in memory: 8 MiB and 1 MiB. */
#define PAGE_TABLE_CHUNKS 128
#define ARRIVAL_CHUNKS 16

/* The header is written as one block of this size, zeroes after it. */
#define HEADER_BLOCK 4096

struct SnapImageWriter {
    /* constant */
    BlockBackend *blk;
    const SnapLayout *layout;
    const SnapRAMSection *section;
    SnapTable *page_table;
    SnapTable *arrivals;
    SnapSyncFunc *sync;         /* NULL if a flush is enough */
    void *sync_opaque;

    bool claimed;               /* others may write to the image, too */

    /* device state: the bytes since the last whole chunk are in @chunk */
    uint8_t *chunk;
    uint64_t devices_length;
    XXH3_state_t *devices_hash;

    /* complete at the commit */
    SnapHeader header;
};

static uint64_t part_align(uint64_t offset)
{
    return ROUND_UP(offset, SNAP_PART_ALIGN);
}

static uint64_t arrivals_offset(const SnapLayout *layout)
{
    return layout->ram_end + snap_table_bytes(layout->ram->nb_pages);
}

static uint64_t devices_offset(const SnapLayout *layout)
{
    return arrivals_offset(layout) + snap_table_bytes(SNAP_MAX_ARRIVALS);
}

uint64_t snap_image_writer_size(const SnapLayout *layout)
{
    return ROUND_UP(devices_offset(layout) + SNAP_DEVICE_RESERVE,
                    SNAP_BLOCK_ALIGN);
}

static SnapTable *new_table(SnapImageWriter *w, SnapPart part, uint64_t offset,
                            uint64_t nb_entries, unsigned cached_chunks)
{
    return snap_blk_table_new(w->blk, snap_part_name(part), offset, nb_entries,
                              snap_header_seed(&w->header, part), true,
                              cached_chunks);
}

SnapImageWriter *snap_image_writer_new(BlockBackend *blk,
                                       const SnapLayout *layout,
                                       const SnapRAMSection *section)
{
    SnapImageWriter *w = g_new0(SnapImageWriter, 1);

    w->blk = blk;
    w->layout = layout;
    w->section = section;
    w->header = (SnapHeader) {
        .page_bits = layout->ram->page_bits,
        .nb_blocks = layout->ram->nb_blocks,
        .nb_pages = layout->ram->nb_pages,
    };
    qemu_uuid_generate(&w->header.uuid);

    w->page_table = new_table(w, SNAP_PART_PAGE_TABLE, layout->ram_end,
                              layout->ram->nb_pages, PAGE_TABLE_CHUNKS);
    w->arrivals = new_table(w, SNAP_PART_ARRIVALS, arrivals_offset(layout),
                            SNAP_MAX_ARRIVALS, ARRIVAL_CHUNKS);
    w->chunk = blk_blockalign(blk, SNAP_DEVICE_CHUNK);
    w->devices_hash = XXH3_createState();
    XXH3_64bits_reset(w->devices_hash);
    return w;
}

void snap_image_writer_set_sync(SnapImageWriter *w, SnapSyncFunc *func,
                                void *opaque)
{
    w->sync = func;
    w->sync_opaque = opaque;
}

void snap_image_writer_free(SnapImageWriter *w)
{
    if (!w) {
        return;
    }
    snap_table_free(w->page_table);
    snap_table_free(w->arrivals);
    qemu_vfree(w->chunk);
    XXH3_freeState(w->devices_hash);
    g_free(w);
}

const QemuUUID *snap_image_writer_uuid(const SnapImageWriter *w)
{
    return &w->header.uuid;
}

SnapTable *snap_image_writer_page_table(SnapImageWriter *w)
{
    return w->page_table;
}

SnapTable *snap_image_writer_arrivals(SnapImageWriter *w)
{
    return w->arrivals;
}

static int coroutine_fn flush_image(SnapImageWriter *w, Error **errp)
{
    int ret = snap_disk_flush(w->blk, errp);

    if (ret < 0 || !w->sync) {
        return ret;
    }
    ret = w->sync(w->sync_opaque);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not flush the image");
    }
    return ret;
}

/* Write at @offset, and let the image grow if it has to. */
static int coroutine_fn write_at(SnapImageWriter *w, uint64_t offset,
                                 const void *buf, size_t length, Error **errp)
{
    int ret = snap_disk_grow(w->blk, offset + length, SNAP_DEVICE_RESERVE,
                             errp);

    return ret < 0 ? ret : snap_disk_write(w->blk, offset, buf, length, errp);
}

/* Write bytes that are not aligned, with zeroes up to the next alignment. */
static int coroutine_fn write_padded(SnapImageWriter *w, uint64_t offset,
                                     const void *data, size_t length,
                                     Error **errp)
{
    size_t padded = ROUND_UP(length, HEADER_BLOCK);
    int ret = snap_disk_grow(w->blk, offset + padded, SNAP_DEVICE_RESERVE,
                             errp);

    return ret < 0 ? ret : snap_disk_write_padded(w->blk, offset, data, length,
                                                  padded, errp);
}

/* No header, in its place, but whose it is going to be. */
static int coroutine_fn write_claim(SnapImageWriter *w, Error **errp)
{
    uint8_t claim[SNAP_HEADER_SIZE];

    snap_header_encode_claim(&w->header.uuid, claim);
    return write_padded(w, 0, claim, sizeof(claim), errp);
}

/*
 * Check that nobody else has begun to write to an image that was claimed.
 * Storage without locks lets them, and then only the last one may report a good
 * snapshot.
 */
static int coroutine_fn check_claim(SnapImageWriter *w, Error **errp)
{
    uint8_t *buf;
    int ret;

    if (!w->claimed) {
        return 0;
    }
    buf = blk_blockalign(w->blk, HEADER_BLOCK);
    ret = blk_co_pread(w->blk, 0, HEADER_BLOCK, buf, 0);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read the image");
    } else if (!snap_header_is_of(buf, &w->header.uuid)) {
        error_setg(errp, "Another save has begun to write to this image");
        ret = -EBUSY;
    }
    qemu_vfree(buf);
    return MIN(ret, 0);
}

int coroutine_fn snap_image_writer_invalidate(SnapImageWriter *w, Error **errp)
{
    int ret = check_claim(w, errp);

    if (ret < 0) {
        return ret;
    }
    w->claimed = true;
    ret = write_claim(w, errp);
    return ret < 0 ? ret : flush_image(w, errp);
}

/* Write the chunks of the tables that are not on disk yet. */
static int coroutine_fn write_tables(SnapImageWriter *w, Error **errp)
{
    int ret = check_claim(w, errp);

    if (ret < 0) {
        return ret;
    }
    ret = snap_table_flush(w->page_table, w->layout->ram->nb_pages, errp);
    return ret < 0 ? ret : snap_table_flush(w->arrivals,
                                            w->header.nb_arrivals, errp);
}

int coroutine_fn snap_image_writer_flush_ram(SnapImageWriter *w,
                                             uint64_t nb_arrivals,
                                             Error **errp)
{
    int ret;

    w->header.nb_arrivals = nb_arrivals;
    ret = write_tables(w, errp);
    return ret < 0 ? ret : flush_image(w, errp);
}

int coroutine_fn snap_image_writer_devices(SnapImageWriter *w,
                                           const void *data, size_t length,
                                           Error **errp)
{
    const uint8_t *p = data;

    XXH3_64bits_update(w->devices_hash, data, length);
    while (length) {
        size_t used = w->devices_length % SNAP_DEVICE_CHUNK;
        size_t n = MIN(length, SNAP_DEVICE_CHUNK - used);

        memcpy(w->chunk + used, p, n);
        w->devices_length += n;
        p += n;
        length -= n;
        if (used + n == SNAP_DEVICE_CHUNK) {
            uint64_t offset = devices_offset(w->layout) + w->devices_length -
                              SNAP_DEVICE_CHUNK;
            int ret = write_at(w, offset, w->chunk, SNAP_DEVICE_CHUNK, errp);

            if (ret < 0) {
                return ret;
            }
        }
    }
    return 0;
}

/* Write the device state's bytes that did not fill a chunk. */
static int coroutine_fn write_devices_rest(SnapImageWriter *w, Error **errp)
{
    size_t rest = w->devices_length % SNAP_DEVICE_CHUNK;

    if (!rest) {
        return 0;
    }
    return write_padded(w, devices_offset(w->layout) + w->devices_length - rest,
                        w->chunk, rest, errp);
}

/* Write a part at *@offset, and advance that past it. */
static int coroutine_fn write_part(SnapImageWriter *w, SnapPart part,
                                   const void *data, size_t length,
                                   uint64_t *offset, Error **errp)
{
    w->header.parts[part] = (SnapPartInfo) {
        .offset = *offset,
        .length = length,
        .checksum = length ? snap_checksum(data, length) : 0,
    };
    *offset = part_align(*offset + length);
    return length ? write_padded(w, w->header.parts[part].offset, data, length,
                                 errp) : 0;
}

/* The description's place, filled with zeroes so that it is allocated. */
static int coroutine_fn reserve_vmdesc(SnapImageWriter *w, size_t length,
                                       uint64_t *offset, Error **errp)
{
    g_autofree uint8_t *zero = NULL;
    int ret;

    if (!length) {
        w->header.parts[SNAP_PART_VMDESC] = (SnapPartInfo) { };
        return 0;
    }
    length += SNAP_VMDESC_TRAILER;
    zero = g_malloc0(length);
    ret = write_part(w, SNAP_PART_VMDESC, zero, length, offset, errp);
    w->header.parts[SNAP_PART_VMDESC].checksum = 0;
    return ret;
}

static int coroutine_fn write_bytes(SnapImageWriter *w, SnapPart part,
                                    const GByteArray *bytes, uint64_t *offset,
                                    Error **errp)
{
    return write_part(w, part, bytes->data, bytes->len, offset, errp);
}

static int coroutine_fn write_parts(SnapImageWriter *w,
                                    const SnapCommitInfo *info, Error **errp)
{
    g_autoptr(GByteArray) blocks = g_byte_array_new();
    g_autoptr(GString) metadata = qobject_to_json(QOBJECT(info->metadata));
    uint64_t offset = part_align(devices_offset(w->layout) +
                                 w->devices_length);
    int ret;

    snap_block_table_encode(w->layout->ram, info->counts, blocks);
    ret = reserve_vmdesc(w, info->vmdesc_length, &offset, errp);
    if (ret < 0) {
        return ret;
    }
    ret = write_bytes(w, SNAP_PART_BLOCK_TABLE, blocks, &offset, errp);
    if (ret < 0) {
        return ret;
    }
    ret = write_bytes(w, SNAP_PART_CONFIGURATION, info->configuration, &offset,
                      errp);
    if (ret < 0) {
        return ret;
    }
    ret = write_bytes(w, SNAP_PART_SETUP, info->setup, &offset, errp);
    if (ret < 0) {
        return ret;
    }
    return write_part(w, SNAP_PART_METADATA, metadata->str, metadata->len,
                      &offset, errp);
}

static void fill_header(SnapImageWriter *w, const SnapCommitInfo *info)
{
    SnapHeader *header = &w->header;

    header->created = g_get_real_time() / G_USEC_PER_SEC;
    header->section = *w->section;
    header->flags = info->flags;
    header->before_ram = info->before_ram;
    header->parts[SNAP_PART_PAGE_TABLE] = (SnapPartInfo) {
        .offset = w->layout->ram_end,
        .length = snap_table_bytes(header->nb_pages),
    };
    header->parts[SNAP_PART_ARRIVALS] = (SnapPartInfo) {
        .offset = arrivals_offset(w->layout),
        .length = snap_table_bytes(header->nb_arrivals),
    };
    header->parts[SNAP_PART_DEVICES] = (SnapPartInfo) {
        .offset = devices_offset(w->layout),
        .length = w->devices_length,
        .checksum = XXH3_64bits_digest(w->devices_hash),
    };
}

/* Write all but the header, and flush it. */
static int coroutine_fn write_body(SnapImageWriter *w,
                                   const SnapCommitInfo *info, Error **errp)
{
    int ret;

    ret = write_tables(w, errp);
    if (ret < 0) {
        return ret;
    }
    ret = write_devices_rest(w, errp);
    if (ret < 0) {
        return ret;
    }
    ret = write_parts(w, info, errp);
    if (ret < 0) {
        return ret;
    }
    if (!w->claimed) {
        /*
         * Allocate the header's cluster now, so that writing the header itself
         * needs no metadata update.
         */
        ret = write_claim(w, errp);
        if (ret < 0) {
            return ret;
        }
    }
    return flush_image(w, errp);
}

static int coroutine_fn commit_header(SnapImageWriter *w,
                                      const SnapCommitInfo *info, Error **errp)
{
    uint8_t header[SNAP_HEADER_SIZE];
    int ret;

    fill_header(w, info);
    snap_header_encode(&w->header, header);
    ret = write_padded(w, 0, header, sizeof(header), errp);
    return ret < 0 ? ret : flush_image(w, errp);
}

int coroutine_fn snap_image_writer_finish(SnapImageWriter *w,
                                          const SnapCommitInfo *info,
                                          Error **errp)
{
    int ret;

    ret = write_body(w, info, errp);
    if (ret < 0) {
        return ret;
    }
    ret = check_claim(w, errp);
    if (ret < 0) {
        return ret;
    }
    ret = commit_header(w, info, errp);
    trace_snap_image_commit(w->devices_length, info->vmdesc_length, ret);
    return ret;
}

int coroutine_fn snap_image_writer_vmdesc(SnapImageWriter *w, const void *data,
                                          size_t length, Error **errp)
{
    g_autofree uint8_t *buf = g_malloc(length + SNAP_VMDESC_TRAILER);
    int ret = check_claim(w, errp);

    assert(length + SNAP_VMDESC_TRAILER ==
           w->header.parts[SNAP_PART_VMDESC].length);
    if (ret < 0) {
        return ret;
    }
    memcpy(buf, data, length);
    stq_be_p(buf + length, snap_checksum(data, length));
    return write_padded(w, w->header.parts[SNAP_PART_VMDESC].offset, buf,
                        length + SNAP_VMDESC_TRAILER, errp);
}
