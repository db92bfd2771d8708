/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From a stream's pages to the image: place and hash them, collect them into
 * large writes, and keep account of each page
 */

#ifndef SNAP_IMAGE_RAM_WRITER_H
#define SNAP_IMAGE_RAM_WRITER_H

#include "system/block-backend.h"
#include "snap/image/format.h"
#include "snap/image/table.h"

typedef struct SnapRAMWriter SnapRAMWriter;

/**
 * snap_ram_writer_new: write pages to @blk
 * @blk: not owned
 * @layout: where RAM lies, not owned
 * @page_table: not owned, entries are set as pages come
 * @arrivals: not owned, gets the pages that came out of order; NULL if the
 *            order means nothing, as with several channels
 *
 * Returns: the writer, NULL with @errp set if there is not enough memory for
 * two bits a page
 */
SnapRAMWriter *snap_ram_writer_new(BlockBackend *blk, const SnapLayout *layout,
                                   SnapTable *page_table, SnapTable *arrivals,
                                   Error **errp);

/* Only after snap_ram_writer_flush() or snap_ram_writer_abort(). */
void snap_ram_writer_free(SnapRAMWriter *writer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapRAMWriter, snap_ram_writer_free)

/**
 * snap_ram_writer_reserve: get room for the data of consecutive pages
 * @page: number of the first one
 * @nb_pages: how many are wanted, not 0; returns for how many there is room
 *
 * Fill the room from the first page on, then call snap_ram_writer_commit().
 * All of the room may be written to: none of the pages after the first one has
 * been committed.  Several coroutines may do so at a time, but each with one
 * page only, and different ones.  May wait for a free buffer, or for others to
 * commit what they have reserved.
 *
 * Returns: the room
 */
void *coroutine_fn snap_ram_writer_reserve(SnapRAMWriter *writer, uint64_t page,
                                           unsigned *nb_pages);

/**
 * snap_ram_writer_commit: take pages that were reserved and filled
 * @nb_pages: how many, at most those that there was room for
 *
 * A page may come several times; the last one wins.
 *
 * Returns: 0 or -errno with @errp set, also for an error of an earlier write
 */
int coroutine_fn snap_ram_writer_commit(SnapRAMWriter *writer, uint64_t page,
                                        unsigned nb_pages, Error **errp);

/**
 * snap_ram_writer_reserve_several, snap_ram_writer_commit_several: the same for
 * pages in any order, by several coroutines at a time
 * @pages: page numbers
 * @nb_pages: not 0
 * @qiov: gets the room; neighbours are one element
 *
 * Returns: how many of @pages, from the first on, got room; 0 or -errno with
 * @errp set
 */
unsigned coroutine_fn snap_ram_writer_reserve_several(SnapRAMWriter *writer,
                                                      const uint64_t *pages,
                                                      unsigned nb_pages,
                                                      QEMUIOVector *qiov);
int coroutine_fn snap_ram_writer_commit_several(SnapRAMWriter *writer,
                                                const uint64_t *pages,
                                                unsigned nb_pages,
                                                Error **errp);

/* Give up what was reserved together with @page. */
void coroutine_fn snap_ram_writer_cancel(SnapRAMWriter *writer, uint64_t page);

/**
 * snap_ram_writer_add_zero: a page is zero
 *
 * Returns: 0 or -errno with @errp set, also for an error of an earlier write
 */
int coroutine_fn snap_ram_writer_add_zero(SnapRAMWriter *writer, uint64_t page,
                                          Error **errp);

/**
 * snap_ram_writer_flush: write all that was collected and wait for it
 *
 * Not to stable storage: that is up to the owner of the image.
 *
 * Returns: 0 or -errno with @errp set
 */
int coroutine_fn snap_ram_writer_flush(SnapRAMWriter *writer, Error **errp);

/* Whether no page has come since a flush that succeeded. */
bool snap_ram_writer_is_flushed(const SnapRAMWriter *writer);

/* Discard what was collected, wait for what is in flight. */
void coroutine_fn snap_ram_writer_abort(SnapRAMWriter *writer);

/* Pages that have not come yet. */
uint64_t snap_ram_writer_missing(const SnapRAMWriter *writer);

/* What has come of each block: a newly allocated array */
SnapPageCounts *snap_ram_writer_counts(const SnapRAMWriter *writer);

/* Whether a page has come more than once: never in a background snapshot. */
bool snap_ram_writer_repeated(const SnapRAMWriter *writer);

/**
 * snap_ram_writer_arrivals: entries of the arrival list
 * @truncated: returns whether there were more than fit
 */
uint64_t snap_ram_writer_arrivals(const SnapRAMWriter *writer,
                                  bool *truncated);

#endif /* SNAP_IMAGE_RAM_WRITER_H */
