/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The working set of a load by postcopy: which pages a guest requests first
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "snap/image/working-set.h"
#include "snap/postcopy/recording.h"

struct SnapRecording {
    /* constant */
    SnapImage *image;
    const char *path;

    /* page numbers; NULL if there are none, or nothing is recorded */
    GArray *earlier;
    GArray *recorded;
};

SnapRecording *snap_recording_new(SnapImage *image, const char *path)
{
    SnapRecording *r = g_new(SnapRecording, 1);

    *r = (SnapRecording) {
        .image = image,
        .path = path,
    };
    return r;
}

void snap_recording_free(SnapRecording *r)
{
    if (!r) {
        return;
    }
    g_clear_pointer(&r->earlier, g_array_unref);
    g_clear_pointer(&r->recorded, g_array_unref);
    g_free(r);
}

/* Returns: 1; 0 if there is no working set; -errno with @errp set */
static int coroutine_fn recording_read(SnapRecording *r, Error **errp)
{
    int ret = 0;

    if (r->path) {
        ret = snap_working_set_load(r->path, &r->image->header, &r->earlier,
                                    errp);
    }
    if (!ret) {
        ret = snap_image_working_set(r->image, &r->earlier, errp);
    }
    return ret;
}

void coroutine_fn snap_recording_plan(SnapRecording *r, SnapPushPlan *plan)
{
    Error *err = NULL;
    int ret = recording_read(r, &err);

    if (ret < 0) {
        warn_report_err(err);
    } else if (ret > 0) {
        snap_push_plan_set_working_set(plan, (uint64_t *)r->earlier->data,
                                       r->earlier->len);
    }
}

void snap_recording_start(SnapRecording *r, SnapDemand *demand)
{
    r->recorded = g_array_new(false, false, sizeof(uint64_t));
    snap_demand_record(demand, r->recorded, SNAP_MAX_WORKING_SET);
}

bool snap_recording_store(SnapRecording *r, Error **errp)
{
    return !r->recorded || !r->recorded->len ||
           snap_working_set_store(r->path, r->recorded, &r->image->header.uuid,
                                  errp);
}
