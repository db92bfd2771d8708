/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The working set of a load by postcopy: which pages a guest requests first
 *
 * What an earlier load recorded is pushed first; what this one is asked for can
 * be recorded for the next.
 */

#ifndef SNAP_POSTCOPY_RECORDING_H
#define SNAP_POSTCOPY_RECORDING_H

#include "snap/image/image.h"
#include "snap/postcopy/demand.h"
#include "snap/postcopy/push-plan.h"

typedef struct SnapRecording SnapRecording;

/**
 * snap_recording_new: neither read nor recorded yet
 * @image: the snapshot, not owned
 * @path: file of a working set, not owned; may be NULL
 */
SnapRecording *snap_recording_new(SnapImage *image, const char *path);

/* After the demand and the plan that it was given to have been freed. */
void snap_recording_free(SnapRecording *recording);

/**
 * snap_recording_plan: let @plan begin with the pages recorded earlier
 *
 * Those of the file, or of the image if there is no such file.  They are a
 * hint: if they cannot be read, there is a warning.
 */
void coroutine_fn snap_recording_plan(SnapRecording *recording,
                                      SnapPushPlan *plan);

/* Record what is requested of @demand from now on. */
void snap_recording_start(SnapRecording *recording, SnapDemand *demand);

/**
 * snap_recording_store: replace the file by what was recorded, if anything was
 *
 * Returns: true on success, false with @errp set
 */
bool snap_recording_store(SnapRecording *recording, Error **errp);

#endif /* SNAP_POSTCOPY_RECORDING_H */
