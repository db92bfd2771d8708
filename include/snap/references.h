/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What images refer to, besides their own file
 */

#ifndef SNAP_REFERENCES_H
#define SNAP_REFERENCES_H

#include "block/block.h"

/* Whether options to open an image with, flattened, say what it refers to. */
bool snap_references_given(const QDict *options);

/**
 * snap_references_none: see that an image refers to nothing else
 * @bs: opened with BDRV_O_NO_BACKING and BDRV_O_NO_IO, so that what it refers
 *      to was not opened (block/qcow2.c:qcow2_do_open)
 *
 * A backing file or an external data file can be anything that QEMU could open
 * for its user: who made the image decides what, and that may be somebody else.
 *
 * Returns: false with @errp set where there is a reference
 */
bool GRAPH_RDLOCK snap_references_none(BlockDriverState *bs, Error **errp);

#endif /* SNAP_REFERENCES_H */
