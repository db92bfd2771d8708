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

/* Both tables are walked in order. */
#define TABLE_CHUNKS 1

/* Neighbours on a list are read at once, up to this many bytes. */
#define MAX_LIST_RUN (64 * KiB)

/* After this many bytes, the linear part looks at what was sent meanwhile. */
#define MAX_LINEAR_RUN (1 * MiB)

struct SnapPushPlan {
    /* constant */
    SnapImage *image;
    SnapPageMap *map;
    unsigned reasons;
    SnapTable *arrivals;
    SnapTable *page_table;      /* for host pages larger than target pages */

    /* set before the first run is planned */
    const uint64_t *working_set;
    size_t nb_working_set;

    /* the list that is being followed, and the next entry of it */
    SnapPushReason reason;
    uint64_t index;

    /* position of the linear part in RAM */
    int block;
    uint64_t offset;
};

SnapPushPlan *snap_push_plan_new(SnapImage *image, SnapPageMap *map,
                                 unsigned reasons)
{
    SnapPushPlan *plan = g_new(SnapPushPlan, 1);

    *plan = (SnapPushPlan) {
        .image = image,
        .map = map,
        .reasons = reasons,
        .arrivals = snap_image_arrivals(image, TABLE_CHUNKS),
        .page_table = snap_image_page_table(image, TABLE_CHUNKS),
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
    snap_table_free(plan->page_table);
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

static void run_of_host_page(const SnapPushPlan *plan, uint64_t page,
                             SnapRAMRun *run)
{
    const SnapRAMBlocks *ram = plan->map->ram;
    const SnapRAMBlock *block = snap_ram_block_of(ram, page);
    uint64_t nb_pages;
    uint64_t first = snap_page_map_host_page(plan->map, page, &nb_pages);

    *run = (SnapRAMRun) {
        .block = block - ram->blocks,
        .offset = (first - block->first_page) << ram->page_bits,
        .length = nb_pages << ram->page_bits,
        .reason = plan->reason,
    };
}

/* Whether a host page at @run has data; its length is set to that page. */
static int coroutine_fn has_data(SnapPushPlan *plan, SnapRAMRun *run,
                                 bool *result, Error **errp)
{
    const SnapRAMBlocks *ram = plan->map->ram;
    uint64_t first = snap_ram_page(ram, &ram->blocks[run->block],
                                   run->offset);
    uint64_t targets = snap_host_pages_targets(plan->map->host_pages,
                                               run->block);

    run->length = targets << ram->page_bits;
    *result = false;
    for (uint64_t i = 0; i < targets && !*result; i++) {
        uint64_t entry;
        int ret = snap_table_get(plan->page_table, first + i, &entry, errp);

        if (ret < 0) {
            return ret;
        }
        *result = snap_page_is_stored(entry);
    }
    return 0;
}

/* Whether no target page of the host page at @run is sent or planned. */
static bool is_unsent(const SnapPushPlan *plan, const SnapRAMRun *run)
{
    uint64_t offset = run->offset;
    uint64_t length;

    return snap_page_map_next_unsent(plan->map, run->block, &offset,
                                     &length) && offset == run->offset;
}

/* Add entries of the list that are the next pages after @run. */
static int coroutine_fn extend_run(SnapPushPlan *plan, SnapRAMRun *run,
                                   Error **errp)
{
    const SnapRAMBlocks *ram = plan->map->ram;
    const SnapRAMBlock *block = &ram->blocks[run->block];
    int ret = 0;

    while (run->length < MAX_LIST_RUN &&
           run->offset + run->length < block->length) {
        uint64_t next = snap_ram_page(ram, block,
                                      run->offset + run->length);
        uint64_t page;
        SnapRAMRun more;

        ret = list_get(plan, plan->index, &page, errp);
        if (ret <= 0 || page != next) {
            break;
        }
        run_of_host_page(plan, page, &more);
        if (!is_unsent(plan, &more)) {
            break;
        }
        run->length += more.length;
        plan->index++;
    }
    return MIN(ret, 0);
}

/* Add the pages that the sweep came to after an arrival, up to a sent one. */
static void extend_arrival(const SnapPushPlan *plan, SnapRAMRun *run)
{
    uint64_t wanted = (uint64_t)ARRIVAL_PAGES << plan->map->ram->page_bits;
    uint64_t offset = run->offset;
    uint64_t length;

    if (snap_page_map_next_unsent(plan->map, run->block, &offset, &length)) {
        run->length = MIN(length, wanted);
    }
}

/*
 * Turn an arrival into a run.  A host page that is larger than target pages is
 * pushed as it is, if it has data.
 *
 * Returns: 1; 0 if there is nothing to push; -errno with @errp set
 */
static int coroutine_fn plan_arrival(SnapPushPlan *plan, SnapRAMRun *run,
                                     Error **errp)
{
    bool result;
    int ret;

    if (snap_host_pages_targets(plan->map->host_pages, run->block) == 1) {
        extend_arrival(plan, run);
        return 1;
    }
    ret = has_data(plan, run, &result, errp);
    return ret < 0 ? ret : result;
}

static int coroutine_fn next_of_list(SnapPushPlan *plan, SnapRAMRun *run,
                                     Error **errp)
{
    uint64_t page;
    int ret;

    while ((ret = list_get(plan, plan->index, &page, errp)) > 0) {
        plan->index++;
        run_of_host_page(plan, page, run);
        if (!is_unsent(plan, run)) {
            continue;
        }
        if (plan->reason == SNAP_PUSH_ARRIVALS) {
            ret = plan_arrival(plan, run, errp);
        } else {
            ret = extend_run(plan, run, errp) ?: 1;
        }
        if (ret) {
            return ret;
        }
    }
    return ret;
}

static int coroutine_fn next_linear(SnapPushPlan *plan, SnapRAMRun *run,
                                    Error **errp)
{
    const SnapRAMBlocks *ram = plan->map->ram;

    while (plan->block < ram->nb_blocks) {
        uint64_t length;
        bool wanted = true;

        if (!snap_page_map_next_unsent(plan->map, plan->block, &plan->offset,
                                       &length)) {
            plan->block++;
            plan->offset = 0;
            continue;
        }
        *run = (SnapRAMRun) {
            .block = plan->block,
            .offset = plan->offset,
            .length = length,
            .reason = SNAP_PUSH_LINEAR,
        };
        if (snap_host_pages_targets(plan->map->host_pages, plan->block) > 1) {
            int ret = has_data(plan, run, &wanted, errp);

            if (ret < 0) {
                return ret;
            }
        } else {
            run->length = MIN(run->length, MAX_LINEAR_RUN -
                                           run->offset % MAX_LINEAR_RUN);
        }
        plan->offset += run->length;
        if (plan->offset == ram->blocks[plan->block].length) {
            plan->block++;
            plan->offset = 0;
        }
        if (wanted) {
            return 1;
        }
    }
    return 0;
}

/* A damaged hint must not fail a running guest. */
static int coroutine_fn next_hint(SnapPushPlan *plan, SnapRAMRun *run)
{
    Error *err = NULL;
    int ret = next_of_list(plan, run, &err);

    if (ret < 0) {
        warn_report_err(err);
    }
    return ret;
}

static void note_planned(SnapPushPlan *plan, const SnapRAMRun *run)
{
    const SnapRAMBlocks *ram = plan->map->ram;

    snap_page_map_plan(plan->map, snap_ram_page(ram,
                                                &ram->blocks[run->block],
                                                run->offset),
                       run->length >> ram->page_bits);
}

int coroutine_fn snap_push_plan_next(void *opaque, SnapRAMRun *run,
                                     Error **errp)
{
    SnapPushPlan *plan = opaque;

    for (; plan->reason < SNAP_PUSH__MAX; plan->reason++, plan->index = 0) {
        int ret = 0;

        if (!(plan->reasons & (1u << plan->reason))) {
            continue;
        }
        if (plan->reason == SNAP_PUSH_LINEAR) {
            ret = next_linear(plan, run, errp);
        } else if (plan->reason != SNAP_PUSH_FAULT_AROUND) {
            ret = next_hint(plan, run);
        }
        if (ret > 0) {
            note_planned(plan, run);
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
    const SnapRAMBlocks *ram = plan->map->ram;

    assert(!(plan->reasons & (1u << SNAP_PUSH_LINEAR)));
    for (; plan->block < ram->nb_blocks; plan->block++, plan->offset = 0) {
        SnapRAMRun run = { .block = plan->block };
        uint64_t length;

        while (plan->offset < ram->blocks[plan->block].length &&
               snap_page_map_next_unsent(plan->map, plan->block, &plan->offset,
                                         &length)) {
            bool result;
            int ret;

            run.offset = plan->offset;
            ret = has_data(plan, &run, &result, errp);
            if (ret < 0 || result) {
                return ret < 0 ? ret : 1;
            }
            plan->offset += run.length;
        }
    }
    return 0;
}
