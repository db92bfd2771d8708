/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From pages to requests: which parts of a buffer to write
 */

#ifndef SNAP_STORAGE_COALESCE_H
#define SNAP_STORAGE_COALESCE_H

/**
 * SnapExtent: a range of a buffer
 * @first: number of its first page within the buffer
 * @count: how many pages
 */
typedef struct SnapExtent {
    unsigned first;
    unsigned count;
} SnapExtent;

/**
 * snap_coalesce: the ranges of a buffer that have to be written
 * @present: pages with data to write
 * @stored: pages whose place in the image holds data of before, which must
 *          not be overwritten by filling; may overlap @present
 * @nb_pages: pages in the buffer
 * @fill: pages in a unit (cluster) that the image allocates as a whole
 * @extents: room for @nb_pages ranges
 *
 * Every present page is covered, no stored page is covered that is not
 * present, and every unit that is touched is filled as far as that allows:
 * the image writes it as a whole anyway.  What is filled must be zero in the
 * buffer.  Ranges come in order and do not touch each other.
 *
 * Returns: number of ranges
 */
unsigned snap_coalesce(const unsigned long *present,
                       const unsigned long *stored, unsigned nb_pages,
                       unsigned fill, SnapExtent *extents);

#endif /* SNAP_STORAGE_COALESCE_H */
