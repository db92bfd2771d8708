/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Walking through a snapshot's RAM in order, with reads in flight, and
 * comparing every page with its hash
 */

#ifndef SNAP_RAM_READER_H
#define SNAP_RAM_READER_H

#include "snap/image.h"

typedef struct SnapRAMReader SnapRAMReader;

/**
 * SnapRAMPiece: consecutive pages of one RAM block
 * @block: index of the block
 * @offset: offset of the first page within the block, in bytes
 * @nb_pages: how many pages
 * @entries: their entries of the page table
 * @data: their data, where an entry is that of a stored page
 */
typedef struct SnapRAMPiece {
    int block;
    uint64_t offset;
    unsigned nb_pages;
    const uint64_t *entries;
    const uint8_t *data;
} SnapRAMPiece;

/* @image: not owned, must outlive the reader */
SnapRAMReader *snap_ram_reader_new(SnapImage *image);

/* snap_ram_reader_abort() comes before, unless the end was reached. */
void snap_ram_reader_free(SnapRAMReader *reader);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapRAMReader, snap_ram_reader_free)

/**
 * snap_ram_reader_next: the next piece of RAM
 * @piece: valid until the next call
 *
 * Returns: 1; 0 at the end; -errno with @errp set where something cannot be
 * read, or a page is not what its hash says (-EBADMSG)
 *
 * After an error in the data of pages, and only then, the walk can go on with
 * the next piece: see snap_ram_reader_corrupt_pages().
 */
int coroutine_fn snap_ram_reader_next(SnapRAMReader *reader,
                                      SnapRAMPiece *piece, Error **errp);

/**
 * snap_ram_reader_corrupt_pages: pages that the last error was about
 *
 * Returns: how many pages of the piece are damaged or could not be read; 0
 * where it was not about pages
 */
unsigned snap_ram_reader_corrupt_pages(const SnapRAMReader *reader);

/* Wait for what is in flight. */
void coroutine_fn snap_ram_reader_abort(SnapRAMReader *reader);

#endif /* SNAP_RAM_READER_H */
