/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The host's page cache
 */

#include "qemu/osdep.h"
#include "snap/storage/page-cache.h"
#include "snap/trace.h"

#include <sys/uio.h>

#define SAMPLES 64

/* Whether a read of data at @offset or behind it would not wait for storage. */
static bool is_cached(int fd, off_t offset)
{
    uint8_t byte;
    struct iovec iov = { &byte, 1 };

    /* Holes say nothing. */
    offset = lseek(fd, offset, SEEK_DATA);
    return offset >= 0 && preadv2(fd, &iov, 1, offset, RWF_NOWAIT) == 1;
}

bool snap_page_cache_has(const char *path)
{
    int fd = qemu_open(path, O_RDONLY, NULL);
    unsigned cached = 0;
    struct stat st;

    if (fd < 0) {
        return false;
    }
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        for (unsigned i = 0; i < SAMPLES; i++) {
            cached += is_cached(fd, st.st_size / SAMPLES * i);
        }
    }
    qemu_close(fd);
    trace_snap_page_cache(path, cached, SAMPLES);
    return cached > SAMPLES / 2;
}
