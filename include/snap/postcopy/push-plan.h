/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The order in which pages are pushed that nobody waits for
 *
 * First a recorded working set, then the pages of the save's arrival list, each
 * with up to 255 pages after it, then the rest of RAM in order; each of these
 * lists only if it is wanted.  Pages around a request, which are pushed before
 * the rest, are not planned but read by demand.
 */

#ifndef SNAP_POSTCOPY_PUSH_PLAN_H
#define SNAP_POSTCOPY_PUSH_PLAN_H

#include "snap/image/image.h"
#include "snap/postcopy/page-map.h"
#include "snap/ram/source.h"
#include "snap/transfer/stats.h"

typedef struct SnapPushPlan SnapPushPlan;

/**
 * SnapPushItem: pages that are being pushed, which are sent in batches
 * @pages: which; without entries if they were not read
 * @reason: why
 * @pos: index of the first page that was not dealt with yet
 */
typedef struct SnapPushItem {
    SnapPages pages;
    SnapPushReason reason;
    unsigned pos;
} SnapPushItem;

/* Whether zero pages are sent, too: only if they are, or were, requested. */
static inline bool snap_push_sends_zero_pages(SnapPushReason reason)
{
    return reason == SNAP_PUSH_REQUESTED || reason == SNAP_PUSH_WORKING_SET;
}

/**
 * snap_push_plan_new: a plan for what @map does not have as sent
 * @image: whose arrival list to follow, not owned
 * @source, @map: not owned
 * @reasons: bit mask of 1 << SnapPushReason: which lists to follow
 */
SnapPushPlan *snap_push_plan_new(SnapImage *image, SnapPageSource *source,
                                 SnapPageMap *map, unsigned reasons);
void snap_push_plan_free(SnapPushPlan *plan);

/* The working set: page numbers in order, not owned; all in RAM */
void snap_push_plan_set_working_set(SnapPushPlan *plan, const uint64_t *pages,
                                    size_t nb_pages);

/**
 * snap_push_plan_next: what to push next
 * @range: filled in with whole host pages if 1 is returned; they are noted as
 *         planned
 * @reason: filled in with the list that they are from
 *
 * If host pages are larger than target pages, those without data are left out
 * of the linear part and of the arrivals.
 *
 * Returns: 1; 0 at the end; -errno with @errp set
 */
int coroutine_fn snap_push_plan_next(SnapPushPlan *plan, SnapPageRange *range,
                                     SnapPushReason *reason, Error **errp);

/**
 * snap_push_plan_rest: whether a page with data is left that was not sent
 *
 * For plans without a linear part, whose end is not that of RAM.  Looks at each
 * page once, however often it is called.
 *
 * Returns: 1; 0 for none; -errno with @errp set
 */
int coroutine_fn snap_push_plan_rest(SnapPushPlan *plan, Error **errp);

#endif /* SNAP_POSTCOPY_PUSH_PLAN_H */
