/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One read of consecutive pages, which are compared with their hashes
 */

#ifndef SNAP_IMAGE_RAM_READ_H
#define SNAP_IMAGE_RAM_READ_H

#include "snap/image/image.h"
#include "snap/storage/io-window.h"

/**
 * SnapRAMSource: where pages are read from
 * @image: not owned
 * @page_table: its page table
 * @window: buffers, which bound the reads in flight and their size
 */
typedef struct SnapRAMSource {
    SnapImage *image;
    SnapTable *page_table;
    SnapIOWindow *window;
} SnapRAMSource;

/**
 * snap_ram_source_init: prepare to read pages of @image
 * @table_chunks: chunks of the page table to hold in memory
 * @nb_buffers: reads in flight, or held by the caller, at most
 * @buffer_size: bytes of a read at most
 */
void snap_ram_source_init(SnapRAMSource *source, SnapImage *image,
                          unsigned table_chunks, unsigned nb_buffers,
                          size_t buffer_size);
/* Nothing may be in flight. */
void snap_ram_source_destroy(SnapRAMSource *source);

/**
 * SnapRAMRun: consecutive pages to be read
 * @block: index of the RAM block
 * @offset: offset of the first one within the block, in bytes
 * @length: in bytes, whole pages
 * @reason: why they are read, for the user
 */
typedef struct SnapRAMRun {
    int block;
    uint64_t offset;
    uint64_t length;
    unsigned reason;
} SnapRAMRun;

/**
 * SnapRAMPiece: pages that were read
 * @block: index of the RAM block
 * @offset: offset of the first page within the block, in bytes
 * @nb_pages: how many pages
 * @reason: of the run that they are from
 * @entries: their entries of the page table
 * @data: their data, valid for entries of stored pages
 */
typedef struct SnapRAMPiece {
    int block;
    uint64_t offset;
    unsigned nb_pages;
    unsigned reason;
    const uint64_t *entries;
    const uint8_t *data;
} SnapRAMPiece;

/**
 * SnapRAMRead: a read, all fields private
 * @run: what is read
 * @nb_pages: pages of it
 * @entries: their entries of the page table, owned
 * @first_stored: the page that the buffer begins with
 * @buffer: NULL if no page is stored
 */
typedef struct SnapRAMRead {
    SnapRAMRun run;
    unsigned nb_pages;
    uint64_t *entries;
    unsigned first_stored;
    SnapIOBuffer *buffer;
} SnapRAMRead;

/**
 * snap_ram_read_start: look pages up in the table, and start to read them
 * @read: unused, or zero at first
 * @run: not longer than a buffer
 *
 * Waits for a buffer if none is free.
 *
 * Returns: 0; -errno with @errp set if the table cannot be read
 */
int coroutine_fn snap_ram_read_start(SnapRAMSource *source, SnapRAMRead *read,
                                     const SnapRAMRun *run, Error **errp);

/**
 * snap_ram_read_wait: wait for the pages, and compare them with their hashes
 * @piece: valid until snap_ram_read_end()
 * @nb_corrupt: filled in with the number of pages that are damaged or could
 *              not be read; may be NULL
 *
 * Returns: 0; -errno with @errp set: -EBADMSG if a page does not match its hash
 */
int coroutine_fn snap_ram_read_wait(SnapRAMSource *source, SnapRAMRead *read,
                                    SnapRAMPiece *piece, unsigned *nb_corrupt,
                                    Error **errp);

/* Give back what a read holds; it is unused then. */
void snap_ram_read_end(SnapRAMSource *source, SnapRAMRead *read);

#endif /* SNAP_IMAGE_RAM_READ_H */
