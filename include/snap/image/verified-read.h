/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A snapshot image as a source of pages, which are compared with their hashes
 */

#ifndef SNAP_IMAGE_VERIFIED_READ_H
#define SNAP_IMAGE_VERIFIED_READ_H

#include "snap/ram/source.h"

/* Of the source in a SnapImage: see snap_image_open() */
extern const SnapPageSourceOps snap_verified_read_ops;

#endif /* SNAP_IMAGE_VERIFIED_READ_H */
