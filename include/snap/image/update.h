/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Changes to a complete snapshot
 */

#ifndef SNAP_IMAGE_UPDATE_H
#define SNAP_IMAGE_UPDATE_H

#include "snap/image/image.h"

/* Parts that a load can do without, as a mask of 1 << SnapPart */
#define SNAP_IMAGE_HINTS (1u << SNAP_PART_ARRIVALS | \
                          1u << SNAP_PART_VMDESC | \
                          1u << SNAP_PART_WORKING_SET)

/**
 * snap_image_set_working_set: put a working set into the image, durably
 * @image: whose disk is open for writing; its header is brought up to date
 * @data: see snap_working_set_encode()
 *
 * The header is written last: if something fails in between, the image is as it
 * was before.
 *
 * Returns: 0 or -errno with @errp set
 */
int coroutine_fn snap_image_set_working_set(SnapImage *image,
                                            const GByteArray *data,
                                            Error **errp);

/**
 * snap_image_drop_parts: drop damaged parts, durably
 * @image: whose disk is open for writing; its header is brought up to date
 * @parts: some of SNAP_IMAGE_HINTS
 *
 * The arrival list keeps what comes before the damage.  A part that cannot be
 * read stays: an I/O error may be transient.
 *
 * Returns: 0 or -errno with @errp set
 */
int coroutine_fn snap_image_drop_parts(SnapImage *image, uint32_t parts,
                                       Error **errp);

#endif /* SNAP_IMAGE_UPDATE_H */
