/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a verb ended: the line on stderr, and the file of --report
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "snap/postcopy/postcopy.h"
#include "snap/transfer/stats.h"
#include "tools/snap/qapi/snap-qapi-visit.h"
#include "json.h"
#include "report.h"

/*
 * Returns: newly allocated message in one line, without anything that a
 * terminal might act on, as errors may quote the image, those of the block
 * layer included
 */
static char *report_one_line(const Error *err)
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
    g_autofree char *text = report_one_line(err);

    /* error_report_err() would add lines of hints. */
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

/* Replace a regular file as a whole, and write to others, such as a FIFO. */
static bool report_write_file(const char *path, const GString *content)
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

static SnapReportOctaveList *report_octaves(const SnapHistogram *latency)
{
    SnapReportOctaveList *list = NULL;
    SnapReportOctaveList **tail = &list;

    for (unsigned bits = 0; latency->count && bits < 63; bits++) {
        SnapReportOctave *octave = g_new(SnapReportOctave, 1);

        octave->below_us = INT64_C(1) << bits;
        octave->count = snap_histogram_octave(latency, bits);
        QAPI_LIST_APPEND(tail, octave);
        if (latency->max < INT64_C(1) << bits) {
            break;
        }
    }
    return list;
}

static SnapReportLatency *report_latency(const SnapHistogram *latency)
{
    SnapReportLatency *report = g_new(SnapReportLatency, 1);

    *report = (SnapReportLatency) {
        .count = latency->count,
        .p50 = snap_histogram_percentile(latency, 50),
        .p99 = snap_histogram_percentile(latency, 99),
        .max = latency->max,
        .histogram = report_octaves(latency),
    };
    return report;
}

/* Returns: microseconds from @start_ns to @ns; 0 if that was not reached */
static int64_t report_elapsed_us(int64_t start_ns, int64_t ns)
{
    return ns ? (ns - start_ns) / SCALE_US : 0;
}

static SnapReportPostcopy *report_postcopy(const SnapCmdOptions *options,
                                           const SnapPostcopyStats *stats)
{
    SnapReportPostcopy *report = g_new(SnapReportPostcopy, 1);
    int64_t start_ns = options->start_ns;

    *report = (SnapReportPostcopy) {
        .percent = options->postcopy->percent,
        .run_us = report_elapsed_us(start_ns, stats->run_ns),
        .complete_us = report_elapsed_us(start_ns, stats->complete_ns),
        .precopy_pages = stats->sent[SNAP_PUSH_PRECOPY],
        .requested_pages = stats->sent[SNAP_PUSH_REQUESTED],
        .working_set_pages = stats->sent[SNAP_PUSH_WORKING_SET],
        .arrival_pages = stats->sent[SNAP_PUSH_ARRIVALS],
        .around_pages = stats->sent[SNAP_PUSH_FAULT_AROUND],
        .linear_pages = stats->sent[SNAP_PUSH_LINEAR],
        .zero_requested_pages = stats->zero_requested,
        .requests = stats->requests,
        .requests_on_the_way = stats->already_sent,
        .requests_repeated = stats->duplicate,
        .latency_us = report_latency(&stats->latency),
    };
    return report;
}

static SnapReport *report_new(const SnapCmdOptions *options,
                              const SnapStats *stats, const Error *err)
{
    int64_t ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME) - options->start_ns;
    SnapReport *report = g_new(SnapReport, 1);

    *report = (SnapReport) {
        .verb = g_strdup(options->verb),
        .image = g_strdup(options->filename),
        .status = err ? SNAP_REPORT_STATUS_FAILED :
                        SNAP_REPORT_STATUS_COMPLETED,
        .error = err ? g_strdup(error_get_pretty(err)) : NULL,
        .uuid = qemu_uuid_is_null(&stats->uuid) ? NULL :
                qemu_uuid_unparse_strdup(&stats->uuid),
        .milliseconds = ns / SCALE_MS,
        .ram_bytes = stats->ram_bytes,
        .stored_pages = stats->stored_pages,
        .zero_pages = stats->zero_pages,
        .device_bytes = stats->device_bytes,
        .postcopy = stats->postcopy.active ?
                    report_postcopy(options, &stats->postcopy) : NULL,
    };
    return report;
}

static bool report_write(const SnapCmdOptions *options, const SnapStats *stats,
                         const Error *err)
{
    g_autoptr(SnapReport) report = report_new(options, stats, err);
    g_autoptr(GString) text = NULL;
    SnapJSON json;

    snap_json_begin(&json);
    visit_type_SnapReport(json.v, NULL, &report, &error_abort);
    text = snap_json_end(&json);
    return report_write_file(options->report, text);
}

int snap_cmd_finish(const SnapCmdOptions *options, const SnapStats *stats,
                    Error *err)
{
    int status = err ? EXIT_FAILURE : EXIT_SUCCESS;

    if (options->report && !report_write(options, stats, err)) {
        status = EXIT_FAILURE;
    }
    if (err) {
        g_autofree char *text = report_one_line(err);

        error_report("Could not %s '%s': %s", options->verb, options->filename,
                     text);
        error_free(err);
    }
    return status;
}
