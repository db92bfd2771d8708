/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Progress on stderr, because stdout may be the channel
 */

#ifndef SNAP_UTIL_PROGRESS_H
#define SNAP_UTIL_PROGRESS_H

/**
 * SnapProgress: what was shown
 * @enabled: whether to show anything
 */
typedef struct SnapProgress {
    bool enabled;

    /*< private >*/
    unsigned shown;             /* the last percentage */
} SnapProgress;

/* Show that @done of @total is done, if that differs from before. */
void snap_progress_show(SnapProgress *progress, uint64_t done, uint64_t total);

/* End the line. */
void snap_progress_end(SnapProgress *progress);

#endif /* SNAP_UTIL_PROGRESS_H */
