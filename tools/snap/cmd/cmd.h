/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Verbs of the command line
 *
 * The folder cmd/ is the command line: options parses it, main calls a verb,
 * whose file opens what is needed (common), calls verb/, and reports how it
 * ended (report).  Only here may the program exit.
 */

#ifndef SNAP_CMD_H
#define SNAP_CMD_H

#include "qapi/qapi-types-qom.h"
#include "snap/storage/target.h"
#include "snap/transfer/multifd-sender.h"
#include "snap/postcopy/postcopy.h"
#include "snap/transfer/stats.h"
#include "snap/channel/transport.h"

/**
 * SnapCmdOptions: the command line
 * @verb: name of the verb
 * @start_ns: QEMU_CLOCK_REALTIME when it began
 * @interrupt: signals; NULL for a verb that they just kill
 * @objects: array of ObjectOptions *, to be created
 * @filename: the image, as given
 * @image: its name, or list of options, for the block layer
 * @cache, @aio, @format, @create_format, @uri, @report: as given, NULL where
 *         not
 * @create_options: all that were given, separated by commas
 * @image_size: bytes of RAM that an image may be for, 0 for any number
 * @page_bits: log2 of the target page size
 * @postcopy: how to load, where @by_postcopy or @postcopy.resume
 * @multifd: channels of a load, where @multifd.nb_channels is not 0
 * @host_pages: array of char *, all that were given
 * @working_set: as given, NULL where not
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
    SnapPostcopyOptions postcopy;
    SnapMultifdOptions multifd;
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

/* The verbs. Each reports its errors and returns the exit status. */
int snap_cmd_save(const SnapCmdOptions *options);
int snap_cmd_load(const SnapCmdOptions *options);
int snap_cmd_info(const SnapCmdOptions *options);
int snap_cmd_check(const SnapCmdOptions *options);
int snap_cmd_embed(const SnapCmdOptions *options);

/**
 * snap_cmd_prepare: what all verbs do before an image is opened
 *
 * Look at the limits, and create what --object describes; that may block, as a
 * secret comes from any file.  Save and load do it when QEMU can be told that
 * it fails; for the other verbs it has been done.
 *
 * Returns: false with @errp set
 */
bool snap_cmd_prepare(const SnapCmdOptions *options, Error **errp);

/* What a verb does with the image. */
typedef enum SnapCmdImageUse {
    SNAP_CMD_READS,
    SNAP_CMD_SAVES,
    SNAP_CMD_EMBEDS,
} SnapCmdImageUse;

/**
 * snap_cmd_check_files: see that no file that would be written is named for
 * another purpose as well
 * @blk: the image; NULL before anything is opened. It may consist of more files
 *       than the command line tells
 *
 * Returns: false with @errp set
 */
bool snap_cmd_check_files(const SnapCmdOptions *options, SnapCmdImageUse use,
                          BlockBackend *blk, Error **errp);

/*
 * After a failure of snap_cmd_check_files(): not even a report is written, as
 * that may be the file.
 */
void G_NORETURN snap_cmd_exit(Error *err);

/* How to open the image that a verb reads. */
SnapImageOptions snap_cmd_image_options(const SnapCmdOptions *options);

/**
 * snap_cmd_working_set: the file of the image's working set
 *
 * Returns: newly allocated path; NULL where none was given, and the image is
 * no local file that one could lie beside
 */
char *snap_cmd_working_set(const SnapCmdOptions *options);

/**
 * snap_cmd_abandon: leave a save or load as it is, because the process ends
 * @transport: its channel; nothing but the flags of descriptors is put back
 *
 * Where a coroutine was interrupted, it still refers to everything, so nothing
 * can be freed.
 */
void snap_cmd_abandon(SnapTransport *transport);

/* A signal has come while nothing can be undone: report that, and end. */
void G_NORETURN snap_cmd_end_interrupted(const SnapCmdOptions *options);

#endif /* SNAP_CMD_H */
