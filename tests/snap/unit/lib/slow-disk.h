/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A disk in memory whose requests take a while, and fail when told to
 *
 * Each request takes effect after a random delay, so requests that are in
 * flight together overtake each other.
 */

#ifndef SNAP_TESTS_SLOW_DISK_H
#define SNAP_TESTS_SLOW_DISK_H

#include <sys/mman.h>
#include "block/block_int.h"
#include "qemu/iov.h"
#include "qapi/error.h"
#include "system/block-backend.h"

#define SLOW_DISK_SIZE      (128 * MiB)
#define SLOW_DISK_MAX_DELAY (200 * SCALE_US)

/**
 * SlowDisk: state of the disk
 * @bytes: what it holds
 * @rand: for the delays
 * @nb_writes, @nb_reads: requests so far
 * @in_flight, @max_in_flight: requests at the same time
 * @log: a letter for each write and flush: H for a write of the first sector,
 *       W for any other one, F for a flush
 * @fail_at: writes that touch this offset fail; -1 for none
 * @fail_nth: this letter of the log fails; -1 for none
 * @fail_reads: reads fail, wherever they are
 * @fail_ret: how requests fail, 0 for not at all
 * @hangs: no request is complete
 */
typedef struct SlowDisk {
    uint8_t *bytes;
    GRand *rand;
    unsigned nb_writes;
    unsigned nb_reads;
    unsigned in_flight;
    unsigned max_in_flight;
    GString *log;
    int64_t fail_at;
    int fail_nth;
    bool fail_reads;
    int fail_ret;
    bool hangs;
} SlowDisk;

static void coroutine_fn slow_disk_delay(SlowDisk *d)
{
    int64_t delay = g_rand_int_range(d->rand, 1000, SLOW_DISK_MAX_DELAY);

    d->in_flight++;
    d->max_in_flight = MAX(d->max_in_flight, d->in_flight);
    do {
        qemu_co_sleep_ns(QEMU_CLOCK_REALTIME, delay);
    } while (d->hangs);
    d->in_flight--;
}

static int coroutine_fn slow_disk_preadv(BlockDriverState *bs, int64_t offset,
                                         int64_t bytes, QEMUIOVector *qiov,
                                         BdrvRequestFlags flags)
{
    SlowDisk *d = bs->opaque;

    d->nb_reads++;
    slow_disk_delay(d);
    if (d->fail_reads) {
        return d->fail_ret;
    }
    qemu_iovec_from_buf(qiov, 0, d->bytes + offset, bytes);
    return 0;
}

static int coroutine_fn slow_disk_pwritev(BlockDriverState *bs, int64_t offset,
                                          int64_t bytes, QEMUIOVector *qiov,
                                          BdrvRequestFlags flags)
{
    SlowDisk *d = bs->opaque;
    bool fails = d->fail_nth == d->log->len ||
                 (d->fail_at >= offset && d->fail_at < offset + bytes);

    d->nb_writes++;
    g_string_append_c(d->log, offset ? 'W' : 'H');
    slow_disk_delay(d);
    if (fails && d->fail_ret) {
        return d->fail_ret;
    }
    qemu_iovec_to_buf(qiov, 0, d->bytes + offset, bytes);
    return 0;
}

static int coroutine_fn slow_disk_flush(BlockDriverState *bs)
{
    SlowDisk *d = bs->opaque;
    bool fails = d->fail_nth == d->log->len;

    g_string_append_c(d->log, 'F');
    return fails ? d->fail_ret : 0;
}

static int64_t coroutine_fn slow_disk_getlength(BlockDriverState *bs)
{
    return SLOW_DISK_SIZE;
}

static void slow_disk_close(BlockDriverState *bs)
{
    SlowDisk *d = bs->opaque;

    munmap(d->bytes, SLOW_DISK_SIZE);
    g_rand_free(d->rand);
    g_string_free(d->log, true);
}

static BlockDriver slow_disk_driver = {
    .format_name        = "slow-disk",
    .instance_size      = sizeof(SlowDisk),
    .bdrv_close         = slow_disk_close,
    .bdrv_co_preadv     = slow_disk_preadv,
    .bdrv_co_pwritev    = slow_disk_pwritev,
    .bdrv_co_flush      = slow_disk_flush,
    .bdrv_co_getlength  = slow_disk_getlength,
};

/* Open a disk of zeroes. */
static BlockBackend *slow_disk_open(SlowDisk **disk)
{
    BlockBackend *blk = blk_new(qemu_get_aio_context(), BLK_PERM_ALL,
                                BLK_PERM_ALL);
    BlockDriverState *bs = bdrv_new_open_driver(&slow_disk_driver, "disk",
                                                BDRV_O_RDWR, &error_abort);

    *disk = bs->opaque;
    /* Most of it is never touched. */
    (*disk)->bytes = mmap(NULL, SLOW_DISK_SIZE, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    g_assert_true((*disk)->bytes != MAP_FAILED);
    (*disk)->rand = g_rand_new_with_seed(20260103);
    (*disk)->log = g_string_new(NULL);
    (*disk)->fail_at = -1;
    (*disk)->fail_nth = -1;
    blk_insert_bs(blk, bs, &error_abort);
    bdrv_unref(bs);
    return blk;
}

#endif /* SNAP_TESTS_SLOW_DISK_H */
