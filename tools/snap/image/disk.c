/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writing to the virtual disk that a snapshot is on
 */

#include "qemu/osdep.h"
#include "qemu/memalign.h"
#include "qapi/error.h"
#include "snap/image/disk.h"
#include "snap/image/format.h"

int coroutine_fn snap_disk_grow(BlockBackend *blk, uint64_t size,
                                uint64_t reserve, Error **errp)
{
    int64_t have = blk_co_getlength(blk);
    uint64_t wanted = ROUND_UP(size + reserve, SNAP_BLOCK_ALIGN);

    if (have < 0) {
        error_setg_errno(errp, -have, "Could not get the image's size");
        return have;
    }
    if (have >= size) {
        return 0;
    }
    return blk_co_truncate(blk, wanted, false, PREALLOC_MODE_OFF, 0, errp);
}

int coroutine_fn snap_disk_write(BlockBackend *blk, uint64_t offset,
                                 const void *buf, size_t length, Error **errp)
{
    int ret = blk_co_pwrite(blk, offset, length, buf, 0);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not write the image");
        return ret;
    }
    return 0;
}

int coroutine_fn snap_disk_write_padded(BlockBackend *blk, uint64_t offset,
                                        const void *data, size_t length,
                                        size_t padded, Error **errp)
{
    uint8_t *buf = blk_blockalign(blk, padded);
    int ret;

    memcpy(buf, data, length);
    memset(buf + length, 0, padded - length);
    ret = snap_disk_write(blk, offset, buf, padded, errp);
    qemu_vfree(buf);
    return ret;
}

int coroutine_fn snap_disk_flush(BlockBackend *blk, Error **errp)
{
    int ret = blk_co_flush(blk);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not flush the image");
        return ret;
    }
    return 0;
}
