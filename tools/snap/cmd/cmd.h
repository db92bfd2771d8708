/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Verbs of the command line
 *
 * The folder cmd/ is the command line: options parses it, main calls a verb.
 * Its file prepares (common), checks the names of files (files), opens image
 * and channel, calls verb/, and reports how it ended (report) or prints what it
 * has found out (json).  Only here may the program exit.
 */

#ifndef SNAP_CMD_H
#define SNAP_CMD_H

#include "qapi/qapi-types-qom.h"
#include "snap/storage/target.h"

typedef struct SnapMultifdOptions SnapMultifdOptions;
typedef struct SnapPostcopyOptions SnapPostcopyOptions;
typedef struct SnapTransport SnapTransport;

/**
 * SnapCmdOptions: the command line
 * @verb: name of the verb
 * @start_ns: QEMU_CLOCK_REALTIME at the start of the program
 * @interrupt: handler of signals; NULL for a verb that they simply kill
 * @objects: array of ObjectOptions *, to be created
 * @filename: the image, as given
 * @image: its name, or list of options, for the block layer
 * @cache, @aio, @format, @create_format, @uri, @report, @working_set: as given,
 *         or NULL
 * @create_options: all that were given, separated by commas
 * @image_size: limit on the guest's RAM in bytes, 0 for none
 * @page_bits: log2 of the target page size
 * @postcopy: how to load, if @by_postcopy
 * @multifd: channels of a load, if there are any
 * @host_pages: array of char *, all that were given, and NULL
 * @object_args, @trace_args: arrays of const char *, all that were given
 * @image_opts, @existing, @force_share, @backing_chain, @quiet, @progress,
 * @json, @by_postcopy, @no_verify, @repair: switches
 */
typedef struct SnapCmdOptions {
    const char *verb;
    int64_t start_ns;
    SnapInterrupt *interrupt;
    GPtrArray *objects;
    const char *filename;
    char *image;
    const char *cache;
    const char *aio;
    const char *format;
    const char *create_format;
    char *create_options;
    const char *uri;
    const char *report;
    uint64_t image_size;
    unsigned page_bits;
    SnapPostcopyOptions *postcopy;
    SnapMultifdOptions *multifd;
    GPtrArray *host_pages;
    const char *working_set;
    GPtrArray *object_args;
    GPtrArray *trace_args;
    bool image_opts;
    bool existing;
    bool force_share;
    bool backing_chain;
    bool quiet;
    bool progress;
    bool json;
    bool by_postcopy;
    bool no_verify;
    bool repair;
} SnapCmdOptions;

/* The verbs: each reports its errors, and returns the exit status. */
int snap_cmd_save(const SnapCmdOptions *options);
int snap_cmd_load(const SnapCmdOptions *options);
int snap_cmd_info(const SnapCmdOptions *options);
int snap_cmd_check(const SnapCmdOptions *options);
int snap_cmd_embed(const SnapCmdOptions *options);

/**
 * snap_cmd_prepare: create the objects of --object, and respect memory limits
 *
 * May block, as a secret can be read from any file.  A save or load calls it
 * once it can tell QEMU of a failure; main() does for the other verbs.
 *
 * Returns: true on success; false with @errp set
 */
bool snap_cmd_prepare(const SnapCmdOptions *options, Error **errp);

/* What a verb does with the image */
typedef enum SnapCmdImageUse {
    SNAP_CMD_READS,
    SNAP_CMD_SAVES,
    SNAP_CMD_EMBEDS,
} SnapCmdImageUse;

/**
 * snap_cmd_check_files: refuse to write a file that is also used otherwise
 * @use: what the verb does with the image
 * @blk: the open image, which may consist of more files than the command line
 *       names; NULL before it is opened
 *
 * Returns: true if there is no such file; false with @errp set
 */
bool snap_cmd_check_files(const SnapCmdOptions *options, SnapCmdImageUse use,
                          BlockBackend *blk, Error **errp);

/*
 * Exit after a failure of snap_cmd_check_files(), without a report: that may be
 * the file.
 */
void G_NORETURN snap_cmd_exit(Error *err);

/* Returns: how to open an image that exists */
SnapImageOptions snap_cmd_image_options(const SnapCmdOptions *options);

/**
 * snap_cmd_working_set: the file of the image's working set
 *
 * Returns: newly allocated path; NULL if none was given and the image is not a
 * local file, so that there is no place beside it
 */
char *snap_cmd_working_set(const SnapCmdOptions *options);

/**
 * snap_cmd_leave: end the process while requests are in flight
 *
 * Nothing is closed or freed: that would wait for storage that hangs.
 */
void G_NORETURN snap_cmd_leave(int status);

/* A signal has come while nothing can be undone: report that, and end. */
void G_NORETURN snap_cmd_end_interrupted(const SnapCmdOptions *options);

#endif /* SNAP_CMD_H */
