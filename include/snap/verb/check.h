/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether a snapshot image is sound
 */

#ifndef SNAP_VERB_CHECK_H
#define SNAP_VERB_CHECK_H

#include "snap/image/image.h"

/**
 * SnapCheckResult: what a check found
 * @pages_checked: pages whose data was compared with its hash
 * @pages_corrupt: pages that are not what they should be
 * @corrupt_parts: other parts of the image that are not, as a mask of
 *                 1 << SnapPart
 * @container: what the block layer says of the image that the snapshot is in;
 *             nothing where its format has no check
 * @first: description of the first damage, owned by the result; NULL for none
 */
typedef struct SnapCheckResult {
    uint64_t pages_checked;
    uint64_t pages_corrupt;
    uint32_t corrupt_parts;
    BdrvCheckResult container;
    Error *first;
} SnapCheckResult;

void snap_check_result_destroy(SnapCheckResult *result);

/**
 * snap_check: read everything and compare it with its checksums
 *
 * Where the page table is damaged, RAM is checked no further.
 */
void coroutine_fn snap_check(SnapImage *image, SnapCheckResult *result);

/**
 * snap_check_can_repair: whether all that was found can be mended without loss
 *
 * That is, clusters of the container that nothing uses, and parts that a load
 * can do without.
 */
bool snap_check_can_repair(const SnapCheckResult *result);

/**
 * snap_check_repair: mend what a check found
 * @image: whose disk is open for writing
 * @found: for which snap_check_can_repair() is true
 *
 * Returns: 0 or -errno with @errp set
 */
int coroutine_fn snap_check_repair(SnapImage *image,
                                   const SnapCheckResult *found, Error **errp);

#endif /* SNAP_VERB_CHECK_H */
