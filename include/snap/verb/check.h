/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Checking and repairing a snapshot image
 */

#ifndef SNAP_VERB_CHECK_H
#define SNAP_VERB_CHECK_H

#include "snap/image/image.h"

/**
 * SnapCheckResult: findings of a check
 * @pages_checked: number of pages whose data was compared with its hash
 * @pages_corrupt: number of pages that are damaged or cannot be read
 * @corrupt_parts: mask of 1 << SnapPart of other parts that are
 * @container: findings of the block layer in the image that has the snapshot;
 *             all 0 if its format has no check
 * @first: the first damage, owned by the result; NULL if there is none
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
 * snap_check: read a whole image, and verify it with its checksums
 * @image: open image
 * @result: set; to be freed with snap_check_result_destroy()
 *
 * If the page table is damaged, the check of RAM ends there.
 */
void coroutine_fn snap_check(SnapImage *image, SnapCheckResult *result);

/**
 * snap_check_can_repair: whether all damage can be repaired without loss
 *
 * That is the case if it consists of leaked clusters of the container, and of
 * parts that a load can do without.
 */
bool snap_check_can_repair(const SnapCheckResult *result);

/**
 * snap_check_repair: repair the damage that a check found
 * @image: image on a disk that is open for writing
 * @found: findings for which snap_check_can_repair() is true
 *
 * Returns: 0 on success, -errno with @errp set
 */
int coroutine_fn snap_check_repair(SnapImage *image,
                                   const SnapCheckResult *found, Error **errp);

#endif /* SNAP_VERB_CHECK_H */
