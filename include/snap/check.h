/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whether a snapshot image is sound
 */

#ifndef SNAP_CHECK_H
#define SNAP_CHECK_H

#include "snap/image.h"

/**
 * SnapCheckResult: what a check found
 * @pages_checked: pages whose data was compared with its hash
 * @pages_corrupt: pages that are not what they should be
 * @parts_corrupt: other parts of the image that are not
 * @first: description of the first damage, owned by the result; NULL for none
 */
typedef struct SnapCheckResult {
    uint64_t pages_checked;
    uint64_t pages_corrupt;
    uint64_t parts_corrupt;
    Error *first;
} SnapCheckResult;

/**
 * snap_check: read everything and compare it with its checksums
 *
 * Where the page table is damaged, RAM is checked no further.
 */
void coroutine_fn snap_check(SnapImage *image, SnapCheckResult *result);

#endif /* SNAP_CHECK_H */
