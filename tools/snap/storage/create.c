/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Creating an empty image
 */

#include "qemu/osdep.h"
#include <sys/resource.h>
#include "qemu/main-loop.h"
#include "qemu/memfd.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "block/block.h"
#include "snap/storage/create.h"
#include "snap/trace.h"

#define COPY_SIZE (1 * MiB)

/*
 * Up to this size of a disk, an image of any format is small as long as it is
 * empty, and possible.
 */
#define MAX_SIZE_IN_MEMORY (16 * TiB)

/*
 * Creation options that make an image more than one file, or let it name one,
 * in all drivers of QEMU; @part: with values that contain this, NULL for any
 */
static const struct {
    const char *name;
    const char *part;
} other_file_options[] = {
    { "backing_file" },
    { "data_file" },
    { "detached-header", "on" },
    { "detached-header", "y" },         /* "yes", "y" */
    { "detached-header", "true" },
    { "subformat", "Flat" },            /* extents of VMDK */
    { "subformat", "twoGb" },
};

bool snap_create_check_options(const QDict *options, Error **errp)
{
    for (size_t i = 0; i < ARRAY_SIZE(other_file_options); i++) {
        const char *name = other_file_options[i].name;
        const char *part = other_file_options[i].part;
        const char *value = qdict_get_try_str(options, name);

        if (value && (!part || strstr(value, part))) {
            error_setg(errp, "With the creation option '%s=%s', the image is "
                       "not one file that can be replaced as a whole: create "
                       "it with qemu-img, and save with -n", name, value);
            return false;
        }
    }
    return true;
}

static bool create_at(const char *path, const char *format,
                      const char *options, uint64_t size, Error **errp)
{
    g_autofree char *copy = g_strdup(options);
    /* Whatever else a driver makes has the guest's memory in it, too. */
    mode_t mask = umask(077);
    Error *err = NULL;

    bdrv_img_create(path, format, NULL, NULL, copy, size, 0, true, &err);
    umask(mask);
    if (err) {
        error_propagate_prepend(errp, err, "Could not create: ");
        return false;
    }
    return true;
}

/* Copy @length bytes at @offset of one file to another. */
static int copy_range(int from, int to, off_t offset, off_t length)
{
    g_autofree uint8_t *buf = g_malloc(COPY_SIZE);

    while (length > 0) {
        ssize_t n = RETRY_ON_EINTR(pread(from, buf, MIN(length, COPY_SIZE),
                                         offset));

        if (n > 0) {
            n = RETRY_ON_EINTR(pwrite(to, buf, n, offset));
        }
        if (n <= 0) {
            return n < 0 ? -errno : -EIO;
        }
        offset += n;
        length -= n;
    }
    return 0;
}

/* Copy a file with its holes. */
static int copy_sparse(int from, int to)
{
    off_t end = lseek(from, 0, SEEK_END);
    off_t data, hole = 0;
    int ret;

    if (end < 0 || ftruncate(to, end) < 0) {
        return -errno;
    }
    while (hole < end) {
        data = lseek(from, hole, SEEK_DATA);
        if (data < 0) {
            /* ENXIO: the rest is a hole. */
            return errno == ENXIO ? 0 : -errno;
        }
        hole = lseek(from, data, SEEK_HOLE);
        if (hole < 0) {
            return -errno;
        }
        ret = copy_range(from, to, data, hole - data);
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

static bool copy_to(int from, const char *path, Error **errp)
{
    int fd = qemu_open(path, O_WRONLY, errp);
    int ret;

    if (fd < 0) {
        return false;
    }
    ret = copy_sparse(from, fd);
    qemu_close(fd);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not create");
    }
    return ret == 0;
}

/*
 * Options may request what does not fit memory, or name other files; and if the
 * image cannot be made, block drivers complain that they cannot remove what has
 * no name, as luks always does without a secret.
 */
static bool fits_memory(const char *format, const char *options, uint64_t size)
{
    struct rlimit limit;

    return !options && strcmp(format, "luks") && size <= MAX_SIZE_IN_MEMORY &&
           getrlimit(RLIMIT_FSIZE, &limit) == 0 &&
           limit.rlim_cur == RLIM_INFINITY;
}

bool snap_create_image(const char *path, const char *format,
                       const char *options, uint64_t size, Error **errp)
{
    g_autofree char *memory = NULL;
    bool done;
    int fd;

    GLOBAL_STATE_CODE();
    assert(!qemu_in_coroutine());
    fd = fits_memory(format, options, size) ?
         qemu_memfd_create("image", 0, false, 0, 0, NULL) : -1;
    trace_snap_create_image(path, fd >= 0);
    if (fd < 0) {
        return create_at(path, format, options, size, errp);
    }
    memory = g_strdup_printf("/proc/self/fd/%d", fd);
    done = create_at(memory, format, NULL, size, errp) &&
           copy_to(fd, path, errp);
    close(fd);
    return done;
}
