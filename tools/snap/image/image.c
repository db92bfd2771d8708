/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A snapshot image that is open for reading
 */

#include "qemu/osdep.h"
#include <xxhash.h>
#include "qemu/bswap.h"
#include "qemu/main-loop.h"
#include "qemu/memalign.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qobject/qjson.h"
#include "snap/image/image.h"
#include "snap/image/verified-read.h"
#include "snap/image/working-set.h"
#include "snap/trace.h"

static void image_part_corrupt(SnapPart part, Error **errp)
{
    error_setg(errp, "The snapshot's %s is corrupt", snap_part_name(part));
}

static int coroutine_fn image_read_header(SnapImage *image, Error **errp)
{
    int64_t size = blk_co_getlength(image->blk);
    uint8_t *buf;
    int ret;

    if (size < 0) {
        error_setg_errno(errp, -size, "Could not get the image's size");
        return size;
    }
    if (size < SNAP_BLOCK_ALIGN) {
        error_setg(errp, "Not a snapshot: the image is too small");
        return -EINVAL;
    }
    buf = blk_blockalign(image->blk, SNAP_HEADER_SIZE);
    ret = blk_co_pread(image->blk, 0, SNAP_HEADER_SIZE, buf, 0);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read the snapshot's header");
    } else {
        ret = snap_header_decode(&image->header, buf, size, errp);
    }
    qemu_vfree(buf);
    return ret;
}

static int coroutine_fn image_read_block_table(SnapImage *image, Error **errp)
{
    g_autoptr(GByteArray) table = snap_image_read_part(image,
                                                       SNAP_PART_BLOCK_TABLE,
                                                       errp);
    const SnapHeader *header = &image->header;
    int ret;

    if (!table) {
        return -EIO;
    }
    ret = snap_block_table_decode(&image->ram, &image->counts, header,
                                  table->data, table->len, errp);
    if (ret < 0) {
        return ret;
    }
    if (!snap_layout_init(&image->layout, &image->ram, NULL)) {
        image_part_corrupt(SNAP_PART_BLOCK_TABLE, errp);
        return -EBADMSG;
    }
    for (unsigned i = 0; i < SNAP_PART__MAX; i++) {
        if (header->parts[i].length &&
            header->parts[i].offset < image->layout.ram_end) {
            error_setg(errp, "The snapshot's %s overlaps its RAM",
                       snap_part_name(i));
            return -EBADMSG;
        }
    }
    return 0;
}

SnapImage *coroutine_fn snap_image_open(BlockBackend *blk, Error **errp)
{
    g_autoptr(SnapImage) image = g_new0(SnapImage, 1);

    image->blk = blk;
    image->verify_pages = true;
    image->source = (SnapPageSource) {
        .ops = &snap_verified_read_ops,
        .ram = &image->ram,
    };
    if (image_read_header(image, errp) < 0 ||
        image_read_block_table(image, errp) < 0) {
        return NULL;
    }
    trace_snap_image_open(image->ram.nb_blocks, image->ram.nb_pages);
    return g_steal_pointer(&image);
}

bool snap_image_is_present(BlockBackend *blk)
{
    uint8_t buf[SNAP_HEADER_SIZE];

    GLOBAL_STATE_CODE();
    assert(!qemu_in_coroutine());
    return blk_pread(blk, 0, sizeof(buf), buf, 0) == 0 &&
           snap_header_present(buf);
}

void snap_image_close(SnapImage *image)
{
    if (image) {
        snap_layout_destroy(&image->layout);
        snap_ram_blocks_destroy(&image->ram);
        g_free(image->counts);
        g_free(image);
    }
}

uint64_t snap_image_stored_pages(const SnapImage *image)
{
    uint64_t stored = 0;

    for (unsigned i = 0; i < image->ram.nb_blocks; i++) {
        stored += image->counts[i].stored;
    }
    return stored;
}

static int coroutine_fn image_read_at(SnapImage *image, SnapPart part,
                                      uint64_t offset, size_t length, void *buf,
                                      Error **errp)
{
    int ret = blk_co_pread(image->blk, offset, length, buf, 0);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not read the snapshot's %s",
                         snap_part_name(part));
    }
    return ret;
}

/* Check the description, which its checksum follows, and cut that off. */
static bool image_check_vmdesc(GByteArray *array)
{
    size_t length = array->len - SNAP_VMDESC_TRAILER;

    if (array->len < SNAP_VMDESC_TRAILER ||
        ldq_be_p(array->data + length) != snap_checksum(array->data, length)) {
        return false;
    }
    g_byte_array_set_size(array, length);
    return true;
}

GByteArray *coroutine_fn snap_image_read_part(SnapImage *image, SnapPart part,
                                              Error **errp)
{
    const SnapPartInfo *info = &image->header.parts[part];
    g_autoptr(GByteArray) array = g_byte_array_new();
    bool valid;

    if (info->length > SNAP_MAX_PART_IN_MEMORY) {
        error_setg(errp, "The snapshot's %s is too large",
                   snap_part_name(part));
        return NULL;
    }
    if (!info->length) {
        return g_steal_pointer(&array);
    }
    g_byte_array_set_size(array, info->length);
    if (image_read_at(image, part, info->offset, info->length, array->data,
                      errp) < 0) {
        return NULL;
    }
    if (part == SNAP_PART_VMDESC) {
        valid = image_check_vmdesc(array);
    } else if (part == SNAP_PART_WORKING_SET) {
        valid = true;       /* snap_working_set_decode() will tell */
    } else {
        valid = snap_checksum(array->data, array->len) == info->checksum;
    }
    if (!valid) {
        image_part_corrupt(part, errp);
        return NULL;
    }
    return g_steal_pointer(&array);
}

int coroutine_fn snap_image_copy_part(SnapImage *image, SnapPart part,
                                      SnapPartFunc *func, void *opaque,
                                      Error **errp)
{
    const SnapPartInfo *info = &image->header.parts[part];
    XXH3_state_t *hash = XXH3_createState();
    uint8_t *buf = blk_blockalign(image->blk, SNAP_DEVICE_CHUNK);
    int ret = 0;

    XXH3_64bits_reset(hash);
    for (uint64_t pos = 0; !ret && pos < info->length;
         pos += SNAP_DEVICE_CHUNK) {
        size_t length = MIN(info->length - pos, SNAP_DEVICE_CHUNK);

        ret = image_read_at(image, part, info->offset + pos, length, buf, errp);
        if (!ret) {
            XXH3_64bits_update(hash, buf, length);
            if (func) {
                func(opaque, buf, length);
            }
        }
    }
    if (!ret && info->length && XXH3_64bits_digest(hash) != info->checksum) {
        image_part_corrupt(part, errp);
        ret = -EBADMSG;
    }
    qemu_vfree(buf);
    XXH3_freeState(hash);
    return ret;
}

static SnapTable *image_open_table(SnapImage *image, SnapPart part,
                                   uint64_t nb_entries, unsigned cached_chunks)
{
    return snap_blk_table_new(image->blk, snap_part_name(part),
                              image->header.parts[part].offset, nb_entries,
                              snap_header_seed(&image->header, part), false,
                              cached_chunks);
}

SnapTable *snap_image_page_table(SnapImage *image, unsigned cached_chunks)
{
    return image_open_table(image, SNAP_PART_PAGE_TABLE, image->header.nb_pages,
                            cached_chunks);
}

SnapTable *snap_image_arrivals(SnapImage *image, unsigned cached_chunks)
{
    return image_open_table(image, SNAP_PART_ARRIVALS,
                            image->header.nb_arrivals, cached_chunks);
}

QDict *coroutine_fn snap_image_metadata(SnapImage *image, Error **errp)
{
    g_autoptr(GByteArray) array = snap_image_read_part(image,
                                                       SNAP_PART_METADATA,
                                                       errp);
    QObject *object;
    QDict *dict;

    if (!array) {
        return NULL;
    }
    if (!array->len) {
        return qdict_new();
    }
    g_byte_array_append(array, (const uint8_t *)"", 1);
    object = qobject_from_json((const char *)array->data, NULL);
    dict = qobject_to(QDict, object);
    if (!dict) {
        qobject_unref(object);
        image_part_corrupt(SNAP_PART_METADATA, errp);
    }
    return dict;
}

int coroutine_fn snap_image_working_set(SnapImage *image, GArray **pages,
                                        Error **errp)
{
    g_autoptr(GByteArray) data = NULL;

    if (!image->header.parts[SNAP_PART_WORKING_SET].length) {
        return 0;
    }
    data = snap_image_read_part(image, SNAP_PART_WORKING_SET, errp);
    if (!data) {
        return -EIO;
    }
    *pages = snap_working_set_decode(data->data, data->len, &image->header,
                                     errp);
    return *pages ? 1 : -EBADMSG;
}

int coroutine_fn snap_image_check_arrivals(SnapImage *image, uint64_t *nb,
                                           Error **errp)
{
    /* They are read in order. */
    g_autoptr(SnapTable) arrivals = snap_image_arrivals(image, 1);

    for (*nb = 0; *nb < image->header.nb_arrivals; ++*nb) {
        uint64_t page;
        int ret = snap_table_get(arrivals, *nb, &page, errp);

        if (!ret && page >= image->ram.nb_pages) {
            image_part_corrupt(SNAP_PART_ARRIVALS, errp);
            ret = -EBADMSG;
        }
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}
