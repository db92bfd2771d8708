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
#include "qemu/ctype.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/log.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qemu/config-file.h"
#include "qom/object_interfaces.h"
#include "snap/ram/layout.h"
#include "snap/postcopy/load-record.h"
#include "snap/stream/multifd.h"
#include "snap/verb/load.h"
#include "trace/control.h"
#include "cmd.h"

#include <getopt.h>

/* What most targets have, and no stream of theirs says. */
#define DEFAULT_PAGE_BITS 12

/* Measured: see docs/devel/qemu-snap.rst, "What the choices are worth" */
#define DEFAULT_AROUND          16
#define DEFAULT_BACKLOG         (64 * KiB)
#define MAX_BACKLOG             (64 * MiB)
#define DEFAULT_RECORD_SECONDS  3
#define MAX_RECORD_SECONDS      86400

enum {
    VERB_SAVE  = 1 << 0,
    VERB_LOAD  = 1 << 1,
    VERB_INFO  = 1 << 2,
    VERB_CHECK = 1 << 3,
    VERB_EMBED = 1 << 4,
    VERB_READ  = VERB_LOAD | VERB_INFO | VERB_CHECK,
    VERB_LIVE  = VERB_SAVE | VERB_LOAD,
    VERB_ANY   = VERB_SAVE | VERB_READ | VERB_EMBED,
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
    OPTION_POSTCOPY,
    OPTION_PREEMPT,
    OPTION_RESUME,
    OPTION_PUSH,
    OPTION_FAULT_AROUND,
    OPTION_BACKLOG,
    OPTION_RECORD,
    OPTION_WORKING_SET,
    OPTION_HOST_PAGE_SIZE,
    OPTION_MULTIFD_CHANNELS,
    OPTION_UUID,
    OPTION_BACKING_CHAIN,
    OPTION_NO_VERIFY,
    OPTION_REPAIR,
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
    { "embed", VERB_EMBED, snap_cmd_embed,
      "put a recorded working set into a snapshot" },
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
    { "postcopy", optional_argument, NULL, OPTION_POSTCOPY },
    { "preempt", no_argument, NULL, OPTION_PREEMPT },
    { "resume", optional_argument, NULL, OPTION_RESUME },
    { "push", required_argument, NULL, OPTION_PUSH },
    { "fault-around", required_argument, NULL, OPTION_FAULT_AROUND },
    { "rate-limit", required_argument, NULL, 'r' },
    { "backlog", required_argument, NULL, OPTION_BACKLOG },
    { "record", optional_argument, NULL, OPTION_RECORD },
    { "working-set", required_argument, NULL, OPTION_WORKING_SET },
    { "host-page-size", required_argument, NULL, OPTION_HOST_PAGE_SIZE },
    { "multifd-channels", required_argument, NULL, OPTION_MULTIFD_CHANNELS },
    { "uuid", required_argument, NULL, OPTION_UUID },
    { "backing-chain", no_argument, NULL, OPTION_BACKING_CHAIN },
    { "no-verify", no_argument, NULL, OPTION_NO_VERIFY },
    { "repair", no_argument, NULL, OPTION_REPAIR },
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
    case OPTION_BACKING_CHAIN:
        return VERB_READ | VERB_EMBED;
    case 'U':
        return VERB_READ;
    case OPTION_POSTCOPY:
    case OPTION_PREEMPT:
    case OPTION_RESUME:
    case OPTION_PUSH:
    case OPTION_FAULT_AROUND:
    case 'r':
    case OPTION_BACKLOG:
    case OPTION_RECORD:
    case OPTION_HOST_PAGE_SIZE:
    case OPTION_MULTIFD_CHANNELS:
    case OPTION_UUID:
    case OPTION_NO_VERIFY:
        return VERB_LOAD;
    case OPTION_REPAIR:
        return VERB_CHECK;
    case OPTION_WORKING_SET:
        return VERB_LOAD | VERB_EMBED;
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

/* Whether an option is for loads by postcopy only. */
static bool is_for_postcopy(int option)
{
    switch (option) {
    case OPTION_PREEMPT:
    case OPTION_PUSH:
    case OPTION_FAULT_AROUND:
    case 'r':
    case OPTION_BACKLOG:
    case OPTION_RECORD:
    case OPTION_HOST_PAGE_SIZE:
        return true;
    default:
        return false;
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
"  -t, --cache=MODE          cache mode, as qemu-img -t (default: what fits)\n"
"  --aio=MODE                threads, native, or io_uring (default: what fits)\n"
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
"load:\n"
"  --postcopy[=PERCENT]      let the guest run first, or when PERCENT of its\n"
"                            data are loaded\n"
"  --resume[=UUID]           go on with a load by postcopy that broke, and was\n"
"                            of snapshot UUID\n"
"  --preempt                 send what the guest waits for on a second channel\n"
"  --push=POLICY[,...]       what to send unasked: working-set, arrivals,\n"
"                            around, linear (default: all of them), or none\n"
"  --fault-around=PAGES      pages that are around a request (default: 16)\n"
"  -r, --rate-limit=RATE     bytes a second that nobody has asked for\n"
"  --backlog=SIZE            what may wait in the channel while the guest waits\n"
"                            for pages (default: 64k)\n"
"  --record[=SECONDS]        record the working set, at first without anything\n"
"                            unasked (default: for 3 seconds)\n"
"  --host-page-size=[BLOCK=]SIZE\n"
"                            huge pages of the destination\n"
"  --multifd-channels=N      further channels to the destination's socket\n"
"  --uuid=UUID               of the virtual machine, for multifd\n"
"  --no-verify               do not compare pages with their hashes\n"
"load, embed:\n"
"  --working-set=FILE        the working set (default: beside the image)\n"
"load, info, check, embed:\n"
"  -f FMT                    format of the image (default: probed)\n"
"  --backing-chain           follow the image's backing file and data file\n"
"load, info, check:\n"
"  -U, --force-share         open the image also while others write to it\n"
"info, check:\n"
"  --output=human|json       (default: human)\n"
"check:\n"
"  --repair                  mend what can be mended without loss\n"
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

/* A number from @min to @max, and nothing else. */
static unsigned parse_number(const char *name, const char *arg, unsigned min,
                             unsigned max)
{
    unsigned value;

    if (!qemu_isdigit(arg[0]) || qemu_strtoui(arg, NULL, 10, &value) < 0 ||
        value < min || value > max) {
        error_report("Invalid %s '%s': a number from %u to %u is expected",
                     name, arg, min, max);
        exit(EXIT_FAILURE);
    }
    return value;
}

/* A bit mask of 1 << SnapPushReason */
static unsigned parse_push(const char *arg)
{
    static const struct {
        const char *name;
        SnapPushReason reason;
    } policies[] = {
        { "working-set", SNAP_PUSH_WORKING_SET },
        { "arrivals", SNAP_PUSH_ARRIVALS },
        { "around", SNAP_PUSH_AROUND },
        { "linear", SNAP_PUSH_LINEAR },
    };
    g_auto(GStrv) names = g_strsplit(arg, ",", -1);
    unsigned mask = 0;

    if (!strcmp(arg, "none")) {
        return 0;
    }
    for (char **name = names; *name; name++) {
        unsigned i = 0;

        while (i < ARRAY_SIZE(policies) && strcmp(policies[i].name, *name)) {
            i++;
        }
        if (i == ARRAY_SIZE(policies)) {
            error_report("Invalid policy '%s'", *name);
            exit(EXIT_FAILURE);
        }
        mask |= 1u << policies[i].reason;
    }
    return mask;
}

static void parse_uuid(QemuUUID *uuid, const char *arg)
{
    if (qemu_uuid_parse(arg, uuid) < 0) {
        error_report("Invalid UUID '%s'", arg);
        exit(EXIT_FAILURE);
    }
}

static void parse_record(SnapPostcopyOptions *postcopy, const char *arg)
{
    unsigned seconds = arg ? parse_number("time of a record", arg, 0,
                                          MAX_RECORD_SECONDS) :
                             DEFAULT_RECORD_SECONDS;

    postcopy->record = true;
    postcopy->push.record_ns = seconds * NANOSECONDS_PER_SECOND;
}

/* Returns: whether it was one of the options of a load by postcopy */
static bool parse_postcopy_option(SnapCmdOptions *options, int option)
{
    SnapPostcopyOptions *postcopy = &options->postcopy;

    switch (option) {
    case OPTION_POSTCOPY:
        options->by_postcopy = true;
        postcopy->percent = optarg ? parse_number("percentage", optarg, 0,
                                                  100) : 0;
        break;
    case OPTION_PREEMPT:
        postcopy->preempt = true;
        break;
    case OPTION_RESUME:
        postcopy->resume = true;
        if (optarg) {
            parse_uuid(&postcopy->resumed, optarg);
        }
        break;
    case OPTION_PUSH:
        postcopy->push.reasons = parse_push(optarg);
        break;
    case OPTION_FAULT_AROUND:
        postcopy->push.around = parse_number("number of pages", optarg, 0,
                                             SNAP_DEMAND_MAX_AROUND);
        break;
    case 'r':
        postcopy->push.rate = parse_size("rate limit", optarg);
        break;
    case OPTION_BACKLOG:
        postcopy->push.backlog = MIN(parse_size("backlog", optarg),
                                     MAX_BACKLOG);
        break;
    case OPTION_RECORD:
        parse_record(postcopy, optarg);
        break;
    case OPTION_HOST_PAGE_SIZE:
        g_ptr_array_insert(options->host_pages, options->host_pages->len - 1,
                           optarg);
        break;
    default:
        return false;
    }
    return true;
}

/* '-' would be a file of that name, which nobody wants. */
static const char *parse_path(const char *option, const char *arg)
{
    if (!strcmp(arg, "-")) {
        error_report("%s takes the name of a file; one that is called '-' is "
                     "'./-'", option);
        exit(EXIT_FAILURE);
    }
    return arg;
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

static void free_object(gpointer opaque)
{
    qapi_free_ObjectOptions(opaque);
}

/* Creating it may wait for others: that is the verb's part. */
static void add_object(SnapCmdOptions *options, const char *arg)
{
    ObjectOptions *object = user_creatable_parse_str(arg, &error_fatal);

    if (!object) {
        exit(EXIT_SUCCESS); /* help was printed */
    }
    g_ptr_array_add(options->objects, object);
}

/* Returns: whether it was one of the options without an argument */
static bool parse_switch(SnapCmdOptions *options, int option)
{
    switch (option) {
    case 'n':
        options->existing = true;
        return true;
    case 'U':
        options->force_share = true;
        return true;
    case 'q':
        options->quiet = true;
        return true;
    case 'p':
        options->progress = true;
        return true;
    case OPTION_IMAGE_OPTS:
        options->image_opts = true;
        return true;
    case OPTION_BACKING_CHAIN:
        options->backing_chain = true;
        return true;
    case OPTION_NO_VERIFY:
        options->no_verify = true;
        return true;
    case OPTION_REPAIR:
        options->repair = true;
        return true;
    default:
        return false;
    }
}

static void G_NORETURN exit_with_hint(void)
{
    error_printf("Try 'qemu-snap --help' for more information\n");
    exit(EXIT_FAILURE);
}

static void parse_option(SnapCmdOptions *options, int option)
{
    if (parse_postcopy_option(options, option) ||
        parse_switch(options, option)) {
        return;
    }
    switch (option) {
    case 'h':
        help();
        exit(EXIT_SUCCESS);
    case 'V':
        printf("qemu-snap version " QEMU_FULL_VERSION "\n");
        exit(EXIT_SUCCESS);
    case 'T':
        trace_opt_parse(optarg);
        g_ptr_array_add(options->trace_args, optarg);
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
    case 'o':
        accumulate_options(options, optarg);
        break;
    case OPTION_OBJECT:
        add_object(options, optarg);
        g_ptr_array_add(options->object_args, optarg);
        break;
    case OPTION_OUTPUT:
        options->json = parse_output(optarg);
        break;
    case OPTION_REPORT:
        options->report = parse_path("--report", optarg);
        break;
    case OPTION_URI:
        options->uri = optarg;
        break;
    case OPTION_WORKING_SET:
        options->working_set = parse_path("--working-set", optarg);
        break;
    case OPTION_MULTIFD_CHANNELS:
        options->multifd.nb_channels =
            parse_number("number of channels", optarg, 1,
                         SNAP_MULTIFD_MAX_CHANNELS);
        break;
    case OPTION_UUID:
        parse_uuid(&options->multifd.uuid, optarg);
        break;
    case OPTION_TARGET_PAGE_SIZE:
        options->page_bits = parse_page_bits(optarg);
        break;
    default:
        exit_with_hint();
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

/**
 * Given: the options of the command line
 * @options: their values, in the order in which they were given
 * @stray: may be meant for the option before it, which takes an argument only
 *         with '='; NULL if there is none
 * @stray_option: that option
 */
typedef struct Given {
    GArray *options;
    const char *stray;
    int stray_option;
} Given;

/* The option as the user may have written it; newly allocated */
static char *option_name(int option)
{
    const struct option *o = long_options;

    while (o->val != option) {
        o++;
    }
    if (option < OPTION_AIO) {
        return g_strdup_printf("-%c (--%s)", option, o->name);
    }
    return g_strdup_printf("--%s", o->name);
}

/* What an optional argument is; NULL if @option has none */
static const char *optional_argument_name(int option)
{
    switch (option) {
    case OPTION_POSTCOPY:
        return "percentage";
    case OPTION_RECORD:
        return "number of seconds";
    case OPTION_RESUME:
        return "UUID";
    default:
        return NULL;
    }
}

/* Whether it is a number or a UUID, which neither verbs nor images are. */
static bool looks_like_value(const char *arg)
{
    QemuUUID uuid;

    return (arg[0] && !arg[strspn(arg, "0123456789")]) ||
           qemu_uuid_parse(arg, &uuid) == 0;
}

/* Keep in mind which option it was; getopt_long() has just returned it. */
static void note_option(Given *given, int option, const char *next)
{
    g_array_append_val(given->options, option);
    if (!optarg && optional_argument_name(option) && next &&
        looks_like_value(next)) {
        given->stray = next;
        given->stray_option = option;
    }
}

/* Refuse options that are not for @verb, by name. */
static void check_verb_options(const Given *given, const Verb *verb)
{
    for (unsigned i = 0; i < given->options->len; i++) {
        int option = g_array_index(given->options, int, i);

        if (!(option_verbs(option) & verb->mask)) {
            g_autofree char *name = option_name(option);

            error_report("%s cannot be used with '%s'", name, verb->name);
            exit_with_hint();
        }
    }
}

static void check_postcopy_options(const Given *given)
{
    for (unsigned i = 0; i < given->options->len; i++) {
        int option = g_array_index(given->options, int, i);

        if (is_for_postcopy(option)) {
            g_autofree char *name = option_name(option);

            error_report("%s needs --postcopy or --resume", name);
            exit_with_hint();
        }
    }
}

static SnapCmdImageUse verb_use(const Verb *verb)
{
    return verb->mask == VERB_SAVE ? SNAP_CMD_SAVES :
           verb->mask == VERB_EMBED ? SNAP_CMD_EMBEDS : SNAP_CMD_READS;
}

/* What the options of a load by postcopy have to do with each other. */
static void settle_postcopy(SnapCmdOptions *options, const Given *given)
{
    SnapPostcopyOptions *postcopy = &options->postcopy;

    if (postcopy->resume && postcopy->percent) {
        error_report("--postcopy=%u cannot be used with --resume: the guest "
                     "runs already, so nothing can be loaded before it runs",
                     postcopy->percent);
        exit(EXIT_FAILURE);
    }
    options->by_postcopy |= postcopy->resume;
    if (!options->by_postcopy) {
        check_postcopy_options(given);
    }
    if (options->by_postcopy && options->multifd.nb_channels) {
        error_report("--multifd-channels cannot be used with --postcopy or "
                     "--resume: QEMU takes one of them only");
        exit(EXIT_FAILURE);
    }
    if (!(postcopy->push.reasons & (1u << SNAP_PUSH_AROUND))) {
        postcopy->push.around = 0;
    }
}

/* What somebody records has to go somewhere. */
static void check_record(const SnapCmdOptions *options)
{
    g_autofree char *path = snap_cmd_working_set(options);

    if (options->postcopy.record && !path) {
        error_report("--record needs --working-set=FILE with '%s', which is no "
                     "local file", options->filename);
        exit(EXIT_FAILURE);
    }
}

/* Say what is wrong with arguments that are not a verb and one image. */
static void G_NORETURN refuse_arguments(const Given *given, int argc,
                                        char **argv)
{
    if (given->stray) {
        g_autofree char *name = option_name(given->stray_option);

        error_report("%s takes its %s after '=': %s=%s", name,
                     optional_argument_name(given->stray_option), name,
                     given->stray);
    } else if (argc == 0) {
        error_report("Missing verb");
    } else if (!find_verb(argv[0])) {
        error_report("Unknown verb '%s'", argv[0]);
    } else if (argc == 1) {
        error_report("'%s' needs the name of an image", argv[0]);
    } else {
        error_report("Unexpected argument '%s': expecting a verb and one image",
                     argv[2]);
    }
    exit_with_hint();
}

/**
 * CommandLine: for what is to be done if it is wrong
 * @understood: from now on, verbs see to failures
 */
typedef struct CommandLine {
    char **argv;
    bool understood;
} CommandLine;

/* Whether it seems to be a load, to a destination that waits for its stdout. */
static bool is_awaited_load(char **argv)
{
    const Verb *verb = NULL;
    struct stat st;

    if (fstat(STDOUT_FILENO, &st) < 0 ||
        !(S_ISFIFO(st.st_mode) || S_ISSOCK(st.st_mode))) {
        return false;
    }
    for (char **arg = argv + 1; *arg; arg++) {
        /* Another channel, or a resumption, which the byte would end. */
        if (g_str_has_prefix(*arg, "--u") || g_str_has_prefix(*arg, "--res")) {
            return false;
        }
        verb = verb ?: find_verb(*arg);
    }
    return verb && verb->mask == VERB_LOAD;
}

/*
 * QEMU waits indefinitely if a command ends without a byte.  Whatever parses
 * an option may exit.
 */
static void on_usage_error(int status, void *opaque)
{
    g_autofree CommandLine *line = opaque;

    if (status && !line->understood && is_awaited_load(line->argv) &&
        !snap_load_refuse_fd(STDOUT_FILENO)) {
        error_report("Could not write to stdout: %s", strerror(errno));
    }
}

/* Options may stand before and after the verb, so it is known at the end. */
static const Verb *parse_command_line(int argc, char **argv,
                                      SnapCmdOptions *options)
{
    g_autoptr(GArray) array = g_array_new(false, false, sizeof(int));
    Given given = { .options = array };
    const Verb *verb;
    int option;

    while ((option = getopt_long(argc, argv, "hVT:s:t:f:O:no:Uqpr:",
                                 long_options, NULL)) != -1) {
        note_option(&given, option, argv[optind]);
        parse_option(options, option);
    }
    verb = argc - optind == 2 ? find_verb(argv[optind]) : NULL;
    if (!verb) {
        refuse_arguments(&given, argc - optind, argv + optind);
    }
    check_verb_options(&given, verb);
    settle_postcopy(options, &given);
    options->filename = argv[optind + 1];
    options->image = options->image_opts ? g_strdup(options->filename) :
                     snap_blockdev_file_name(options->filename);
    options->verb = verb->name;
    check_record(options);
    return verb;
}

static void end_interrupted(void *opaque)
{
    snap_cmd_end_interrupted(opaque);
}

static bool start_trace(const SnapCmdOptions *options)
{
    bool done;

    /* It may go to a FIFO. */
    snap_interrupt_begin_blocking(options->interrupt);
    done = trace_init_backends();
    if (done) {
        trace_init_file();
        qemu_set_log(LOG_TRACE, &error_fatal);
    }
    snap_interrupt_end_blocking(options->interrupt);
    return done;
}

int main(int argc, char **argv)
{
    SnapCmdOptions options = {
        .create_format = "qcow2",
        .page_bits = DEFAULT_PAGE_BITS,
        .postcopy.load_records = SNAP_LOAD_RECORDS,
        .postcopy.push = {
            .reasons = 1u << SNAP_PUSH_WORKING_SET | 1u << SNAP_PUSH_ARRIVALS |
                       1u << SNAP_PUSH_AROUND | 1u << SNAP_PUSH_LINEAR,
            .around = DEFAULT_AROUND,
            .backlog = DEFAULT_BACKLOG,
        },
        .host_pages = g_ptr_array_new(),
        .objects = g_ptr_array_new_with_free_func(free_object),
        .object_args = g_ptr_array_new(),
        .trace_args = g_ptr_array_new(),
        .start_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME),
    };
    CommandLine *line = g_new0(CommandLine, 1);
    Error *err = NULL;
    const Verb *verb;
    int status;

    g_ptr_array_add(options.host_pages, NULL);
    /* A reader that went away is an error of write(2). */
    (void)signal(SIGPIPE, SIG_IGN);

    error_init(argv[0]);
    module_call_init(MODULE_INIT_TRACE);
    qemu_init_exec_dir(argv[0]);
    qemu_init_main_loop(&error_fatal);
    qcrypto_init(&error_fatal);
    module_call_init(MODULE_INIT_QOM);
    bdrv_init();
    qemu_add_opts(&qemu_trace_opts);

    line->argv = argv;
    on_exit(on_usage_error, line);
    verb = parse_command_line(argc, argv, &options);
    if (!snap_cmd_check_files(&options, verb_use(verb), NULL, &err)) {
        snap_cmd_exit(err);
    }
    line->understood = true;
    if (verb->mask & VERB_LIVE) {
        options.interrupt = snap_interrupt_new(end_interrupted, &options);
    }
    if (!start_trace(&options)) {
        return EXIT_FAILURE;
    }
    if (!(verb->mask & VERB_LIVE)) {
        snap_cmd_prepare(&options, &error_fatal);
    }

    status = verb->func(&options);
    g_ptr_array_unref(options.objects);
    g_ptr_array_unref(options.host_pages);
    g_ptr_array_unref(options.object_args);
    g_ptr_array_unref(options.trace_args);
    g_free(options.create_options);
    g_free(options.image);
    return status;
}
