/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the fuzzers have in common
 */

#include "qemu/osdep.h"
#include <sys/mman.h>
#include "block/block_int.h"
#include "monitor/monitor.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/iov.h"
#include "qemu/main-loop.h"
#include "qemu/memfd.h"
#include "qemu/module.h"
#include "snap/util/task.h"
#include "../unit/lib/test-channel.h"
#include "fuzz.h"

#define PIPE_SIZE (1 * MiB)

/* Turns that a pause gives away at most. */
#define MAX_TURNS 4

void fuzz_fail(const char *condition, const char *file, int line,
               const char *format, ...)
{
    va_list ap;

    fprintf(stderr, "%s:%d: not true: %s: ", file, line, condition);
    va_start(ap, format);
    vfprintf(stderr, format, ap);
    va_end(ap);
    fprintf(stderr, "\n");
    abort();
}

/* --- messages: thousands a second are of no use --- */

int error_vprintf(const char *fmt, va_list ap)
{
    return 0;
}

int error_vprintf_unless_qmp(const char *fmt, va_list ap)
{
    return 0;
}

/* --- bytes --- */

FuzzBytes fuzz_take(FuzzBytes *bytes, size_t size)
{
    FuzzBytes taken = { bytes->data, MIN(size, bytes->size) };

    bytes->data += taken.size;
    bytes->size -= taken.size;
    return taken;
}

static uint32_t take_be(FuzzBytes *bytes, size_t size)
{
    FuzzBytes taken = fuzz_take(bytes, size);
    uint32_t value = 0;

    for (size_t i = 0; i < size; i++) {
        value = value << 8 | (i < taken.size ? taken.data[i] : 0);
    }
    return value;
}

uint8_t fuzz_u8(FuzzBytes *bytes)
{
    return take_be(bytes, 1);
}

uint16_t fuzz_be16(FuzzBytes *bytes)
{
    return take_be(bytes, 2);
}

uint32_t fuzz_be32(FuzzBytes *bytes)
{
    return take_be(bytes, 4);
}

/* --- coroutines --- */

static uint32_t next_random(uint32_t *seed)
{
    *seed = *seed * 1664525 + 1013904223;
    return *seed >> 16;
}

void coroutine_fn fuzz_pause(uint32_t *seed)
{
    unsigned turns = next_random(seed) % (MAX_TURNS + 1);

    while (turns--) {
        snap_co_pause();
    }
}

/* --- the disk --- */

typedef struct DiskState {
    FuzzDisk *disk;
} DiskState;

/* The disk that is opened next, by options */
static FuzzDisk *next_disk;

static int coroutine_fn begin_request(FuzzDisk *disk)
{
    bool fails = ++disk->nb_requests == disk->fail_at;

    if (disk->seed) {
        fuzz_pause(&disk->seed);
    }
    disk->failed |= fails;
    return fails ? -EIO : 0;
}

static int coroutine_fn disk_preadv(BlockDriverState *bs, int64_t offset,
                                    int64_t bytes, QEMUIOVector *qiov,
                                    BdrvRequestFlags flags)
{
    FuzzDisk *disk = ((DiskState *)bs->opaque)->disk;
    int ret = begin_request(disk);

    fuzz_check(offset >= 0 && bytes >= 0 && offset + bytes <= disk->size);
    if (!ret) {
        qemu_iovec_from_buf(qiov, 0, disk->bytes + offset, bytes);
    }
    return ret;
}

static int coroutine_fn disk_pwritev(BlockDriverState *bs, int64_t offset,
                                     int64_t bytes, QEMUIOVector *qiov,
                                     BdrvRequestFlags flags)
{
    FuzzDisk *disk = ((DiskState *)bs->opaque)->disk;
    int ret = begin_request(disk);

    fuzz_check(offset >= 0 && bytes >= 0 && offset + bytes <= disk->size);
    if (!ret) {
        qemu_iovec_to_buf(qiov, 0, disk->bytes + offset, bytes);
    }
    return ret;
}

static int coroutine_fn disk_flush(BlockDriverState *bs)
{
    return begin_request(((DiskState *)bs->opaque)->disk);
}

static int64_t coroutine_fn disk_getlength(BlockDriverState *bs)
{
    return ((DiskState *)bs->opaque)->disk->size;
}

static int coroutine_fn disk_get_info(BlockDriverState *bs,
                                      BlockDriverInfo *info)
{
    info->cluster_size = ((DiskState *)bs->opaque)->disk->cluster_size;
    return info->cluster_size ? 0 : -ENOTSUP;
}

static int disk_open(BlockDriverState *bs, QDict *options, int flags,
                     Error **errp)
{
    ((DiskState *)bs->opaque)->disk = next_disk;
    return 0;
}

static BlockDriver disk_driver = {
    .format_name        = "fuzz-disk",
    .protocol_name      = "fuzz-disk",
    .instance_size      = sizeof(DiskState),
    .bdrv_open          = disk_open,
    .bdrv_co_preadv     = disk_preadv,
    .bdrv_co_pwritev    = disk_pwritev,
    .bdrv_co_flush      = disk_flush,
    .bdrv_co_getlength  = disk_getlength,
    .bdrv_co_get_info   = disk_get_info,
};

void fuzz_disk_init(FuzzDisk *disk, uint64_t size)
{
    *disk = (FuzzDisk) { .size = size };
    disk->bytes = mmap(NULL, size, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    fuzz_check(disk->bytes != MAP_FAILED);
}

void fuzz_disk_destroy(FuzzDisk *disk)
{
    munmap(disk->bytes, disk->size);
}

const char *fuzz_disk_options(FuzzDisk *disk)
{
    next_disk = disk;
    return "driver=fuzz-disk";
}

BlockBackend *fuzz_disk_open(FuzzDisk *disk)
{
    BlockBackend *blk = blk_new(qemu_get_aio_context(), BLK_PERM_ALL,
                                BLK_PERM_ALL);
    BlockDriverState *bs;

    next_disk = disk;
    bs = bdrv_new_open_driver(&disk_driver, NULL, BDRV_O_RDWR, &error_abort);
    blk_insert_bs(blk, bs, &error_abort);
    bdrv_unref(bs);
    return blk;
}

/* --- the channel --- */

QIOChannel *fuzz_channel_new(FuzzBytes bytes, size_t chunk, uint32_t seed)
{
    TestChannel *channel = test_channel_new(bytes.data, bytes.size,
                                            MAX(chunk, 1));

    channel->pause = seed ? fuzz_pause : NULL;
    channel->seed = seed;
    return QIO_CHANNEL(channel);
}

/* --- the transport --- */

static void replace_fd(int fd, int with)
{
    fuzz_check(dup2(with, fd) == fd);
}

SnapTransport *fuzz_transport_open(int in, int out)
{
    int null = qemu_open("/dev/null", O_RDWR, &error_abort);
    SnapTransport *transport;

    replace_fd(STDIN_FILENO, in < 0 ? null : in);
    replace_fd(STDOUT_FILENO, out < 0 ? null : out);
    if (in >= 0) {
        close(in);
    }
    transport = snap_transport_open(NULL, true, NULL, &error_abort);
    replace_fd(STDIN_FILENO, null);
    replace_fd(STDOUT_FILENO, null);
    close(null);
    return transport;
}

static void write_all(int fd, FuzzBytes bytes)
{
    while (bytes.size) {
        ssize_t ret = write(fd, bytes.data, bytes.size);

        if (ret <= 0) {
            return;     /* the pipe is full */
        }
        fuzz_take(&bytes, ret);
    }
}

int fuzz_pipe_with(FuzzBytes bytes)
{
    int fds[2];

    fuzz_check(pipe2(fds, O_CLOEXEC) == 0);
    fcntl(fds[1], F_SETPIPE_SZ, PIPE_SIZE);
    fcntl(fds[1], F_SETFL, O_NONBLOCK);
    write_all(fds[1], bytes);
    close(fds[1]);
    return fds[0];
}

int fuzz_file_with(FuzzBytes bytes)
{
    int fd = qemu_memfd_create("fuzz", 0, false, 0, 0, &error_abort);

    write_all(fd, bytes);
    fuzz_check(lseek(fd, 0, SEEK_SET) == 0);
    return fd;
}

/* --- libFuzzer --- */

/*
 * The tool's buffers are large, and used once: to keep them, or to map memory
 * anew for what is known of them, costs nine tenths of the speed.
 */
const char *__asan_default_options(void)
{
    return "quarantine_size_mb=1:clear_shadow_mmap_threshold=1073741824:"
           "allow_addr2line=1";
}

const char *__ubsan_default_options(void)
{
    return "print_stacktrace=1";
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    signal(SIGPIPE, SIG_IGN);
    error_init((*argv)[0]);
    qemu_init_main_loop(&error_fatal);
    module_call_init(MODULE_INIT_QOM);
    bdrv_init();
    bdrv_register(&disk_driver);
    return 0;
}
