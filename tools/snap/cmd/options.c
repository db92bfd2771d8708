/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command line: verbs and options
 *
 * An option is one entry of option_table, from which everything else is made:
 * getopt_long()'s tables, help, and what is refused.
 */

#include "qemu/osdep.h"
#include <getopt.h>
#include "qemu/help-texts.h"
#include "qapi/error.h"
#include "qemu/ctype.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qom/object_interfaces.h"
#include "trace/control.h"
#include "qemu-version.h"
#include "snap/postcopy/load-record.h"
#include "snap/postcopy/postcopy.h"
#include "snap/ram/blocks.h"
#include "snap/stream/multifd.h"
#include "snap/transfer/multifd-sender.h"
#include "options.h"

/* Most targets have such pages, and their streams do not say so. */
#define DEFAULT_PAGE_BITS 12

/* Measured: see docs/devel/qemu-snap/performance.rst */
#define DEFAULT_AROUND          16
#define DEFAULT_BACKLOG         (64 * KiB)
#define MAX_BACKLOG             (64 * MiB)
#define DEFAULT_RECORD_SECONDS  3
#define MAX_RECORD_SECONDS      86400

/* Width of the column of options in help */
#define HELP_COLUMN             28

enum {
    VERB_SAVE  = 1 << 0,
    VERB_LOAD  = 1 << 1,
    VERB_INFO  = 1 << 2,
    VERB_CHECK = 1 << 3,
    VERB_EMBED = 1 << 4,
    VERB_READ  = VERB_LOAD | VERB_INFO | VERB_CHECK,
    VERB_ANY   = VERB_SAVE | VERB_READ | VERB_EMBED,
};

static const SnapCmdVerb verb_table[] = {
    { "save", VERB_SAVE, SNAP_CMD_SAVES, true, snap_cmd_save,
      "save the migration stream from stdin to an image" },
    { "load", VERB_LOAD, SNAP_CMD_READS, true, snap_cmd_load,
      "send a snapshot to stdout as a migration stream" },
    { "info", VERB_INFO, SNAP_CMD_READS, false, snap_cmd_info,
      "describe a snapshot" },
    { "check", VERB_CHECK, SNAP_CMD_READS, false, snap_cmd_check,
      "verify a snapshot with its checksums" },
    { "embed", VERB_EMBED, SNAP_CMD_EMBEDS, false, snap_cmd_embed,
      "embed a recorded working set in a snapshot" },
};

/**
 * Option: an option of the command line
 * @letter: its short form, 0 if there is none
 * @name: its long form
 * @arg: name of its argument, NULL if it takes none
 * @verbs: mask of the verbs that have it
 * @optional: what the argument is, if it can be left out
 * @for_postcopy: whether it needs --postcopy or --resume
 * @parse: set it, or exit if the argument is invalid
 * @field: offset of what @parse sets, if several options share the function
 * @help: what it does, in lines
 */
typedef struct Option Option;
struct Option {
    char letter;
    const char *name;
    const char *arg;
    unsigned verbs;
    const char *optional;
    bool for_postcopy;
    void (*parse)(SnapCmdOptions *options, const Option *option,
                  const char *arg);
    size_t field;
    const char *help;
};

#define FIELD(type, member) \
    (offsetof(SnapCmdOptions, member) + \
     type_check(type, typeof_field(SnapCmdOptions, member)))
#define FLAG(member) FIELD(bool, member)
#define STRING(member) FIELD(const char *, member)

const SnapCmdVerb *snap_cmd_find_verb(const char *name)
{
    for (unsigned i = 0; i < ARRAY_SIZE(verb_table); i++) {
        if (!strcmp(verb_table[i].name, name)) {
            return &verb_table[i];
        }
    }
    return NULL;
}

static void G_NORETURN exit_with_hint(void)
{
    error_printf("Try 'qemu-snap --help' for more information\n");
    exit(EXIT_FAILURE);
}

/*
 * Values
 */

static void G_NORETURN exit_invalid(const Option *option, const char *arg,
                                    const char *expected)
{
    error_report("Invalid --%s '%s': expected %s", option->name, arg, expected);
    exit(EXIT_FAILURE);
}

static void G_NORETURN exit_not_a_number(const Option *option, const char *arg,
                                         unsigned min, unsigned max)
{
    error_report("Invalid --%s '%s': expected a number from %u to %u",
                 option->name, arg, min, max);
    exit(EXIT_FAILURE);
}

static uint64_t parse_size(const Option *option, const char *arg)
{
    uint64_t value;

    if (qemu_strtosz(arg, NULL, &value) < 0 || value == 0) {
        exit_invalid(option, arg, "a size, such as 64M");
    }
    return value;
}

/* Only digits make a number, not a sign or a suffix. */
static unsigned parse_number(const Option *option, const char *arg,
                             unsigned min, unsigned max)
{
    unsigned value;

    if (!qemu_isdigit(arg[0]) || qemu_strtoui(arg, NULL, 10, &value) < 0 ||
        value < min || value > max) {
        exit_not_a_number(option, arg, min, max);
    }
    return value;
}

static void parse_uuid(const Option *option, const char *arg, QemuUUID *uuid)
{
    if (qemu_uuid_parse(arg, uuid) < 0) {
        exit_invalid(option, arg, "a UUID");
    }
}

/* Returns: mask of 1 << SnapPushReason, 0 if @name is none of them */
static unsigned push_reason(const char *name)
{
    static const struct {
        const char *name;
        SnapPushReason reason;
    } policies[] = {
        { "working-set", SNAP_PUSH_WORKING_SET },
        { "arrivals", SNAP_PUSH_ARRIVALS },
        { "around", SNAP_PUSH_FAULT_AROUND },
        { "linear", SNAP_PUSH_LINEAR },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(policies); i++) {
        if (!strcmp(policies[i].name, name)) {
            return 1u << policies[i].reason;
        }
    }
    return 0;
}

/* Returns: mask of 1 << SnapPushReason, 0 if @arg is no list of them */
static unsigned push_reasons(const char *arg)
{
    g_auto(GStrv) names = g_strsplit(arg, ",", -1);
    unsigned mask = 0;

    for (char **name = names; *name; name++) {
        unsigned reason = push_reason(*name);

        if (!reason) {
            return 0;
        }
        mask |= reason;
    }
    return mask;
}

/* Returns: mask of 1 << SnapPushReason */
static unsigned parse_push(const Option *option, const char *arg)
{
    unsigned mask = push_reasons(arg);

    if (!mask && strcmp(arg, "none")) {
        exit_invalid(option, arg,
                     "working-set, arrivals, around, linear, or none");
    }
    return mask;
}

/*
 * Options
 */

static void opt_flag(SnapCmdOptions *options, const Option *option,
                     const char *arg)
{
    *(bool *)((char *)options + option->field) = true;
}

static void opt_string(SnapCmdOptions *options, const Option *option,
                       const char *arg)
{
    *(const char **)((char *)options + option->field) = arg;
}

/* Elsewhere, '-' is stdout: do not create a file of that name by mistake. */
static void opt_path(SnapCmdOptions *options, const Option *option,
                     const char *arg)
{
    if (!strcmp(arg, "-")) {
        exit_invalid(option, arg, "a file name, which may be './-'");
    }
    opt_string(options, option, arg);
}

/* Only parse it: to create it may block, and is the verb's task. */
static void opt_object(SnapCmdOptions *options, const Option *option,
                       const char *arg)
{
    ObjectOptions *object = user_creatable_parse_str(arg, &error_fatal);

    if (!object) {
        exit(EXIT_SUCCESS); /* help was printed */
    }
    g_ptr_array_add(options->objects, object);
    g_ptr_array_add(options->object_args, (gpointer)arg);
}

static void opt_trace(SnapCmdOptions *options, const Option *option,
                      const char *arg)
{
    trace_opt_parse(arg);
    g_ptr_array_add(options->trace_args, (gpointer)arg);
}

static void opt_version(SnapCmdOptions *options, const Option *option,
                        const char *arg)
{
    printf("qemu-snap version " QEMU_FULL_VERSION "\n");
    exit(EXIT_SUCCESS);
}

static void opt_image_size(SnapCmdOptions *options, const Option *option,
                           const char *arg)
{
    options->image_size = parse_size(option, arg);
}

static void opt_create_options(SnapCmdOptions *options, const Option *option,
                               const char *arg)
{
    char *before = options->create_options;

    options->create_options = before ? g_strdup_printf("%s,%s", before, arg) :
                                       g_strdup(arg);
    g_free(before);
}

static void opt_target_page_size(SnapCmdOptions *options, const Option *option,
                                 const char *arg)
{
    uint64_t size = parse_size(option, arg);

    if (!is_power_of_2(size) || size < (1 << SNAP_MIN_PAGE_BITS) ||
        size > (1 << SNAP_MAX_PAGE_BITS)) {
        exit_invalid(option, arg, "a power of two from 1k to 64k");
    }
    options->page_bits = ctz64(size);
}

static void opt_postcopy(SnapCmdOptions *options, const Option *option,
                         const char *arg)
{
    options->by_postcopy = true;
    options->postcopy->percent = arg ? parse_number(option, arg, 0, 100) : 0;
}

static void opt_resume(SnapCmdOptions *options, const Option *option,
                       const char *arg)
{
    options->postcopy->resume = true;
    if (arg) {
        parse_uuid(option, arg, &options->postcopy->resumed);
    }
}

static void opt_preempt(SnapCmdOptions *options, const Option *option,
                        const char *arg)
{
    options->postcopy->preempt = true;
}

static void opt_push(SnapCmdOptions *options, const Option *option,
                     const char *arg)
{
    options->postcopy->push.reasons = parse_push(option, arg);
}

static void opt_fault_around(SnapCmdOptions *options, const Option *option,
                             const char *arg)
{
    options->postcopy->push.fault_around =
        parse_number(option, arg, 0, SNAP_DEMAND_MAX_FAULT_AROUND);
}

static void opt_rate_limit(SnapCmdOptions *options, const Option *option,
                           const char *arg)
{
    options->postcopy->push.rate = parse_size(option, arg);
}

static void opt_backlog(SnapCmdOptions *options, const Option *option,
                        const char *arg)
{
    options->postcopy->push.backlog = MIN(parse_size(option, arg), MAX_BACKLOG);
}

static void opt_record(SnapCmdOptions *options, const Option *option,
                       const char *arg)
{
    unsigned seconds = arg ? parse_number(option, arg, 0, MAX_RECORD_SECONDS) :
                             DEFAULT_RECORD_SECONDS;

    options->postcopy->record = true;
    options->postcopy->push.record_ns = seconds * NANOSECONDS_PER_SECOND;
}

static void opt_host_page_size(SnapCmdOptions *options, const Option *option,
                               const char *arg)
{
    /* NULL stays the last one. */
    g_ptr_array_insert(options->host_pages, options->host_pages->len - 1,
                       (gpointer)arg);
}

static void opt_multifd_channels(SnapCmdOptions *options, const Option *option,
                                 const char *arg)
{
    options->multifd->nb_channels = parse_number(option, arg, 1,
                                                SNAP_MULTIFD_MAX_CHANNELS);
}

static void opt_uuid(SnapCmdOptions *options, const Option *option,
                     const char *arg)
{
    parse_uuid(option, arg, &options->multifd->uuid);
}

static void opt_output(SnapCmdOptions *options, const Option *option,
                       const char *arg)
{
    if (strcmp(arg, "json") && strcmp(arg, "human")) {
        exit_invalid(option, arg, "human or json");
    }
    options->json = !strcmp(arg, "json");
}

/* In the order of help, which has a heading for each set of verbs */
static const Option option_table[] = {
    { 't', "cache", "MODE", VERB_ANY,
      .parse = opt_string, .field = STRING(cache),
      .help = "cache mode, as for qemu-img -t (default: automatic)" },
    { 0, "aio", "MODE", VERB_ANY, .parse = opt_string, .field = STRING(aio),
      .help = "threads, native, or io_uring (default: automatic)" },
    { 0, "image-opts", NULL, VERB_ANY,
      .parse = opt_flag, .field = FLAG(image_opts),
      .help = "FILE is a list of image options" },
    { 0, "object", "OBJDEF", VERB_ANY, .parse = opt_object,
      .help = "QEMU user-creatable object (e.g. a secret)" },
    { 'T', "trace", "TRACE", VERB_ANY, .parse = opt_trace,
      .help = "tracing options" },
    { 'q', "quiet", NULL, VERB_ANY, .parse = opt_flag, .field = FLAG(quiet),
      .help = "print errors only" },
    { 'h', "help", NULL, VERB_ANY, .parse = NULL, /* See take_help() */
      .help = "print this help, or that of a VERB, and exit" },
    { 'V', "version", NULL, VERB_ANY, .parse = opt_version,
      .help = "print the version and exit" },

    { 0, "uri", "unix:PATH|fd:N", VERB_SAVE | VERB_LOAD,
      .parse = opt_string, .field = STRING(uri),
      .help = "channel to QEMU instead of stdin and stdout" },
    { 0, "report", "FILE", VERB_SAVE | VERB_LOAD,
      .parse = opt_path, .field = STRING(report),
      .help = "write the outcome to FILE, as JSON" },
    { 'p', "progress", NULL, VERB_SAVE | VERB_LOAD,
      .parse = opt_flag, .field = FLAG(progress),
      .help = "show progress on stderr" },

    { 's', "image-size", "SIZE", VERB_SAVE, .parse = opt_image_size,
      .help = "refuse a guest with more RAM than this" },
    { 'O', "target-format", "FMT", VERB_SAVE,
      .parse = opt_string, .field = STRING(create_format),
      .help = "format of the image (default: qcow2)" },
    { 'o', "options", "OPTIONS", VERB_SAVE, .parse = opt_create_options,
      .help = "options to create the image with" },
    { 'n', "target-is-existing", NULL, VERB_SAVE,
      .parse = opt_flag, .field = FLAG(existing),
      .help = "write to an existing image" },
    { 0, "target-page-size", "SIZE", VERB_SAVE, .parse = opt_target_page_size,
      .help = "page size, if the stream has none (default: 4k)" },

    { 0, "postcopy", "PERCENT", VERB_LOAD, .optional = "percentage",
      .parse = opt_postcopy,
      .help = "start the guest first, or once PERCENT of its data\n"
              "is loaded" },
    { 0, "resume", "UUID", VERB_LOAD, .optional = "UUID", .parse = opt_resume,
      .help = "resume an interrupted load by postcopy, which was\n"
              "of snapshot UUID" },
    { 0, "preempt", NULL, VERB_LOAD, .for_postcopy = true,
      .parse = opt_preempt,
      .help = "send requested pages on a channel of their own" },
    { 0, "push", "POLICY[,...]", VERB_LOAD, .for_postcopy = true,
      .parse = opt_push,
      .help = "pages to send unrequested: working-set, arrivals,\n"
              "around, linear (default: all of them), or none" },
    { 0, "fault-around", "PAGES", VERB_LOAD, .for_postcopy = true,
      .parse = opt_fault_around,
      .help = "pages to send after a requested one (default: 16)" },
    { 'r', "rate-limit", "RATE", VERB_LOAD, .for_postcopy = true,
      .parse = opt_rate_limit,
      .help = "limit on unrequested pages, in bytes per second" },
    { 0, "backlog", "SIZE", VERB_LOAD, .for_postcopy = true,
      .parse = opt_backlog,
      .help = "limit on data in the channel while requests are\n"
              "pending (default: 64k)" },
    { 0, "record", "SECONDS", VERB_LOAD, .optional = "number of seconds",
      .for_postcopy = true, .parse = opt_record,
      .help = "record the working set, sending only requested\n"
              "pages for the first SECONDS (default: 3)" },
    { 0, "host-page-size", "[BLOCK=]SIZE", VERB_LOAD, .for_postcopy = true,
      .parse = opt_host_page_size,
      .help = "size of the destination's huge pages" },
    { 0, "multifd-channels", "N", VERB_LOAD, .parse = opt_multifd_channels,
      .help = "channels of multifd, besides the main one" },
    { 0, "uuid", "UUID", VERB_LOAD, .parse = opt_uuid,
      .help = "UUID of the virtual machine, for multifd" },
    { 0, "no-verify", NULL, VERB_LOAD,
      .parse = opt_flag, .field = FLAG(no_verify),
      .help = "do not compare pages with their hashes" },

    { 0, "working-set", "FILE", VERB_LOAD | VERB_EMBED,
      .parse = opt_path, .field = STRING(working_set),
      .help = "file of the working set (default: beside the image)" },

    { 'f', "format", "FMT", VERB_READ | VERB_EMBED,
      .parse = opt_string, .field = STRING(format),
      .help = "format of the image (default: probed)" },
    { 0, "backing-chain", NULL, VERB_READ | VERB_EMBED,
      .parse = opt_flag, .field = FLAG(backing_chain),
      .help = "follow the image's backing file and data file" },

    { 'U', "force-share", NULL, VERB_READ,
      .parse = opt_flag, .field = FLAG(force_share),
      .help = "open the image even if others write to it" },

    { 0, "output", "human|json", VERB_INFO | VERB_CHECK, .parse = opt_output,
      .help = "format of the output (default: human)" },

    { 0, "repair", NULL, VERB_CHECK, .parse = opt_flag, .field = FLAG(repair),
      .help = "repair what can be repaired without loss" },
};

/* Returns: newly allocated name of the option, for messages */
static char *option_name(const Option *option)
{
    return option->letter ?
           g_strdup_printf("-%c (--%s)", option->letter, option->name) :
           g_strdup_printf("--%s", option->name);
}

/*
 * Help
 */

/* Returns: newly allocated left column of help */
static char *help_label(const Option *option)
{
    GString *label = g_string_new("  ");

    if (option->letter) {
        g_string_append_printf(label, "-%c, ", option->letter);
    }
    g_string_append_printf(label, "--%s", option->name);
    if (option->arg) {
        g_string_append_printf(label, option->optional ? "[=%s]" : "=%s",
                               option->arg);
    }
    return g_string_free(label, false);
}

static void help_option(const Option *option)
{
    g_autofree char *label = help_label(option);
    g_auto(GStrv) lines = g_strsplit(option->help, "\n", -1);
    const char *left = label;

    if (strlen(left) > HELP_COLUMN - 2) {
        printf("%s\n", left);
        left = "";
    }
    for (char **line = lines; *line; line++) {
        printf("%-*s%s\n", HELP_COLUMN, left, *line);
        left = "";
    }
}

static void help_heading(unsigned verbs)
{
    const char *separator = "";

    if (verbs == VERB_ANY) {
        printf("\nOptions:\n");
        return;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(verb_table); i++) {
        if (verb_table[i].mask & verbs) {
            printf("%s%s", separator, verb_table[i].name);
            separator = ", ";
        }
    }
    printf(":\n");
}

static void G_NORETURN print_help(void)
{
    unsigned verbs = 0;

    printf("qemu-snap version " QEMU_FULL_VERSION "\n"
           "Snapshots of virtual machines, from migration streams\n\n"
           "usage: qemu-snap [options] VERB FILE\n\nVerbs:\n");
    for (unsigned i = 0; i < ARRAY_SIZE(verb_table); i++) {
        printf("  %-6s %s\n", verb_table[i].name, verb_table[i].help);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(option_table); i++) {
        if (option_table[i].verbs != verbs) {
            verbs = option_table[i].verbs;
            help_heading(verbs);
        }
        help_option(&option_table[i]);
    }
    printf("\n" QEMU_HELP_BOTTOM "\n");
    exit(EXIT_SUCCESS);
}

/* Print the options of @verb that are @common and @for_postcopy. */
static void help_section(const SnapCmdVerb *verb, const char *heading,
                         bool common, bool for_postcopy)
{
    for (unsigned i = 0; i < ARRAY_SIZE(option_table); i++) {
        const Option *option = &option_table[i];

        if ((option->verbs & verb->mask) &&
            (option->verbs == VERB_ANY) == common &&
            option->for_postcopy == for_postcopy) {
            printf("%s", heading);
            heading = "";
            help_option(option);
        }
    }
}

static void G_NORETURN help_verb(const SnapCmdVerb *verb)
{
    printf("qemu-snap %s: %s\n\n"
           "usage: qemu-snap [options] %s FILE\n",
           verb->name, verb->help, verb->name);
    help_section(verb, "\nOptions:\n", false, false);
    help_section(verb, "\nWith --postcopy or --resume:\n", false, true);
    help_section(verb, "\nOptions of all verbs:\n", true, false);
    exit(EXIT_SUCCESS);
}

/*
 * Parsing
 */

/**
 * Given: the command line, as far as it was read
 * @options: array of const Option *
 * @args: array of const char *, all that are not options
 * @stray: argument that may be meant for the option before it, which takes one
 *         only after '='; NULL if there is none
 * @stray_option: that option
 */
typedef struct Given {
    GPtrArray *options;
    GPtrArray *args;
    const char *stray;
    const Option *stray_option;
} Given;

/* getopt_long() returns this plus the option's number for a long name */
#define GETOPT_NUMBER   256
/* ... and this for an argument, as the letters begin with '-' */
#define GETOPT_ARGUMENT 1

/* The tables of getopt_long() */
typedef struct GetoptTables {
    char letters[1 + 3 * ARRAY_SIZE(option_table) + 1];
    struct option names[ARRAY_SIZE(option_table) + 1];
} GetoptTables;

static int option_has_arg(const Option *option)
{
    return !option->arg ? no_argument :
           option->optional ? optional_argument : required_argument;
}

/* @tables: zeroed, as the terminators are not written */
static void getopt_tables_fill(GetoptTables *tables)
{
    char *letter = tables->letters;

    *letter++ = '-';
    for (unsigned i = 0; i < ARRAY_SIZE(option_table); i++) {
        const Option *option = &option_table[i];
        int has_arg = option_has_arg(option);

        tables->names[i] = (struct option) {
            option->name, has_arg, NULL, GETOPT_NUMBER + i
        };
        if (option->letter) {
            *letter++ = option->letter;
            /* One colon for an argument, two for one that is optional */
            memset(letter, ':', has_arg);
            letter += has_arg;
        }
    }
}

/* Returns: the option of getopt_long()'s @value, NULL if there is none */
static const Option *find_option(int value)
{
    if (value >= GETOPT_NUMBER) {
        return &option_table[value - GETOPT_NUMBER];
    }
    for (unsigned i = 0; i < ARRAY_SIZE(option_table); i++) {
        if (option_table[i].letter == value) {
            return &option_table[i];
        }
    }
    return NULL;
}

/* Whether @arg is a number or a UUID, unlike verbs and images */
static bool looks_like_value(const char *arg)
{
    QemuUUID uuid;

    return (arg[0] && !arg[strspn(arg, "0123456789")]) ||
           qemu_uuid_parse(arg, &uuid) == 0;
}

/*
 * Print the help of the verb before the option, or just after it, if there is
 * one.  Whatever follows is ignored.
 */
static void G_NORETURN take_help(const Given *given, const char *next)
{
    const char *arg = given->args->len ? given->args->pdata[0] : next;
    const SnapCmdVerb *verb = arg ? snap_cmd_find_verb(arg) : NULL;

    if (verb) {
        help_verb(verb);
    }
    print_help();
}

/* @next: argument after the option, or NULL */
static void take_option(Given *given, SnapCmdOptions *options,
                        const Option *option, const char *next)
{
    g_ptr_array_add(given->options, (gpointer)option);
    if (option->optional && !optarg && next && looks_like_value(next)) {
        given->stray = next;
        given->stray_option = option;
    }
    if (option->letter == 'h') {
        take_help(given, next);
    }
    option->parse(options, option, optarg);
}

/* Options may stand before and after the verb. */
static void read_arguments(Given *given, SnapCmdOptions *options, int argc,
                           char **argv)
{
    GetoptTables tables = {};
    int value;

    getopt_tables_fill(&tables);
    while ((value = getopt_long(argc, argv, tables.letters, tables.names,
                                NULL)) != -1) {
        const Option *option = find_option(value);

        if (value == GETOPT_ARGUMENT) {
            g_ptr_array_add(given->args, optarg);
        } else if (option) {
            take_option(given, options, option, argv[optind]);
        } else {
            exit_with_hint();
        }
    }
    /* ... but not after "--". */
    while (optind < argc) {
        g_ptr_array_add(given->args, argv[optind++]);
    }
}

/* Report arguments that are not a verb and one image. */
static void G_NORETURN refuse_arguments(const Given *given)
{
    char **args = (char **)given->args->pdata;
    unsigned nb_args = given->args->len;

    if (given->stray) {
        g_autofree char *name = option_name(given->stray_option);

        error_report("%s takes its %s after '=': %s=%s", name,
                     given->stray_option->optional, name, given->stray);
    } else if (nb_args == 0) {
        error_report("Missing verb");
    } else if (!snap_cmd_find_verb(args[0])) {
        error_report("Unknown verb '%s'", args[0]);
    } else if (nb_args == 1) {
        error_report("'%s' needs the name of an image", args[0]);
    } else {
        error_report("Unexpected argument '%s': expected a verb and one image",
                     args[2]);
    }
    exit_with_hint();
}

static void G_GNUC_PRINTF(2, 3) report_option(const Option *option,
                                              const char *format, ...)
{
    g_autofree char *name = option_name(option);
    g_autofree char *text = NULL;
    va_list ap;

    va_start(ap, format);
    text = g_strdup_vprintf(format, ap);
    va_end(ap);
    error_report("%s %s", name, text);
}

/* Refuse options that @verb does not have. */
static void check_verb_options(const Given *given, const SnapCmdVerb *verb)
{
    for (unsigned i = 0; i < given->options->len; i++) {
        const Option *option = g_ptr_array_index(given->options, i);

        if (!(option->verbs & verb->mask)) {
            report_option(option, "cannot be used with '%s'", verb->name);
            exit_with_hint();
        }
    }
}

/* Refuse options that are only for loads by postcopy. */
static void refuse_postcopy_options(const Given *given)
{
    for (unsigned i = 0; i < given->options->len; i++) {
        const Option *option = g_ptr_array_index(given->options, i);

        if (option->for_postcopy) {
            report_option(option, "needs --postcopy or --resume");
            exit_with_hint();
        }
    }
}

/* Check combinations of options that concern a load by postcopy. */
static void check_postcopy_options(SnapCmdOptions *options, const Given *given)
{
    SnapPostcopyOptions *postcopy = options->postcopy;

    if (postcopy->resume && postcopy->percent) {
        error_report("--postcopy=%u cannot be used with --resume: the guest "
                     "is running already",
                     postcopy->percent);
        exit(EXIT_FAILURE);
    }
    options->by_postcopy |= postcopy->resume;
    if (!options->by_postcopy) {
        refuse_postcopy_options(given);
    }
    if (options->by_postcopy && options->multifd->nb_channels) {
        error_report("--multifd-channels cannot be used with --postcopy or "
                     "--resume: QEMU does not support both");
        exit(EXIT_FAILURE);
    }
    if (!(postcopy->push.reasons & (1u << SNAP_PUSH_FAULT_AROUND))) {
        postcopy->push.fault_around = 0;
    }
}

/* A recorded working set needs a file. */
static void check_record(const SnapCmdOptions *options)
{
    g_autofree char *path = snap_cmd_working_set(options);

    if (options->postcopy->record && !path) {
        error_report("--record needs --working-set=FILE with '%s', which is "
                     "not a local file", options->filename);
        exit(EXIT_FAILURE);
    }
}

const SnapCmdVerb *snap_cmd_options_parse(SnapCmdOptions *options, int argc,
                                          char **argv)
{
    g_autoptr(GPtrArray) found = g_ptr_array_new();
    g_autoptr(GPtrArray) args = g_ptr_array_new();
    Given given = { .options = found, .args = args };
    const SnapCmdVerb *verb;

    read_arguments(&given, options, argc, argv);
    verb = args->len == 2 ? snap_cmd_find_verb(args->pdata[0]) : NULL;
    if (!verb) {
        refuse_arguments(&given);
    }
    check_verb_options(&given, verb);
    check_postcopy_options(options, &given);
    options->filename = args->pdata[1];
    options->image = options->image_opts ? g_strdup(options->filename) :
                     snap_open_file_name(options->filename);
    options->verb = verb->name;
    check_record(options);
    return verb;
}

static void free_object(gpointer opaque)
{
    qapi_free_ObjectOptions(opaque);
}

static SnapPostcopyOptions *default_postcopy_options(void)
{
    SnapPostcopyOptions *postcopy = g_new(SnapPostcopyOptions, 1);

    *postcopy = (SnapPostcopyOptions) {
        .load_records = SNAP_LOAD_RECORDS,
        .push = {
            .reasons = 1u << SNAP_PUSH_WORKING_SET | 1u << SNAP_PUSH_ARRIVALS |
                       1u << SNAP_PUSH_FAULT_AROUND | 1u << SNAP_PUSH_LINEAR,
            .fault_around = DEFAULT_AROUND,
            .backlog = DEFAULT_BACKLOG,
        },
    };
    return postcopy;
}

void snap_cmd_options_init(SnapCmdOptions *options)
{
    *options = (SnapCmdOptions) {
        .create_format = "qcow2",
        .page_bits = DEFAULT_PAGE_BITS,
        .postcopy = default_postcopy_options(),
        .multifd = g_new0(SnapMultifdOptions, 1),
        .host_pages = g_ptr_array_new(),
        .objects = g_ptr_array_new_with_free_func(free_object),
        .object_args = g_ptr_array_new(),
        .trace_args = g_ptr_array_new(),
        .start_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME),
    };
    g_ptr_array_add(options->host_pages, NULL);
}

void snap_cmd_options_destroy(SnapCmdOptions *options)
{
    g_ptr_array_unref(options->objects);
    g_ptr_array_unref(options->host_pages);
    g_ptr_array_unref(options->object_args);
    g_ptr_array_unref(options->trace_args);
    g_free(options->postcopy);
    g_free(options->multifd);
    g_free(options->create_options);
    g_free(options->image);
}
