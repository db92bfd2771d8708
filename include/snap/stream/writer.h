/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writer of QEMU's migration stream
 *
 * Thin functions over an output QEMUFile, which keeps the first error: check
 * it with snap_stream_flush() now and then.  All of them may yield, so call
 * them in a coroutine.
 */

#ifndef SNAP_STREAM_WRITER_H
#define SNAP_STREAM_WRITER_H

#include "migration/qemu-file-types.h"
#include "snap/ram/host-pages.h"
#include "snap/stream/stream.h"

/* Ranges that fit in one RAM_DISCARD for any block name. */
#define SNAP_MAX_DISCARD_RANGES 4000

typedef struct SnapStreamWriter SnapStreamWriter;

/**
 * snap_stream_writer_new: write a stream to @file
 * @file: not owned, must outlive the writer
 * @ram: RAM blocks, not owned
 * @section: identity of the RAM section, copied
 */
SnapStreamWriter *snap_stream_writer_new(QEMUFile *file,
                                         const SnapRAMBlocks *ram,
                                         const SnapRAMSection *section);
void snap_stream_writer_free(SnapStreamWriter *writer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapStreamWriter, snap_stream_writer_free)

/**
 * snap_stream_writer_set_multifd_flush: the destination has several channels,
 * and wants to be told when it is to wait for them
 *
 * RAM's START section says so then, and snap_stream_put_multifd_flush() does.
 * Not for destinations with the migration property
 * multifd-flush-after-each-section, which wait at the end of each section.
 */
void snap_stream_writer_set_multifd_flush(SnapStreamWriter *writer);

/**
 * snap_stream_put: bytes as they are: configuration, device sections, vmdesc
 *
 * The bytes are copied.
 */
void coroutine_fn snap_stream_put(SnapStreamWriter *writer, const void *data,
                                  size_t length);

/**
 * snap_stream_put_ram_start: RAM's START section with its blocks
 * (migration/ram.c:ram_save_setup)
 * @advised: host pages of the destination if postcopy was advised, else NULL
 */
void coroutine_fn snap_stream_put_ram_start(SnapStreamWriter *writer,
                                            const SnapHostPages *advised);

/* Wait for all channels here; within a section of RAM. */
void coroutine_fn snap_stream_put_multifd_flush(SnapStreamWriter *writer);

/* A command (migration/savevm.c:loadvm_process_command) */
void coroutine_fn snap_stream_put_command(SnapStreamWriter *writer,
                                          SnapCommand command,
                                          const void *data, uint16_t length);

/* The destination answers with a PONG of @value when it gets here. */
void coroutine_fn snap_stream_put_ping(SnapStreamWriter *writer,
                                       uint32_t value);

/* Postcopy may follow, for RAM in these host pages. */
void coroutine_fn snap_stream_put_advise(SnapStreamWriter *writer,
                                         const SnapHostPages *host_pages);

/**
 * snap_stream_put_discard: pages to come, whose places have to be empty
 * @ranges: all of one RAM block
 * @nb_ranges: 1 to SNAP_MAX_DISCARD_RANGES
 */
void coroutine_fn snap_stream_put_discard(SnapStreamWriter *writer,
                                          const SnapPageRange *ranges,
                                          unsigned nb_ranges);

/* The next @length bytes are received as a whole before they are looked at. */
void coroutine_fn snap_stream_begin_package(SnapStreamWriter *writer,
                                            uint32_t length);

/* Ask for the bitmap of pages that the destination has of @block. */
void coroutine_fn snap_stream_put_recv_bitmap(SnapStreamWriter *writer,
                                              int block);

/* End of a channel that has records only, and no sections. */
void coroutine_fn snap_stream_put_end_of_records(SnapStreamWriter *writer);

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
 * snap_stream_put_page: one page, within a section of RAM, or alone on the
 * channel of postcopy-preempt
 * @page: its number
 * @data: the page; not copied, must stay valid until snap_stream_flush()
 */
void coroutine_fn snap_stream_put_page(SnapStreamWriter *writer, uint64_t page,
                                       const void *data);
void coroutine_fn snap_stream_put_zero_page(SnapStreamWriter *writer,
                                            uint64_t page);

/* End the stream's sections, with an optional description. */
void coroutine_fn snap_stream_put_eof(SnapStreamWriter *writer,
                                      const void *vmdesc, uint32_t length);

/**
 * snap_stream_flush: hand everything to the channel
 *
 * Returns: 0, or -EPIPE with @errp set: the first error of the channel
 */
int coroutine_fn snap_stream_flush(SnapStreamWriter *writer, Error **errp);

#endif /* SNAP_STREAM_WRITER_H */
