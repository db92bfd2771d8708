/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a verb ended: the line on stderr, and the file of --report
 */

#ifndef SNAP_CMD_REPORT_H
#define SNAP_CMD_REPORT_H

#include "cmd.h"

/* Report an error in one line, with the image's name ahead, and free it. */
void snap_cmd_error(const SnapCmdOptions *options, Error *err);

/**
 * snap_cmd_output: a verb has written to stdout
 * @status: exit status so far
 *
 * Returns: exit status, a failure where what was written could not be
 */
int snap_cmd_output(int status);

/**
 * snap_cmd_finish: report how a save or load ended
 * @err: what went wrong, taken over; NULL for nothing
 *
 * To stderr, and to the file of --report.
 *
 * Returns: exit status
 */
int snap_cmd_finish(const SnapCmdOptions *options, const SnapStats *stats,
                    Error *err);

#endif /* SNAP_CMD_REPORT_H */
