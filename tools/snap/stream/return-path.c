/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The return path (migration/migration.c:source_return_path_thread,
 * migration/ram.c:ram_dirty_bitmap_reload)
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "migration/qemu-file.h"
#include "snap/stream/return-path.h"
#include "snap/trace.h"

#define NO_BLOCK (-1)

/* Offset and length of a request; a counted name may follow. */
#define REQUEST_LENGTH 12
#define MAX_MESSAGE (REQUEST_LENGTH + 1 + SNAP_BLOCK_NAME_MAX)

/* After a bitmap (migration/ram.c). */
#define BITMAP_ENDING UINT64_C(0x0123456789abcdef)

struct SnapReturnPath {
    /* constant */
    SnapInput *input;
    const SnapRAMBlocks *ram;
    const SnapHostPages *host_pages;

    /* block of the request before, or NO_BLOCK */
    int last_block;
};

SnapReturnPath *snap_return_path_new(SnapInput *input, const SnapRAMBlocks *ram,
                                     const SnapHostPages *host_pages)
{
    SnapReturnPath *rp = g_new(SnapReturnPath, 1);

    *rp = (SnapReturnPath) {
        .input = input,
        .ram = ram,
        .host_pages = host_pages,
        .last_block = NO_BLOCK,
    };
    return rp;
}

void snap_return_path_free(SnapReturnPath *rp)
{
    g_free(rp);
}

/* After an error, reads return zeroes: check before using a value. */
static int return_path_check_input(SnapReturnPath *rp, Error **errp)
{
    Error *err = NULL;
    int ret = snap_input_error(rp->input, &err);

    if (!ret) {
        return 0;
    }
    if (snap_input_ended(rp->input)) {
        error_setg(errp, "The return path ends within a message");
        error_free(err);
    } else {
        error_propagate_prepend(errp, err, "Could not read the return path: ");
    }
    return ret;
}

/* Whether there are no more messages. */
static bool coroutine_fn return_path_at_end(SnapReturnPath *rp)
{
    snap_input_peek_byte(rp->input);
    return snap_input_ended(rp->input);
}

/* Of a message that says its length itself, and not only in its head */
#define VARIES (-1)

/* As migration/migration.c:rp_cmd_args has them */
static const struct {
    const char *name;
    int length;
} messages[] = {
    [SNAP_RP_SHUT]           = { "SHUT", 4 },
    [SNAP_RP_PONG]           = { "PONG", 4 },
    [SNAP_RP_REQ_PAGES_ID]   = { "REQ_PAGES_ID", VARIES },
    [SNAP_RP_REQ_PAGES]      = { "REQ_PAGES", REQUEST_LENGTH },
    [SNAP_RP_RECV_BITMAP]    = { "RECV_BITMAP", VARIES },
    [SNAP_RP_RESUME_ACK]     = { "RESUME_ACK", 4 },
    [SNAP_RP_SWITCHOVER_ACK] = { "SWITCHOVER_ACK", 0 },
};

static int coroutine_fn return_path_read_message(SnapReturnPath *rp,
                                                 unsigned *type, uint8_t *buf,
                                                 size_t *length, Error **errp)
{
    int expected, ret;

    *type = snap_input_get_be16(rp->input);
    *length = snap_input_get_be16(rp->input);
    ret = return_path_check_input(rp, errp);
    if (ret < 0) {
        return ret;
    }
    if (*type >= ARRAY_SIZE(messages) || !messages[*type].name) {
        error_setg(errp, "The return path has an unknown message: type %u",
                   *type);
        return -EINVAL;
    }
    expected = messages[*type].length;
    if (*length > MAX_MESSAGE || (expected != VARIES && *length != expected)) {
        error_setg(errp, "The return path has a message %s with a bad length: "
                   "%zu", messages[*type].name, *length);
        return -EINVAL;
    }
    snap_input_read(rp->input, buf, *length);
    return return_path_check_input(rp, errp);
}

/* A counted name that fills @length bytes. */
static int return_path_parse_block(SnapReturnPath *rp, const uint8_t *buf,
                                   size_t length, Error **errp)
{
    g_autofree char *name = NULL;
    int block;

    if (length < 1 || buf[0] != length - 1 || memchr(buf + 1, 0, buf[0])) {
        error_setg(errp, "The return path has a message with a bad block name");
        return -EINVAL;
    }
    name = g_strndup((const char *)buf + 1, buf[0]);
    block = snap_ram_blocks_find(rp->ram, name, MAX(rp->last_block, 0));
    if (block < 0) {
        g_autofree char *escaped = g_strescape(name, NULL);

        error_setg(errp, "The destination requests pages of an unknown RAM "
                   "block '%s'", escaped);
        return -EINVAL;
    }
    return block;
}

/* The pages of a request at the wire: whole host pages of a block. */
static int return_path_decode_request(const SnapReturnPath *rp, int index,
                                      uint64_t offset, uint64_t length,
                                      SnapPageRange *pages, Error **errp)
{
    const SnapRAMBlock *block = &rp->ram->blocks[index];
    uint64_t host_page = snap_host_pages_size(rp->host_pages, index);

    if (!length || offset >= block->length ||
        length > block->length - offset) {
        error_setg(errp, "The destination requests %" PRIu64 " bytes at 0x%"
                   PRIx64 ", which are not in RAM block '%s'", length, offset,
                   block->name);
        return -EINVAL;
    }
    if ((offset | length) & (host_page - 1)) {
        error_setg(errp, "The destination requests %" PRIu64 " bytes at 0x%"
                   PRIx64 " of RAM block '%s', which are not whole host pages "
                   "of %" PRIu64 " bytes", length, offset, block->name,
                   host_page);
        return -EINVAL;
    }
    *pages = (SnapPageRange) {
        .first = snap_ram_page(rp->ram, block, offset),
        .count = length >> rp->ram->page_bits,
    };
    return 0;
}

static int return_path_parse_request(SnapReturnPath *rp, unsigned type,
                                     const uint8_t *buf, size_t length,
                                     SnapReturnEvent *event, Error **errp)
{
    if (length < REQUEST_LENGTH) {
        error_setg(errp, "The return path has a request that is too short");
        return -EINVAL;
    }
    if (type == SNAP_RP_REQ_PAGES_ID) {
        int index = return_path_parse_block(rp, buf + REQUEST_LENGTH,
                                            length - REQUEST_LENGTH, errp);

        if (index < 0) {
            return index;
        }
        rp->last_block = index;
    }
    if (rp->last_block == NO_BLOCK) {
        error_setg(errp, "Page request continues a RAM block, but none was "
                   "named before");
        return -EINVAL;
    }
    event->type = SNAP_RP_REQ_PAGES;
    return return_path_decode_request(rp, rp->last_block, ldq_be_p(buf),
                                      (uint32_t)ldl_be_p(buf + 8),
                                      &event->pages, errp);
}

/* What follows the message RECV_BITMAP, outside of its length. */
static int coroutine_fn return_path_read_bitmap(SnapReturnPath *rp,
                                                SnapReturnEvent *event,
                                                Error **errp)
{
    const SnapRAMBlock *block = &rp->ram->blocks[event->block];
    uint64_t nb_pages = snap_ram_block_pages(rp->ram, block);
    uint64_t expected = ROUND_UP(DIV_ROUND_UP(nb_pages, 8), 8);
    uint64_t size = snap_input_get_be64(rp->input);
    g_autofree uint8_t *bitmap = NULL;
    int ret = return_path_check_input(rp, errp);

    if (ret < 0) {
        return ret;
    }
    if (size != expected) {
        error_setg(errp, "The bitmap of RAM block '%s' has %" PRIu64 " bytes, "
                   "not %" PRIu64, block->name, size, expected);
        return -EINVAL;
    }
    bitmap = g_try_malloc(size);
    if (!bitmap) {
        error_setg(errp, "Not enough memory for the bitmap of RAM block '%s'",
                   block->name);
        return -ENOMEM;
    }
    snap_input_read(rp->input, bitmap, size);
    if (snap_input_get_be64(rp->input) != BITMAP_ENDING &&
        !snap_input_error(rp->input, NULL)) {
        error_setg(errp, "The bitmap of RAM block '%s' has a bad end marker",
                   block->name);
        return -EINVAL;
    }
    ret = return_path_check_input(rp, errp);
    if (!ret) {
        event->bitmap = g_steal_pointer(&bitmap);
    }
    return ret;
}

static int coroutine_fn return_path_parse_message(SnapReturnPath *rp,
                                                  unsigned type,
                                                  const uint8_t *buf,
                                                  size_t length,
                                                  SnapReturnEvent *event,
                                                  Error **errp)
{
    *event = (SnapReturnEvent) { .type = type };
    switch (type) {
    case SNAP_RP_REQ_PAGES:
    case SNAP_RP_REQ_PAGES_ID:
        return return_path_parse_request(rp, type, buf, length, event, errp);
    case SNAP_RP_RECV_BITMAP:
        event->block = return_path_parse_block(rp, buf, length, errp);
        return event->block < 0 ?
               event->block : return_path_read_bitmap(rp, event, errp);
    case SNAP_RP_SWITCHOVER_ACK:
        return 0;
    default:
        event->value = ldl_be_p(buf);
        return 0;
    }
}

int coroutine_fn snap_return_path_next(SnapReturnPath *rp,
                                       SnapReturnEvent *event, Error **errp)
{
    uint8_t buf[MAX_MESSAGE];
    unsigned type;
    size_t length;
    int ret;

    if (return_path_at_end(rp)) {
        return 0;
    }
    ret = return_path_read_message(rp, &type, buf, &length, errp);
    if (!ret) {
        ret = return_path_parse_message(rp, type, buf, length, event, errp);
    }
    if (ret < 0) {
        return ret;
    }
    trace_snap_return_path_event(type, event->value, event->pages.first,
                                 event->pages.count);
    return 1;
}

/* --- the writer --- */

static int coroutine_fn return_path_put_message(QEMUFile *file,
                                                SnapReturnMessage type,
                                                uint32_t value)
{
    trace_snap_return_path_message(type, value);
    qemu_put_be16(file, type);
    qemu_put_be16(file, sizeof(value));
    qemu_put_be32(file, value);
    return qemu_fflush(file);
}

int coroutine_fn snap_return_path_shut(QEMUFile *file, uint32_t status)
{
    return return_path_put_message(file, SNAP_RP_SHUT, status);
}

int coroutine_fn snap_return_path_pong(QEMUFile *file, uint32_t value)
{
    return return_path_put_message(file, SNAP_RP_PONG, value);
}
