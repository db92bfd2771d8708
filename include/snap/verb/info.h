/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Description of a snapshot
 */

#ifndef SNAP_VERB_INFO_H
#define SNAP_VERB_INFO_H

#include "snap/image/image.h"
#include "tools/snap/qapi/snap-qapi-types.h"

/**
 * snap_info: describe a snapshot
 * @image: open image
 *
 * Pages are not read.
 *
 * Returns: new description, to be freed with qapi_free_SnapInfo(); NULL with
 * @errp set
 */
SnapInfo *coroutine_fn snap_info(SnapImage *image, Error **errp);

#endif /* SNAP_VERB_INFO_H */
