/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writer of QEMU's migration stream
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/units.h"
#include "migration/qemu-file.h"
#include "migration/ram.h"
#include "migration/savevm.h"
#include "snap/stream/sections.h"
#include "snap/stream/writer.h"
#include "snap/trace.h"

struct SnapStreamWriter {
    /* constant */
    QEMUFile *file;
    const SnapRAMBlocks *ram;
    SnapRAMSection section;
    bool multifd_flush;         /* START and END have a flush */

    /* block of the record before, and whether the open section has named it */
    const SnapRAMBlock *block;
    bool block_named;
};

SnapStreamWriter *snap_stream_writer_new(QEMUFile *file,
                                         const SnapRAMBlocks *ram,
                                         const SnapRAMSection *section)
{
    SnapStreamWriter *writer = g_new(SnapStreamWriter, 1);

    *writer = (SnapStreamWriter) {
        .file = file,
        .ram = ram,
        .section = *section,
    };
    return writer;
}

void snap_stream_writer_free(SnapStreamWriter *writer)
{
    g_free(writer);
}

void snap_stream_writer_set_multifd_flush(SnapStreamWriter *writer)
{
    writer->multifd_flush = true;
}

void coroutine_fn snap_stream_put(SnapStreamWriter *writer, const void *data,
                                  size_t length)
{
    qemu_put_buffer(writer->file, data, length);
}

static void coroutine_fn writer_put_counted_string(QEMUFile *file,
                                                   const char *str)
{
    size_t length = strlen(str);

    assert(length <= SNAP_BLOCK_NAME_MAX);
    qemu_put_byte(file, length);
    qemu_put_buffer(file, (const uint8_t *)str, length);
}

static void coroutine_fn writer_put_section_head(SnapStreamWriter *writer,
                                                 uint8_t type)
{
    const SnapSectionHead head = {
        .type = type,
        .id = writer->section.id,
        .name = SNAP_RAM_SECTION_NAME,
        .instance = writer->section.instance,
        .version = SNAP_RAM_SECTION_VERSION,
    };
    uint8_t buf[SNAP_SECTION_HEAD_MAX];

    qemu_put_buffer(writer->file, buf, snap_section_head_encode(&head, buf));

    /*
     * QEMU lets a record go on with the block of the section before
     * (migration/ram.c:ram_block_from_stream).  Name it again anyway: a
     * section can then be understood without those before it, and the name
     * costs nothing at one record a section.
     */
    writer->block_named = false;
}

void coroutine_fn snap_stream_put_ram_start(SnapStreamWriter *writer,
                                            const SnapHostPages *advised)
{
    const SnapRAMBlocks *ram = writer->ram;
    QEMUFile *file = writer->file;
    uint64_t total = 0;
    unsigned i;

    for (i = 0; i < ram->nb_blocks; i++) {
        total += ram->blocks[i].length;
    }
    trace_snap_stream_writer_ram_start(ram->nb_blocks, total);

    writer_put_section_head(writer, QEMU_VM_SECTION_START);
    qemu_put_be64(file, total | RAM_SAVE_FLAG_MEM_SIZE);
    for (i = 0; i < ram->nb_blocks; i++) {
        writer_put_counted_string(file, ram->blocks[i].name);
        qemu_put_be64(file, ram->blocks[i].length);
        /*
         * migration/ram.c:parse_ramblock expects a page size only if
         * postcopy was advised in this stream, and then only for blocks whose
         * pages are not those that the *destination's* host has by default.
         */
        if (advised && snap_host_pages_announced(advised, i)) {
            qemu_put_be64(file, snap_host_pages_size(advised, i));
        }
    }
    snap_stream_put_multifd_flush(writer);
    snap_stream_end_ram(writer);
}

void coroutine_fn snap_stream_put_multifd_flush(SnapStreamWriter *writer)
{
    if (writer->multifd_flush) {
        qemu_put_be64(writer->file, RAM_SAVE_FLAG_MULTIFD_FLUSH);
    }
}

void coroutine_fn snap_stream_begin_ram(SnapStreamWriter *writer, bool final)
{
    trace_snap_stream_writer_begin_ram(final);
    writer_put_section_head(writer, final ? QEMU_VM_SECTION_END
                                   : QEMU_VM_SECTION_PART);
}

void coroutine_fn snap_stream_end_ram(SnapStreamWriter *writer)
{
    snap_stream_put_end_of_records(writer);
    if (writer->section.footers) {
        qemu_put_byte(writer->file, QEMU_VM_SECTION_FOOTER);
        qemu_put_be32(writer->file, writer->section.id);
    }
}

void coroutine_fn snap_stream_put_command(SnapStreamWriter *writer,
                                          SnapCommand command,
                                          const void *data, uint16_t length)
{
    trace_snap_stream_writer_command(command, length);
    qemu_put_byte(writer->file, QEMU_VM_COMMAND);
    qemu_put_be16(writer->file, command);
    qemu_put_be16(writer->file, length);
    qemu_put_buffer(writer->file, data, length);
}

void coroutine_fn snap_stream_put_ping(SnapStreamWriter *writer, uint32_t value)
{
    uint8_t data[4];

    stl_be_p(data, value);
    snap_stream_put_command(writer, SNAP_CMD_PING, data, sizeof(data));
}

void coroutine_fn snap_stream_put_advise(SnapStreamWriter *writer,
                                         const SnapHostPages *host_pages)
{
    uint8_t data[16];

    stq_be_p(data, snap_host_pages_summary(host_pages));
    stq_be_p(data + 8, snap_ram_page_size(writer->ram));
    snap_stream_put_command(writer, SNAP_CMD_POSTCOPY_ADVISE, data,
                            sizeof(data));
}

/* A version (0), a counted name and a zero byte, then the ranges. */
void coroutine_fn snap_stream_put_discard(SnapStreamWriter *writer,
                                          const SnapPageRange *ranges,
                                          unsigned nb_ranges)
{
    const SnapRAMBlocks *ram = writer->ram;
    const SnapRAMBlock *block = snap_ram_block_of(ram, ranges[0].first);
    const char *name = block->name;
    g_autoptr(GByteArray) data = g_byte_array_new();
    uint8_t head[2] = { 0, strlen(name) };

    assert(nb_ranges && nb_ranges <= SNAP_MAX_DISCARD_RANGES);
    g_byte_array_append(data, head, sizeof(head));
    g_byte_array_append(data, (const uint8_t *)name, strlen(name) + 1);
    for (unsigned i = 0; i < nb_ranges; i++) {
        uint8_t range[16];

        stq_be_p(range, snap_ram_page_offset(ram, block, ranges[i].first));
        stq_be_p(range + 8, ranges[i].count << ram->page_bits);
        g_byte_array_append(data, range, sizeof(range));
    }
    snap_stream_put_command(writer, SNAP_CMD_RAM_DISCARD, data->data,
                            data->len);
}

void coroutine_fn snap_stream_begin_package(SnapStreamWriter *writer,
                                            uint32_t length)
{
    uint8_t data[4];

    stl_be_p(data, length);
    snap_stream_put_command(writer, SNAP_CMD_PACKAGED, data, sizeof(data));
}

void coroutine_fn snap_stream_put_recv_bitmap(SnapStreamWriter *writer,
                                              int block)
{
    const char *name = writer->ram->blocks[block].name;
    uint8_t data[1 + SNAP_BLOCK_NAME_MAX];

    data[0] = strlen(name);
    memcpy(data + 1, name, data[0]);
    snap_stream_put_command(writer, SNAP_CMD_RECV_BITMAP, data, 1 + data[0]);
}

void coroutine_fn snap_stream_put_end_of_records(SnapStreamWriter *writer)
{
    qemu_put_be64(writer->file, RAM_SAVE_FLAG_EOS);
}

static bool writer_is_in_block(const SnapStreamWriter *writer, uint64_t page)
{
    return writer->block && page >= writer->block->first_page &&
           page < snap_ram_block_end(writer->ram, writer->block);
}

static void coroutine_fn writer_put_record_head(SnapStreamWriter *writer,
                                                uint64_t page, uint64_t flags)
{
    uint8_t head[sizeof(uint64_t)];

    if (!writer_is_in_block(writer, page)) {
        writer->block = snap_ram_block_of(writer->ram, page);
        writer->block_named = false;
    }
    if (writer->block_named) {
        flags |= RAM_SAVE_FLAG_CONTINUE;
    }
    /* One call for the eight bytes: there are millions of these. */
    stq_be_p(head, snap_ram_page_offset(writer->ram, writer->block, page) |
                   flags);
    qemu_put_buffer(writer->file, head, sizeof(head));
    if (!writer->block_named) {
        writer_put_counted_string(writer->file, writer->block->name);
        writer->block_named = true;
    }
}

void coroutine_fn snap_stream_put_page(SnapStreamWriter *writer, uint64_t page,
                                       const void *data)
{
    writer_put_record_head(writer, page, RAM_SAVE_FLAG_PAGE);
    qemu_put_buffer_async(writer->file, data, snap_ram_page_size(writer->ram),
                          false);
}

void coroutine_fn snap_stream_put_zero_page(SnapStreamWriter *writer,
                                            uint64_t page)
{
    writer_put_record_head(writer, page, RAM_SAVE_FLAG_ZERO);
    /* the byte that fills the page */
    qemu_put_byte(writer->file, 0);
}

void coroutine_fn snap_stream_put_eof(SnapStreamWriter *writer,
                                      const void *vmdesc, uint32_t length)
{
    QEMUFile *file = writer->file;

    trace_snap_stream_writer_eof(length);
    qemu_put_byte(file, QEMU_VM_EOF);
    if (length) {
        qemu_put_byte(file, QEMU_VM_VMDESCRIPTION);
        qemu_put_be32(file, length);
        qemu_put_buffer(file, vmdesc, length);
    }
}

int coroutine_fn snap_stream_flush(SnapStreamWriter *writer, Error **errp)
{
    qemu_fflush(writer->file);
    /* QEMUFile calls each error of a channel -EIO. */
    return qemu_file_get_error_obj(writer->file, errp) < 0 ? -EPIPE : 0;
}
