/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Progress on stderr, because stdout may be the channel
 */

#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "snap/util/progress.h"

void snap_progress_show(SnapProgress *progress, uint64_t done, uint64_t total)
{
    unsigned percent;

    if (!progress->enabled || !total) {
        return;
    }
    percent = done * 100 / total;
    if (percent != progress->shown) {
        progress->shown = percent;
        error_printf("    (%u/100%%)\r", percent);
    }
}

void snap_progress_end(SnapProgress *progress)
{
    if (progress->enabled && progress->shown) {
        error_printf("\n");
    }
}
