/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One read of consecutive pages, which are compared with their hashes
 */

#ifndef SNAP_IMAGE_VERIFIED_READ_H
#define SNAP_IMAGE_VERIFIED_READ_H

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
 * SnapPages: pages that were read
 * @range: which
 * @entries: their entries of the page table
 * @data: their data, valid for entries of stored pages
 */
typedef struct SnapPages {
    SnapPageRange range;
    const uint64_t *entries;
    const uint8_t *data;
} SnapPages;

/**
 * SnapRAMRead: a read
 * @range: what is read
 * @entries: their entries of the page table, owned
 * @first_stored: the page that the buffer begins with, as an index
 * @buffer: NULL if no page is stored
 */
typedef struct SnapRAMRead {
    /*< private >*/
    SnapPageRange range;
    uint64_t *entries;
    unsigned first_stored;
    SnapIOBuffer *buffer;
} SnapRAMRead;

/**
 * snap_ram_read_start: look pages up in the table, and start to read them
 * @read: unused, or zero at first
 * @range: not longer than a buffer
 *
 * Waits for a buffer if none is free.
 *
 * Returns: 0; -errno with @errp set if the table cannot be read
 */
int coroutine_fn snap_ram_read_start(SnapRAMSource *source, SnapRAMRead *read,
                                     SnapPageRange range, Error **errp);

/**
 * snap_ram_read_wait: wait for the pages, and compare them with their hashes
 * @pages: valid until snap_ram_read_end()
 * @nb_corrupt: filled in with the number of pages that are damaged or could
 *              not be read; may be NULL
 *
 * Returns: 0; -errno with @errp set: -EBADMSG if a page does not match its hash
 */
int coroutine_fn snap_ram_read_wait(SnapRAMSource *source, SnapRAMRead *read,
                                    SnapPages *pages, unsigned *nb_corrupt,
                                    Error **errp);

/* Give back what a read holds; it is unused then. */
void snap_ram_read_end(SnapRAMSource *source, SnapRAMRead *read);

#endif /* SNAP_IMAGE_VERIFIED_READ_H */
