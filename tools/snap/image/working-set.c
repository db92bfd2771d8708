/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that a guest uses first after a revert, in the order of their use
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "snap/image/working-set.h"
#include "snap/trace.h"

#define MAGIC   "QSNAPWKS"
#define VERSION 1

/* All integers are big-endian; page numbers and a checksum follow. */
typedef struct DiskHead {
    char magic[8];
    uint32_t version;
    uint32_t unused;
    uint8_t uuid[16];
    uint64_t nb_pages;
} QEMU_PACKED DiskHead;

QEMU_BUILD_BUG_ON(sizeof(DiskHead) != SNAP_WORKING_SET_HEAD);

GByteArray *snap_working_set_encode(const GArray *pages, const QemuUUID *uuid)
{
    size_t length = SNAP_WORKING_SET_HEAD + pages->len * 8;
    GByteArray *array = g_byte_array_new();
    DiskHead head = {
        .version = cpu_to_be32(VERSION),
        .nb_pages = cpu_to_be64(pages->len),
    };
    uint8_t *p;

    assert(pages->len <= SNAP_MAX_WORKING_SET);
    g_byte_array_set_size(array, length + 8);
    p = array->data;
    memcpy(head.magic, MAGIC, sizeof(head.magic));
    memcpy(head.uuid, uuid->data, sizeof(head.uuid));
    memcpy(p, &head, sizeof(head));
    for (size_t i = 0; i < pages->len; i++) {
        stq_be_p(p + SNAP_WORKING_SET_HEAD + i * 8,
                 g_array_index(pages, uint64_t, i));
    }
    stq_be_p(p + length, snap_checksum(p, length));
    return array;
}

static bool working_set_check(const uint8_t *data, size_t length,
                              const SnapHeader *header, Error **errp)
{
    const DiskHead *head = (const DiskHead *)data;

    if (length < SNAP_WORKING_SET_HEAD + 8 ||
        memcmp(head->magic, MAGIC, sizeof(head->magic)) ||
        be32_to_cpu(head->version) != VERSION) {
        error_setg(errp, "Not a working set, or an unsupported version of one");
        return false;
    }
    if (length > SNAP_MAX_WORKING_SET_BYTES ||
        (length - SNAP_WORKING_SET_HEAD - 8) / 8 !=
        be64_to_cpu(head->nb_pages) || length % 8 ||
        ldq_be_p(data + length - 8) != snap_checksum(data, length - 8)) {
        error_setg(errp, "The working set is corrupt");
        return false;
    }
    if (memcmp(head->uuid, header->uuid.data, sizeof(head->uuid))) {
        error_setg(errp, "The working set belongs to another snapshot");
        return false;
    }
    return true;
}

GArray *snap_working_set_decode(const uint8_t *data, size_t length,
                                const SnapHeader *header, Error **errp)
{
    g_autoptr(GArray) pages = g_array_new(false, false, sizeof(uint64_t));
    uint64_t nb_pages;

    if (!working_set_check(data, length, header, errp)) {
        return NULL;
    }
    nb_pages = be64_to_cpu(((const DiskHead *)data)->nb_pages);
    for (uint64_t i = 0; i < nb_pages; i++) {
        uint64_t page = ldq_be_p(data + SNAP_WORKING_SET_HEAD + i * 8);

        if (page >= header->nb_pages) {
            error_setg(errp, "The working set has a page that is not in RAM");
            return NULL;
        }
        g_array_append_val(pages, page);
    }
    trace_snap_working_set(nb_pages);
    return g_steal_pointer(&pages);
}

/* Returns: 1, 0 if there is no such file, -errno with @errp set */
static int working_set_read_file(const char *path, GByteArray *data,
                                 Error **errp)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    bool done;

    if (fd < 0) {
        int err = errno;

        if (err == ENOENT) {
            return 0;
        }
        error_setg_errno(errp, err, "Could not open '%s'", path);
        return -err;
    }
    done = fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
           st.st_size <= SNAP_MAX_WORKING_SET_BYTES;
    if (done) {
        g_byte_array_set_size(data, st.st_size);
        done = RETRY_ON_EINTR(read(fd, data->data, data->len)) == data->len;
    }
    close(fd);
    if (!done) {
        error_setg(errp, "Could not read '%s', or it is not a working set",
                   path);
        return -EIO;
    }
    return 1;
}

int snap_working_set_load(const char *path, const SnapHeader *header,
                          GArray **pages, Error **errp)
{
    ERRP_GUARD();
    g_autoptr(GByteArray) data = g_byte_array_new();
    int ret = working_set_read_file(path, data, errp);

    if (ret <= 0) {
        return ret;
    }
    *pages = snap_working_set_decode(data->data, data->len, header, errp);
    if (!*pages) {
        error_prepend(errp, "'%s': ", path);
        return -EBADMSG;
    }
    return 1;
}

bool snap_working_set_store(const char *path, const GArray *pages,
                            const QemuUUID *uuid, Error **errp)
{
    g_autoptr(GByteArray) data = snap_working_set_encode(pages, uuid);
    g_autoptr(GError) gerr = NULL;

    if (!g_file_set_contents_full(path, (const char *)data->data, data->len,
                                  G_FILE_SET_CONTENTS_CONSISTENT |
                                  G_FILE_SET_CONTENTS_DURABLE, 0600, &gerr)) {
        error_setg(errp, "Could not write the working set: %s", gerr->message);
        return false;
    }
    return true;
}
