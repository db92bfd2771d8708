/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a verb ended: the line on stderr, and the file of --report
 */

#ifndef SNAP_CMD_REPORT_H
#define SNAP_CMD_REPORT_H

#include "cmd.h"

typedef struct SnapStats SnapStats;

/* Report @err in one line that begins with the image's name, and free it. */
void snap_cmd_error(const SnapCmdOptions *options, Error *err);

/**
 * snap_cmd_output: finish the output of a verb to stdout
 * @status: exit status so far
 *
 * Returns: @status; EXIT_FAILURE if the output could not be written
 */
int snap_cmd_output(int status);

/**
 * snap_cmd_finish: report how a save or load ended, in the file of --report
 * and, if it failed, on stderr
 * @stats: numbers for the report
 * @err: cause of the failure, taken over; NULL on success
 *
 * Returns: exit status
 */
int snap_cmd_finish(const SnapCmdOptions *options, const SnapStats *stats,
                    Error *err);

#endif /* SNAP_CMD_REPORT_H */
