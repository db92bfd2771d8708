/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command line: verbs and options
 */

#ifndef SNAP_CMD_OPTIONS_H
#define SNAP_CMD_OPTIONS_H

#include "cmd.h"

/**
 * SnapCmdVerb: what can be done
 * @mask: one bit, for the table of options
 * @use: what is done with the image
 * @live: QEMU is at the other end, so a signal has to be handled
 * @help: what it does
 */
typedef struct SnapCmdVerb {
    const char *name;
    unsigned mask;
    SnapCmdImageUse use;
    bool live;
    int (*run)(const SnapCmdOptions *options);
    const char *help;
} SnapCmdVerb;

/* Returns: NULL if there is no verb @name */
const SnapCmdVerb *snap_cmd_find_verb(const char *name);

/* Set @options to the defaults, for snap_cmd_options_destroy(). */
void snap_cmd_options_init(SnapCmdOptions *options);
void snap_cmd_options_destroy(SnapCmdOptions *options);

/**
 * snap_cmd_options_parse: read the command line
 * @options: initialized, to be completed
 *
 * Exit if it is wrong, or if only help was requested.
 *
 * Returns: the verb to run
 */
const SnapCmdVerb *snap_cmd_options_parse(SnapCmdOptions *options, int argc,
                                          char **argv);

#endif /* SNAP_CMD_OPTIONS_H */
