/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Files that the command line names
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "block/qdict.h"
#include "qemu/config-file.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/keyval.h"
#include "qemu/option.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qobject/qstring.h"
#include "snap/postcopy/postcopy.h"
#include "snap/storage/named-files.h"
#include "snap/storage/references.h"
#include "snap/storage/replace.h"
#include "cmd.h"

/* Add a file that @option names. */
static void files_add(SnapNamedFiles *files, SnapNamedUse use,
                      const char *option, const char *path)
{
    g_autofree char *name = g_strdup_printf("%s%s", option, path);

    snap_named_files_add(files, use, path, name);
}

/*
 * Parse options of the form "a=b,c.d=e", or JSON.
 *
 * Returns: new dictionary, flattened; NULL if @text is neither
 */
static QDict *files_parse_options(const char *text, const char *implied_key)
{
    QObject *object = text[0] == '{' ? qobject_from_json(text, NULL) : NULL;
    QDict *dict = qobject_ref(qobject_to(QDict, object));
    bool help;

    qobject_unref(object);
    if (text[0] != '{') {
        dict = keyval_parse(text, implied_key, &help, NULL);
    }
    if (dict) {
        qdict_flatten(dict);
    }
    return dict;
}

/* Add all files in @dict: their keys end with one of these words. */
static void files_add_options(SnapNamedFiles *files, SnapNamedUse use,
                              const char *option, const QDict *dict)
{
    static const char *const words[] = { "filename", "file", "path",
                                         "mem-path" };
    const QDictEntry *entry;

    for (entry = qdict_first(dict); entry; entry = qdict_next(dict, entry)) {
        const char *value = qdict_get_try_str(dict, qdict_entry_key(entry));
        const char *dot = strrchr(qdict_entry_key(entry), '.');
        const char *word = dot ? dot + 1 : qdict_entry_key(entry);

        for (unsigned i = 0; value && i < ARRAY_SIZE(words); i++) {
            if (!strcmp(word, words[i])) {
                strstart(value, "file:", &value);
                files_add(files, use, option, value);
            }
        }
    }
}

static void files_add_image(SnapNamedFiles *files,
                            const SnapCmdOptions *options, SnapNamedUse use,
                            BlockBackend *blk)
{
    g_auto(GStrv) opened = blk ? snap_references_files(blk) : NULL;
    SnapImageOptions image = snap_cmd_image_options(options);
    const char *path = snap_open_local_path(&image);
    const char *text = options->filename;
    g_autoptr(QDict) dict = NULL;

    for (char **name = opened; name && *name; name++) {
        snap_named_files_add(files, use, *name, *name);
    }
    if (path) {
        snap_named_files_add(files, use, path, path);
    } else if (options->image_opts || strstart(text, "json:", &text)) {
        dict = files_parse_options(text, NULL);
    }
    if (dict) {
        files_add_options(files, use, "", dict);
    }
}

/* Add the files that a save creates beside the one that it replaces. */
static void files_add_temporaries(SnapNamedFiles *files,
                                  const SnapCmdOptions *options)
{
    SnapImageOptions image = snap_cmd_image_options(options);
    const char *path = snap_open_local_path(&image);
    g_auto(GStrv) names = path ? snap_replace_names(path) : NULL;

    for (char **name = names; name && *name; name++) {
        snap_named_files_add(files, SNAP_NAMED_TEMPORARY, *name,
                             "a temporary file of the save");
    }
}

static void files_add_working_set(SnapNamedFiles *files,
                                  const SnapCmdOptions *options, bool used)
{
    g_autofree char *path = used || options->working_set ?
                            snap_cmd_working_set(options) : NULL;
    SnapNamedUse use = options->postcopy->record ? SNAP_NAMED_WRITTEN :
                                                  SNAP_NAMED_READ;

    if (path && options->working_set) {
        files_add(files, use, "--working-set=", path);
    } else if (path) {
        snap_named_files_add(files, use, path,
                             "the working set of the image");
    }
}

static void files_add_objects(SnapNamedFiles *files,
                              const SnapCmdOptions *options)
{
    for (unsigned i = 0; i < options->object_args->len; i++) {
        const char *text = g_ptr_array_index(options->object_args, i);
        g_autoptr(QDict) dict = files_parse_options(text, "qom-type");

        if (dict) {
            files_add_options(files, SNAP_NAMED_READ, "--object ...,file=",
                              dict);
        }
    }
}

static void files_add_traces(SnapNamedFiles *files,
                             const SnapCmdOptions *options)
{
    for (unsigned i = 0; i < options->trace_args->len; i++) {
        const char *text = g_ptr_array_index(options->trace_args, i);
        QemuOpts *opts = qemu_opts_parse(qemu_find_opts("trace"), text, true,
                                         NULL);
        const char *file = opts ? qemu_opt_get(opts, "file") : NULL;
        const char *events = opts ? qemu_opt_get(opts, "events") : NULL;

        if (file) {
            files_add(files, SNAP_NAMED_WRITTEN, "-T file=", file);
        }
        if (events) {
            files_add(files, SNAP_NAMED_READ, "-T events=", events);
        }
        qemu_opts_del(opts);
    }
}

void snap_cmd_exit(Error *err)
{
    error_report_err(err);
    exit(EXIT_FAILURE);
}

bool snap_cmd_check_files(const SnapCmdOptions *options, SnapCmdImageUse use,
                          BlockBackend *blk, Error **errp)
{
    g_autoptr(SnapNamedFiles) files = snap_named_files_new();
    bool written = use != SNAP_CMD_READS || options->repair;
    const char *socket;

    files_add_image(files, options,
                    written ? SNAP_NAMED_IMAGE_WRITTEN : SNAP_NAMED_IMAGE, blk);
    if (use == SNAP_CMD_SAVES && !options->existing) {
        files_add_temporaries(files, options);
    }
    if (options->report) {
        files_add(files, SNAP_NAMED_WRITTEN, "--report=", options->report);
    }
    if (options->uri && strstart(options->uri, "unix:", &socket)) {
        files_add(files, SNAP_NAMED_WRITTEN, "--uri=unix:", socket);
    }
    files_add_working_set(files, options,
                          use == SNAP_CMD_EMBEDS || options->by_postcopy);
    files_add_objects(files, options);
    files_add_traces(files, options);
    return snap_named_files_check(files, errp);
}
