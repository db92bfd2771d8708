/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a verb ended: the line on stderr, and the file of --report
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"
#include "report.h"

/*
 * The message of an error in one line.  It may quote the image, also where it
 * is the block layer's: a terminal must not act on that.
 */
static char *message(const Error *err)
{
    g_autofree char *valid = g_utf8_make_valid(error_get_pretty(err), -1);
    GString *line = g_string_new(NULL);

    for (const char *p = valid; *p; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);

        g_string_append_unichar(line, g_unichar_isprint(c) ? c : '?');
    }
    return g_string_free(line, false);
}

void snap_cmd_error(const SnapCmdOptions *options, Error *err)
{
    g_autofree char *text = message(err);

    /* Not error_report_err(), which adds lines of hints. */
    error_report("'%s': %s", options->filename, text);
    error_free(err);
}

int snap_cmd_output(int status)
{
    if (fflush(stdout) != 0 || ferror(stdout)) {
        error_report("Could not write to stdout: %s", strerror(errno));
        return EXIT_FAILURE;
    }
    return status;
}

/* A file is replaced as a whole; anything else, such as a pipe, is written. */
static bool write_file(const char *path, const GString *content)
{
    g_autoptr(GError) gerr = NULL;
    struct stat st;
    bool done;
    int fd;

    if (lstat(path, &st) < 0 || S_ISREG(st.st_mode)) {
        if (!g_file_set_contents(path, content->str, content->len, &gerr)) {
            error_report("Could not write the report: %s", gerr->message);
            return false;
        }
        return true;
    }
    fd = open(path, O_WRONLY | O_TRUNC | O_NONBLOCK | O_CLOEXEC);
    done = fd >= 0 && qemu_write_full(fd, content->str, content->len) ==
                      content->len;
    if (!done) {
        error_report("Could not write the report '%s': %s", path,
                     strerror(errno));
    }
    if (fd >= 0) {
        close(fd);
    }
    return done;
}

static QDict *describe_latency(const SnapHistogram *latency)
{
    QDict *dict = qdict_new();
    QList *octaves = qlist_new();

    qdict_put_int(dict, "count", latency->count);
    qdict_put_int(dict, "p50", snap_histogram_percentile(latency, 50));
    qdict_put_int(dict, "p99", snap_histogram_percentile(latency, 99));
    qdict_put_int(dict, "max", latency->max);
    for (unsigned bits = 0; latency->count && bits < 63; bits++) {
        QDict *octave = qdict_new();

        qdict_put_int(octave, "below-us", INT64_C(1) << bits);
        qdict_put_int(octave, "count", snap_histogram_octave(latency, bits));
        qlist_append(octaves, octave);
        if (latency->max < INT64_C(1) << bits) {
            break;
        }
    }
    qdict_put(dict, "histogram", octaves);
    return dict;
}

static int64_t since(int64_t start_ns, int64_t ns)
{
    return ns ? (ns - start_ns) / SCALE_US : 0;
}

static QDict *describe_postcopy(const SnapCmdOptions *options,
                                const SnapPostcopyStats *stats)
{
    static const char *const names[] = {
        [SNAP_PUSH_PRECOPY]      = "precopy-pages",
        [SNAP_PUSH_REQUESTED]    = "requested-pages",
        [SNAP_PUSH_WORKING_SET]  = "working-set-pages",
        [SNAP_PUSH_ARRIVALS]     = "arrival-pages",
        [SNAP_PUSH_FAULT_AROUND] = "around-pages",
        [SNAP_PUSH_LINEAR]       = "linear-pages",
    };
    int64_t start_ns = options->start_ns;
    QDict *dict = qdict_new();

    qdict_put_int(dict, "percent", options->postcopy.percent);
    qdict_put_int(dict, "run-us", since(start_ns, stats->run_ns));
    qdict_put_int(dict, "complete-us", since(start_ns, stats->complete_ns));
    for (unsigned i = 0; i < SNAP_PUSH__MAX; i++) {
        qdict_put_int(dict, names[i], stats->sent[i]);
    }
    qdict_put_int(dict, "zero-requested-pages", stats->zero_requested);
    qdict_put_int(dict, "requests", stats->requests);
    qdict_put_int(dict, "requests-on-the-way", stats->already_sent);
    qdict_put_int(dict, "requests-repeated", stats->duplicate);
    qdict_put(dict, "latency-us", describe_latency(&stats->latency));
    return dict;
}

static bool write_report(const SnapCmdOptions *options,
                         const SnapStats *stats, const Error *err)
{
    int64_t ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME) - options->start_ns;
    g_autoptr(QDict) report = qdict_new();
    g_autoptr(GString) json = NULL;

    qdict_put_str(report, "verb", options->verb);
    qdict_put_str(report, "image", options->filename);
    qdict_put_str(report, "status", err ? "failed" : "completed");
    if (err) {
        qdict_put_str(report, "error", error_get_pretty(err));
    }
    if (!qemu_uuid_is_null(&stats->uuid)) {
        g_autofree char *uuid = qemu_uuid_unparse_strdup(&stats->uuid);

        qdict_put_str(report, "uuid", uuid);
    }
    qdict_put_int(report, "milliseconds", ns / SCALE_MS);
    qdict_put_int(report, "ram-bytes", stats->ram_bytes);
    qdict_put_int(report, "stored-pages", stats->stored_pages);
    qdict_put_int(report, "zero-pages", stats->zero_pages);
    qdict_put_int(report, "device-bytes", stats->device_bytes);
    if (stats->postcopy.active) {
        qdict_put(report, "postcopy",
                  describe_postcopy(options, &stats->postcopy));
    }
    json = qobject_to_json_pretty(QOBJECT(report), true);
    g_string_append_c(json, '\n');
    return write_file(options->report, json);
}

int snap_cmd_finish(const SnapCmdOptions *options, const SnapStats *stats,
                    Error *err)
{
    int status = err ? EXIT_FAILURE : EXIT_SUCCESS;

    if (options->report && !write_report(options, stats, err)) {
        status = EXIT_FAILURE;
    }
    if (err) {
        g_autofree char *text = message(err);

        error_report("Could not %s '%s': %s", options->verb, options->filename,
                     text);
        error_free(err);
    }
    return status;
}
