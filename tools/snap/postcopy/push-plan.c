/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The order in which pages are pushed that nobody waits for
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/units.h"
#include "snap/postcopy/push-plan.h"
#include "snap/trace.h"

/*
 * How many pages after one on the arrival list are pushed with it.  When the
 * guest writes to a page, QEMU's sweep over RAM goes on from there
 * (migration/ram.c:get_queued_page), and what follows in order is not listed,
 * although the guest may have used it.  Measured, see
 * docs/devel/qemu-snap/performance.rst.
 */
#define ARRIVAL_PAGES 256

/* Lists and RAM are gone through in order. */
#define TABLE_CHUNKS 1
#define LOOKUP_SIZE  (64 * KiB)

/* Entries that are looked up at once. */
#define ENTRIES 64

/* Neighbours on a list are read at once, up to this many bytes. */
#define MAX_LIST_RANGE (64 * KiB)

/* After this many bytes, the linear part looks at what was sent meanwhile. */
#define MAX_LINEAR_RANGE (1 * MiB)

struct SnapPushPlan {
    /* constant */
    SnapImage *image;
    SnapPageMap *map;
    unsigned reasons;
    SnapTable *arrivals;
    SnapPageReader *reader;     /* for host pages larger than target pages */

    /* set before the first range is planned */
    const uint64_t *working_set;
    size_t nb_working_set;

    /* the list that is being followed, and the next entry of it */
    SnapPushReason reason;
    uint64_t index;

    /* position of the linear part: the next page that it looks at */
    uint64_t next;
};

SnapPushPlan *snap_push_plan_new(SnapImage *image, SnapPageSource *source,
                                 SnapPageMap *map, unsigned reasons)
{
    const SnapPageReaderLimits limits = { .lookup_size = LOOKUP_SIZE };
    SnapPushPlan *plan = g_new(SnapPushPlan, 1);

    *plan = (SnapPushPlan) {
        .image = image,
        .map = map,
        .reasons = reasons,
        .arrivals = snap_image_arrivals(image, TABLE_CHUNKS),
        .reader = snap_page_reader_open(source, &limits),
        .reason = SNAP_PUSH_WORKING_SET,
    };
    return plan;
}

void snap_push_plan_set_working_set(SnapPushPlan *plan, const uint64_t *pages,
                                    size_t nb_pages)
{
    plan->working_set = pages;
    plan->nb_working_set = nb_pages;
}

void snap_push_plan_free(SnapPushPlan *plan)
{
    if (!plan) {
        return;
    }
    snap_table_free(plan->arrivals);
    snap_page_reader_close(plan->reader);
    g_free(plan);
}

/* Entry @index of the list. Returns: 1; 0 at its end; -errno */
static int coroutine_fn list_get(SnapPushPlan *plan, uint64_t index,
                                 uint64_t *page, Error **errp)
{
    int ret;

    if (plan->reason == SNAP_PUSH_WORKING_SET) {
        if (index >= plan->nb_working_set) {
            return 0;
        }
        *page = plan->working_set[index];
        return 1;
    }
    if (index >= plan->image->header.nb_arrivals) {
        return 0;
    }
    ret = snap_table_get(plan->arrivals, index, page, errp);
    if (ret < 0) {
        return ret;
    }
    if (*page >= plan->map->ram->nb_pages) {
        error_setg(errp, "The snapshot's arrival list is corrupt");
        return -EBADMSG;
    }
    return 1;
}

/* Whether any of the target pages has data. */
static int coroutine_fn has_data(SnapPushPlan *plan, SnapPageRange pages,
                                 bool *result, Error **errp)
{
    uint64_t entries[ENTRIES];

    *result = false;
    for (uint64_t i = 0; i < pages.count && !*result; i += ENTRIES) {
        const SnapPageRange range = {
            pages.first + i, MIN(pages.count - i, ENTRIES)
        };
        int ret = snap_page_reader_lookup(plan->reader, range, entries, errp);

        if (ret < 0) {
            return ret;
        }
        for (unsigned j = 0; j < range.count; j++) {
            *result |= snap_page_is_stored(entries[j]);
        }
    }
    return 0;
}

/* Add entries of the list that are the next pages of the block. */
static int coroutine_fn extend_range(SnapPushPlan *plan, SnapPageRange *range,
                                     Error **errp)
{
    const SnapRAMBlocks *ram = plan->map->ram;
    uint64_t end = snap_ram_block_end(ram, snap_ram_block_of(ram,
                                                             range->first));
    int ret = 0;

    while (range->count < MAX_LIST_RANGE >> ram->page_bits &&
           range->first + range->count < end) {
        SnapPageRange more;
        uint64_t page;

        ret = list_get(plan, plan->index, &page, errp);
        if (ret <= 0 || page != range->first + range->count) {
            break;
        }
        more = snap_page_map_host_page(plan->map, page);
        if (!snap_page_map_is_unsent(plan->map, more)) {
            break;
        }
        range->count += more.count;
        plan->index++;
    }
    return MIN(ret, 0);
}

/* Add the pages that the sweep came to after an arrival, up to a sent one. */
static void extend_arrival(const SnapPushPlan *plan, SnapPageRange *range)
{
    const SnapRAMBlocks *ram = plan->map->ram;
    uint64_t end = snap_ram_block_end(ram, snap_ram_block_of(ram,
                                                             range->first));

    snap_page_map_next_unsent(plan->map, range->first,
                              MIN(end, range->first + ARRIVAL_PAGES), range);
}

/*
 * Turn the host page of an arrival into a range.  One that is larger than
 * target pages is pushed as it is, if it has data.
 *
 * Returns: 1; 0 if there is nothing to push; -errno with @errp set
 */
static int coroutine_fn plan_arrival(SnapPushPlan *plan, SnapPageRange *range,
                                     Error **errp)
{
    bool result;
    int ret;

    if (range->count == 1) {
        extend_arrival(plan, range);
        return 1;
    }
    ret = has_data(plan, *range, &result, errp);
    return ret < 0 ? ret : result;
}

static int coroutine_fn next_of_list(SnapPushPlan *plan, SnapPageRange *range,
                                     Error **errp)
{
    uint64_t page;
    int ret;

    while ((ret = list_get(plan, plan->index, &page, errp)) > 0) {
        plan->index++;
        *range = snap_page_map_host_page(plan->map, page);
        if (!snap_page_map_is_unsent(plan->map, *range)) {
            continue;
        }
        if (plan->reason == SNAP_PUSH_ARRIVALS) {
            ret = plan_arrival(plan, range, errp);
        } else {
            ret = extend_range(plan, range, errp) ?: 1;
        }
        if (ret) {
            return ret;
        }
    }
    return ret;
}

/* Leave what the linear part takes at a time: all up to a round offset. */
static void cut_linear(const SnapPushPlan *plan, SnapPageRange *range)
{
    const SnapRAMBlocks *ram = plan->map->ram;
    uint64_t in_block = range->first -
                        snap_ram_block_of(ram, range->first)->first_page;
    uint64_t max = MAX_LINEAR_RANGE >> ram->page_bits;

    range->count = MIN(range->count, max - in_block % max);
}

static int coroutine_fn next_linear(SnapPushPlan *plan, SnapPageRange *range,
                                    Error **errp)
{
    while (snap_page_map_next_unsent(plan->map, plan->next,
                                     plan->map->ram->nb_pages, range)) {
        SnapPageRange host_page = snap_page_map_host_page(plan->map,
                                                          range->first);
        bool wanted = true;
        int ret = 0;

        if (host_page.count > 1) {
            *range = host_page;
            ret = has_data(plan, host_page, &wanted, errp);
        } else {
            cut_linear(plan, range);
        }
        if (ret < 0) {
            return ret;
        }
        plan->next = range->first + range->count;
        if (wanted) {
            return 1;
        }
    }
    return 0;
}

/* A damaged hint must not fail a running guest. */
static int coroutine_fn next_hint(SnapPushPlan *plan, SnapPageRange *range)
{
    Error *err = NULL;
    int ret = next_of_list(plan, range, &err);

    if (ret < 0) {
        warn_report_err(err);
    }
    return ret;
}

int coroutine_fn snap_push_plan_next(SnapPushPlan *plan, SnapPageRange *range,
                                     SnapPushReason *reason, Error **errp)
{
    for (; plan->reason < SNAP_PUSH__MAX; plan->reason++, plan->index = 0) {
        int ret = 0;

        if (!(plan->reasons & (1u << plan->reason))) {
            continue;
        }
        if (plan->reason == SNAP_PUSH_LINEAR) {
            ret = next_linear(plan, range, errp);
        } else if (plan->reason != SNAP_PUSH_FAULT_AROUND) {
            ret = next_hint(plan, range);
        }
        if (ret > 0) {
            snap_page_map_plan(plan->map, *range);
            *reason = plan->reason;
        }
        if (ret > 0 || (ret < 0 && plan->reason == SNAP_PUSH_LINEAR)) {
            return ret;
        }
        trace_snap_push_plan_end(plan->reason);
    }
    return 0;
}

int coroutine_fn snap_push_plan_rest(SnapPushPlan *plan, Error **errp)
{
    SnapPageRange range;

    assert(!(plan->reasons & (1u << SNAP_PUSH_LINEAR)));
    while (snap_page_map_next_unsent(plan->map, plan->next,
                                     plan->map->ram->nb_pages, &range)) {
        bool result;
        int ret;

        range = snap_page_map_host_page(plan->map, range.first);
        ret = has_data(plan, range, &result, errp);
        if (ret < 0 || result) {
            return ret < 0 ? ret : 1;
        }
        plan->next = range.first + range.count;
    }
    return 0;
}
