/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A snapshot image that is open for reading
 *
 * The folder image/ has the snapshot in its virtual disk.  A save uses a
 * builder, which decides when the snapshot counts: it puts pages to their
 * places through a ram-writer, and everything else through a writer, the
 * header last.  A load opens an image here; its pages are a source for whoever
 * reads them, and are compared with their hashes (verified-read).  Where RAM
 * is, is in layout, what the parts look like in format and table, and what
 * changes a complete image in update.
 */

#ifndef SNAP_IMAGE_IMAGE_H
#define SNAP_IMAGE_IMAGE_H

#include "qemu/units.h"
#include "system/block-backend.h"
#include "qobject/qdict.h"
#include "snap/image/format.h"
#include "snap/image/table.h"
#include "snap/ram/source.h"

/* How device state is moved between image and stream, in bytes. */
#define SNAP_DEVICE_CHUNK (64 * KiB)
/* Parts up to this size can be read as a whole. */
#define SNAP_MAX_PART_IN_MEMORY (64 * MiB)

/**
 * SnapImage: a complete snapshot
 * @blk: the virtual disk, not owned
 * @header: its header, checked
 * @ram: its RAM blocks
 * @layout: where they lie
 * @counts: what it has of each block, for information
 * @source: its pages: reads go through this
 * @verify_pages: compare pages with their hashes; may be changed until the
 *                first is read
 */
typedef struct SnapImage {
    BlockBackend *blk;
    SnapHeader header;
    SnapRAMBlocks ram;
    SnapLayout layout;
    SnapPageCounts *counts;
    SnapPageSource source;
    bool verify_pages;
} SnapImage;

/**
 * snap_image_open: read header and block table
 * @blk: open for reading, must outlive the image
 *
 * Returns: NULL with @errp set if there is no complete snapshot
 */
SnapImage *coroutine_fn snap_image_open(BlockBackend *blk, Error **errp);
void snap_image_close(SnapImage *image);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapImage, snap_image_close)

/* Pages with data in all blocks, as the block table says. */
uint64_t snap_image_stored_pages(const SnapImage *image);

/*
 * Whether @blk has a snapshot, damaged or not.
 * Context: main loop, outside coroutines.
 */
bool snap_image_is_present(BlockBackend *blk);

/**
 * snap_image_read_part: read a part that fits memory and check it
 *
 * Not for the tables. For SNAP_PART_VMDESC, the bytes without the trailer.
 *
 * Returns: the bytes, none if there is no such part; NULL with @errp set
 */
GByteArray *coroutine_fn snap_image_read_part(SnapImage *image, SnapPart part,
                                              Error **errp);

/* What snap_image_copy_part() hands the bytes to. */
typedef void coroutine_fn SnapPartFunc(void *opaque, const void *data,
                                       size_t length);

/**
 * snap_image_copy_part: read a part piece by piece and check it
 * @func: called with each piece, in order, before the whole is checked; NULL
 *        for the check alone
 *
 * For device state, which may be larger than memory should be.
 *
 * Returns: 0 or -errno with @errp set
 */
int coroutine_fn snap_image_copy_part(SnapImage *image, SnapPart part,
                                      SnapPartFunc *func, void *opaque,
                                      Error **errp);

/**
 * snap_image_page_table, snap_image_arrivals: the tables
 * @cached_chunks: chunks to hold in memory
 *
 * Returns: the table, for the caller to free before the image is closed
 */
SnapTable *snap_image_page_table(SnapImage *image, unsigned cached_chunks);
SnapTable *snap_image_arrivals(SnapImage *image, unsigned cached_chunks);

/**
 * snap_image_metadata: the metadata record
 *
 * Returns: newly referenced dictionary, empty if the image has none; NULL
 * with @errp set if it is damaged
 */
QDict *coroutine_fn snap_image_metadata(SnapImage *image, Error **errp);

/**
 * snap_image_working_set: read the working set that was put into the image
 * @pages: filled in with an array of uint64_t page numbers, if 1 is returned
 *
 * Returns: 1; 0 if the image has none; -errno with @errp set if it is damaged
 */
int coroutine_fn snap_image_working_set(SnapImage *image, GArray **pages,
                                        Error **errp);

/**
 * snap_image_check_arrivals: check the arrival list
 * @nb: filled in with the number of entries before the first damage
 *
 * Returns: 0 on success; -errno with @errp set, -EBADMSG if the list is damaged
 */
int coroutine_fn snap_image_check_arrivals(SnapImage *image, uint64_t *nb,
                                           Error **errp);

#endif /* SNAP_IMAGE_IMAGE_H */
