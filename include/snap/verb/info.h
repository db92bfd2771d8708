/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What there is to know of a snapshot image
 */

#ifndef SNAP_VERB_INFO_H
#define SNAP_VERB_INFO_H

#include "snap/image/image.h"

/**
 * snap_info: describe a snapshot
 *
 * Returns: new dictionary with everything that the image says of itself, NULL
 * with @errp set
 */
QDict *coroutine_fn snap_info(SnapImage *image, Error **errp);

#endif /* SNAP_VERB_INFO_H */
