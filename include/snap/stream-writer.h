/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writer of QEMU's migration stream
 *
 * Thin functions over an output QEMUFile, which keeps the first error: check
 * it with snap_stream_flush() now and then.  All of them may yield, and so
 * belong into a coroutine.
 */

#ifndef SNAP_STREAM_WRITER_H
#define SNAP_STREAM_WRITER_H

#include "migration/qemu-file-types.h"
#include "snap/stream.h"

typedef struct SnapStreamWriter SnapStreamWriter;

/**
 * snap_stream_writer_new: write a stream to @file
 * @file: not owned, must outlive the writer
 * @layout: RAM blocks, not owned
 * @section: identity of the RAM section, copied
 */
SnapStreamWriter *snap_stream_writer_new(QEMUFile *file,
                                         const SnapLayout *layout,
                                         const SnapRAMSection *section);
void snap_stream_writer_free(SnapStreamWriter *writer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapStreamWriter, snap_stream_writer_free)

/**
 * snap_stream_put: bytes as they are: configuration, device sections, vmdesc
 *
 * The bytes are copied.
 */
void coroutine_fn snap_stream_put(SnapStreamWriter *writer, const void *data,
                                  size_t length);

/* RAM's START section with its blocks (migration/ram.c:ram_save_setup) */
void coroutine_fn snap_stream_put_ram_start(SnapStreamWriter *writer);

/**
 * snap_stream_begin_ram: open a section of RAM
 * @final: END instead of PART
 *
 * Do not wait for anything but the channel before snap_stream_end_ram(): the
 * destination holds RCU meanwhile (migration/ram.c:ram_load).
 */
void coroutine_fn snap_stream_begin_ram(SnapStreamWriter *writer, bool final);
void coroutine_fn snap_stream_end_ram(SnapStreamWriter *writer);

/**
 * snap_stream_put_page: one page, within a section of RAM
 * @block: index in the layout
 * @offset: offset within the block in bytes
 * @data: the page; not copied, must stay valid until snap_stream_flush()
 */
void coroutine_fn snap_stream_put_page(SnapStreamWriter *writer, int block,
                                       uint64_t offset, const void *data);
void coroutine_fn snap_stream_put_zero_page(SnapStreamWriter *writer, int block,
                                            uint64_t offset);

/* End of the stream's sections, with an optional description behind it. */
void coroutine_fn snap_stream_put_eof(SnapStreamWriter *writer,
                                      const void *vmdesc, uint32_t length);

/**
 * snap_stream_flush: hand everything to the channel
 *
 * Returns: 0, or -errno with @errp set: the first error of the channel
 */
int coroutine_fn snap_stream_flush(SnapStreamWriter *writer, Error **errp);

/**
 * snap_return_path_shut, snap_return_path_pong: answer a source
 * @file: the return path
 *
 * The messages are flushed.
 *
 * Returns: 0 or -errno
 */
int coroutine_fn snap_return_path_shut(QEMUFile *file, uint32_t status);
int coroutine_fn snap_return_path_pong(QEMUFile *file, uint32_t value);

#endif /* SNAP_STREAM_WRITER_H */
