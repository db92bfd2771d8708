/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that nobody has requested yet, read ahead in the order of a plan
 *
 * A coroutine has the next piece ready while the one before is being sent, so
 * that storage and channel are busy at the same time.  All in one AioContext.
 */

#ifndef SNAP_POSTCOPY_PREFETCH_H
#define SNAP_POSTCOPY_PREFETCH_H

#include "snap/postcopy/push-plan.h"

typedef struct SnapPrefetch SnapPrefetch;

/**
 * snap_prefetch_new: read the pages of @plan
 * @source, @map, @plan: not owned
 * @ready: called when there is a piece, and at the end
 */
SnapPrefetch *snap_prefetch_new(SnapPageSource *source,
                                const SnapPageMap *map, SnapPushPlan *plan,
                                void (*ready)(void *opaque), void *opaque);
/* Only if it is not running. */
void snap_prefetch_free(SnapPrefetch *prefetch);

/* Once; runs until the plan ends, a read fails, or snap_prefetch_stop(). */
void coroutine_fn snap_prefetch_start(SnapPrefetch *prefetch);
void snap_prefetch_stop(SnapPrefetch *prefetch);
bool snap_prefetch_is_running(const SnapPrefetch *prefetch);

/**
 * snap_prefetch_peek: the pages that are ready
 *
 * Returns: owned by @prefetch, and the same until snap_prefetch_advance() has
 * found all of them dealt with; NULL if nothing is ready
 */
SnapPushItem *snap_prefetch_peek(SnapPrefetch *prefetch);

/* To be called after the item's @pos has moved. */
void snap_prefetch_advance(SnapPrefetch *prefetch);

/**
 * snap_prefetch_status: whether there is more to come
 *
 * Returns: 1 if there is a piece, or may be one later; 0 after the last one;
 * -errno with @errp set, once, if the next one could not be read
 */
int snap_prefetch_status(SnapPrefetch *prefetch, Error **errp);

#endif /* SNAP_POSTCOPY_PREFETCH_H */
