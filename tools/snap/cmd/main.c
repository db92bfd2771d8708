/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qemu-snap: start-up, and running the verb
 */

#include "qemu/osdep.h"
#include "block/block.h"
#include "crypto/init.h"
#include "qapi/error.h"
#include "qemu/config-file.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/log.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "trace/control.h"
#include "snap/util/interrupt.h"
#include "snap/verb/load.h"
#include "options.h"

/**
 * CommandLine: what on_usage_error() needs to know
 * @argv: the command line
 * @understood: it was parsed without an error, so that the verb handles others
 */
typedef struct CommandLine {
    char **argv;
    bool understood;
} CommandLine;

/* Whether this is probably a load, whose destination waits for our stdout */
static bool is_awaited_load(char **argv)
{
    const SnapCmdVerb *verb = NULL;
    struct stat st;

    if (fstat(STDOUT_FILENO, &st) < 0 ||
        !(S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode))) {
        return false;
    }
    for (char **arg = argv + 1; *arg; arg++) {
        /* --uri has another channel; --resume must not send a byte. */
        if (g_str_has_prefix(*arg, "--u") || g_str_has_prefix(*arg, "--res")) {
            return false;
        }
        verb = verb ?: snap_cmd_find_verb(*arg);
    }
    return verb && verb->run == snap_cmd_load;
}

/*
 * Refuse a load if its command line is wrong: QEMU waits indefinitely for a
 * command that ends without a byte.  This runs at exit, as any function that
 * parses an option may exit.
 */
static void on_usage_error(int status, void *opaque)
{
    g_autofree CommandLine *line = opaque;

    if (status && !line->understood && is_awaited_load(line->argv) &&
        !snap_load_refuse_fd(STDOUT_FILENO)) {
        error_report("Could not write to stdout: %s", strerror(errno));
    }
}

static void end_interrupted(void *opaque)
{
    snap_cmd_end_interrupted(opaque);
}

static bool start_trace(const SnapCmdOptions *options)
{
    bool done;

    /* To open a FIFO may block. */
    snap_interrupt_begin_blocking(options->interrupt);
    done = trace_init_backends();
    if (done) {
        trace_init_file();
        qemu_set_log(LOG_TRACE, &error_fatal);
    }
    snap_interrupt_end_blocking(options->interrupt);
    return done;
}

static void start_qemu(const char *argv0)
{
    error_init(argv0);
    module_call_init(MODULE_INIT_TRACE);
    qemu_init_exec_dir(argv0);
    qemu_init_main_loop(&error_fatal);
    qcrypto_init(&error_fatal);
    module_call_init(MODULE_INIT_QOM);
    bdrv_init();
    qemu_add_opts(&qemu_trace_opts);
}

/* Parse the command line, or exit; see on_usage_error(). */
static const SnapCmdVerb *read_command_line(SnapCmdOptions *options, int argc,
                                            char **argv)
{
    CommandLine *line = g_new0(CommandLine, 1);
    const SnapCmdVerb *verb;
    Error *err = NULL;

    line->argv = argv;
    on_exit(on_usage_error, line);
    verb = snap_cmd_options_parse(options, argc, argv);
    if (!snap_cmd_check_files(options, verb->use, NULL, &err)) {
        snap_cmd_exit(err);
    }
    line->understood = true;
    return verb;
}

int main(int argc, char **argv)
{
    SnapCmdOptions options;
    const SnapCmdVerb *verb;
    int status;

    snap_cmd_options_init(&options);
    /* If a reader is gone, write(2) fails. */
    (void)signal(SIGPIPE, SIG_IGN);
    start_qemu(argv[0]);

    verb = read_command_line(&options, argc, argv);
    if (verb->live) {
        options.interrupt = snap_interrupt_new(end_interrupted, &options);
    }
    if (!start_trace(&options)) {
        return EXIT_FAILURE;
    }
    if (!verb->live) {
        snap_cmd_prepare(&options, &error_fatal);
    }

    status = verb->run(&options);
    snap_interrupt_free(options.interrupt);
    snap_cmd_options_destroy(&options);
    return status;
}
