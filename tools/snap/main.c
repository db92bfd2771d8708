/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qemu-snap: the command line
 */

#include "qemu/osdep.h"
#include "qemu/help-texts.h"
#include "qemu-version.h"
#include "block/block.h"
#include "crypto/init.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/log.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/config-file.h"
#include "qom/object_interfaces.h"
#include "snap/layout.h"
#include "trace/control.h"
#include "cmd.h"

#include <getopt.h>

/* What most targets have, and no stream of theirs says. */
#define DEFAULT_PAGE_BITS 12

enum {
    VERB_SAVE  = 1 << 0,
    VERB_LOAD  = 1 << 1,
    VERB_INFO  = 1 << 2,
    VERB_CHECK = 1 << 3,
    VERB_READ  = VERB_LOAD | VERB_INFO | VERB_CHECK,
    VERB_ANY   = VERB_SAVE | VERB_READ,
};

/* Options without a letter. */
enum {
    OPTION_AIO = 256,
    OPTION_OBJECT,
    OPTION_IMAGE_OPTS,
    OPTION_OUTPUT,
    OPTION_REPORT,
    OPTION_URI,
    OPTION_TARGET_PAGE_SIZE,
};

typedef struct Verb {
    const char *name;
    unsigned mask;
    int (*func)(const SnapCmdOptions *options);
    const char *help;
} Verb;

static const Verb verbs[] = {
    { "save", VERB_SAVE, snap_cmd_save,
      "write the migration stream from stdin to an image" },
    { "load", VERB_LOAD, snap_cmd_load,
      "send an image as a migration stream to stdout" },
    { "info", VERB_INFO, snap_cmd_info, "describe a snapshot" },
    { "check", VERB_CHECK, snap_cmd_check,
      "compare everything in a snapshot with its checksums" },
};

static const struct option long_options[] = {
    { "help", no_argument, NULL, 'h' },
    { "version", no_argument, NULL, 'V' },
    { "trace", required_argument, NULL, 'T' },
    { "image-size", required_argument, NULL, 's' },
    { "cache", required_argument, NULL, 't' },
    { "aio", required_argument, NULL, OPTION_AIO },
    { "format", required_argument, NULL, 'f' },
    { "target-format", required_argument, NULL, 'O' },
    { "target-is-existing", no_argument, NULL, 'n' },
    { "options", required_argument, NULL, 'o' },
    { "force-share", no_argument, NULL, 'U' },
    { "quiet", no_argument, NULL, 'q' },
    { "progress", no_argument, NULL, 'p' },
    { "object", required_argument, NULL, OPTION_OBJECT },
    { "image-opts", no_argument, NULL, OPTION_IMAGE_OPTS },
    { "output", required_argument, NULL, OPTION_OUTPUT },
    { "report", required_argument, NULL, OPTION_REPORT },
    { "uri", required_argument, NULL, OPTION_URI },
    { "target-page-size", required_argument, NULL, OPTION_TARGET_PAGE_SIZE },
    { NULL, 0, NULL, 0 },
};

/* Verbs that an option is for. */
static unsigned option_verbs(int option)
{
    switch (option) {
    case 's':
    case 'O':
    case 'n':
    case 'o':
    case OPTION_TARGET_PAGE_SIZE:
        return VERB_SAVE;
    case 'f':
    case 'U':
        return VERB_READ;
    case 'p':
    case OPTION_REPORT:
    case OPTION_URI:
        return VERB_SAVE | VERB_LOAD;
    case OPTION_OUTPUT:
        return VERB_INFO | VERB_CHECK;
    default:
        return VERB_ANY;
    }
}

static void help(void)
{
    printf("qemu-snap version " QEMU_FULL_VERSION "\n"
           "Snapshots of virtual machines, made of migration streams\n\n"
           "usage: qemu-snap [options] VERB FILE\n\nVerbs:\n");
    for (unsigned i = 0; i < ARRAY_SIZE(verbs); i++) {
        printf("  %-6s %s\n", verbs[i].name, verbs[i].help);
    }
    printf("\nOptions:\n"
"  -t, --cache=MODE          cache mode, as qemu-img -t (default: writeback)\n"
"  --aio=MODE                threads (default), native or io_uring\n"
"  --image-opts              FILE is a list of image options\n"
"  --object OBJDEF           QEMU user-creatable object (e.g. a secret)\n"
"  -T, --trace TRACE         tracing options\n"
"  -q, --quiet               print errors only\n"
"  -h, --help / -V, --version\n"
"save, load:\n"
"  --uri=unix:PATH|fd:N      channel to QEMU instead of stdin and stdout\n"
"  --report=FILE             write how it ended to FILE, as JSON\n"
"  -p, --progress            show progress on stderr\n"
"save:\n"
"  -s, --image-size=SIZE     refuse a guest with more RAM than this\n"
"  -O FMT, -o OPTIONS        format of the image (default: qcow2), and options\n"
"                            of its creation\n"
"  -n                        write into an image that exists\n"
"  --target-page-size=SIZE   for streams that do not tell it (default: 4k)\n"
"load, info, check:\n"
"  -f FMT                    format of the image (default: probed)\n"
"  -U, --force-share         open the image also while others write to it\n"
"info, check:\n"
"  --output=human|json       (default: human)\n"
"\n" QEMU_HELP_BOTTOM "\n");
}

static uint64_t parse_size(const char *name, const char *arg)
{
    uint64_t value;

    if (qemu_strtosz(arg, NULL, &value) < 0 || value == 0) {
        error_report("Invalid %s '%s'", name, arg);
        exit(EXIT_FAILURE);
    }
    return value;
}

static unsigned parse_page_bits(const char *arg)
{
    uint64_t size = parse_size("target page size", arg);

    if (!is_power_of_2(size) || size < (1 << SNAP_MIN_PAGE_BITS) ||
        size > (1 << SNAP_MAX_PAGE_BITS)) {
        error_report("Invalid target page size '%s'", arg);
        exit(EXIT_FAILURE);
    }
    return ctz64(size);
}

static bool parse_output(const char *arg)
{
    if (strcmp(arg, "json") && strcmp(arg, "human")) {
        error_report("--output must be used with human or json as argument");
        exit(EXIT_FAILURE);
    }
    return !strcmp(arg, "json");
}

static void accumulate_options(SnapCmdOptions *options, const char *arg)
{
    char *before = options->create_options;

    options->create_options = before ? g_strdup_printf("%s,%s", before, arg) :
                                       g_strdup(arg);
    g_free(before);
}

static void parse_option(SnapCmdOptions *options, int option)
{
    switch (option) {
    case 'h':
        help();
        exit(EXIT_SUCCESS);
    case 'V':
        printf("qemu-snap version " QEMU_FULL_VERSION "\n");
        exit(EXIT_SUCCESS);
    case 'T':
        trace_opt_parse(optarg);
        break;
    case 's':
        options->image_size = parse_size("image size", optarg);
        break;
    case 't':
        options->cache = optarg;
        break;
    case OPTION_AIO:
        options->aio = optarg;
        break;
    case 'f':
        options->format = optarg;
        break;
    case 'O':
        options->create_format = optarg;
        break;
    case 'n':
        options->existing = true;
        break;
    case 'o':
        accumulate_options(options, optarg);
        break;
    case 'U':
        options->force_share = true;
        break;
    case 'q':
        options->quiet = true;
        break;
    case 'p':
        options->progress = true;
        break;
    case OPTION_OBJECT:
        user_creatable_process_cmdline(optarg);
        break;
    case OPTION_IMAGE_OPTS:
        options->image_opts = true;
        break;
    case OPTION_OUTPUT:
        options->json = parse_output(optarg);
        break;
    case OPTION_REPORT:
        options->report = optarg;
        break;
    case OPTION_URI:
        options->uri = optarg;
        break;
    case OPTION_TARGET_PAGE_SIZE:
        options->page_bits = parse_page_bits(optarg);
        break;
    default:
        error_printf("Try 'qemu-snap --help' for more information\n");
        exit(EXIT_FAILURE);
    }
}

static const Verb *find_verb(const char *name)
{
    for (unsigned i = 0; i < ARRAY_SIZE(verbs); i++) {
        if (!strcmp(verbs[i].name, name)) {
            return &verbs[i];
        }
    }
    return NULL;
}

/* Options may stand before and behind the verb, so it is known at the end. */
static const Verb *parse_command_line(int argc, char **argv,
                                      SnapCmdOptions *options)
{
    unsigned allowed = VERB_ANY;
    const Verb *verb;
    int option;

    while ((option = getopt_long(argc, argv, "hVT:s:t:f:O:no:Uqp",
                                 long_options, NULL)) != -1) {
        allowed &= option_verbs(option);
        parse_option(options, option);
    }
    if (argc - optind != 2) {
        error_report(argc == optind ? "A verb is missing" :
                     "Expecting a verb and one image");
        parse_option(options, '?');
    }
    verb = find_verb(argv[optind]);
    if (!verb) {
        error_report("Unknown verb '%s'", argv[optind]);
        parse_option(options, '?');
    }
    if (!(verb->mask & allowed)) {
        error_report("An option was given that is not for '%s'", verb->name);
        parse_option(options, '?');
    }
    options->filename = argv[optind + 1];
    return verb;
}

int main(int argc, char **argv)
{
    SnapCmdOptions options = {
        .cache = "writeback",
        .create_format = "qcow2",
        .page_bits = DEFAULT_PAGE_BITS,
    };
    const Verb *verb;

    /* A reader that went away is an error of write(2). */
    signal(SIGPIPE, SIG_IGN);

    error_init(argv[0]);
    module_call_init(MODULE_INIT_TRACE);
    qemu_init_exec_dir(argv[0]);
    qemu_init_main_loop(&error_fatal);
    qcrypto_init(&error_fatal);
    module_call_init(MODULE_INIT_QOM);
    bdrv_init();
    qemu_add_opts(&qemu_trace_opts);

    verb = parse_command_line(argc, argv, &options);
    if (!trace_init_backends()) {
        return EXIT_FAILURE;
    }
    trace_init_file();
    qemu_set_log(LOG_TRACE, &error_fatal);

    return verb->func(&options);
}
