/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command line: verbs and options
 */

#ifndef SNAP_CMD_OPTIONS_H
#define SNAP_CMD_OPTIONS_H

#include "cmd.h"

/**
 * SnapCmdVerb: a verb of the command line
 * @name: its name
 * @mask: its bit in masks of verbs
 * @use: what it does with the image
 * @live: whether QEMU is at the other end, so that signals have to be handled
 * @run: carry it out, and return the exit status
 * @help: what it does, in a few words
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

/* Set @options to the defaults; free them with snap_cmd_options_destroy(). */
void snap_cmd_options_init(SnapCmdOptions *options);
void snap_cmd_options_destroy(SnapCmdOptions *options);

/**
 * snap_cmd_options_parse: parse the command line
 * @options: initialized; set as the command line says
 *
 * Exits if the command line is wrong, or asks for help or the version.
 *
 * Returns: the verb to run
 */
const SnapCmdVerb *snap_cmd_options_parse(SnapCmdOptions *options, int argc,
                                          char **argv);

#endif /* SNAP_CMD_OPTIONS_H */
