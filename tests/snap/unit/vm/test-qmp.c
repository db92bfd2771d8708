/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of the client of QEMU's monitor
 *
 * The server is a coroutine that follows a script.  QEMU's parser takes single
 * quotes as well, which are easier to read here.
 */

#include "qemu/osdep.h"
#include <glib-unix.h>
#include <poll.h>
#include <sys/un.h>
#include "block/aio-wait.h"
#include "io/channel-socket.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qobject/qjson.h"
#include "snap/vm/qmp.h"
#include "snap-coroutine.h"
#include "test-table.h"

/* Long enough for any machine, in nanoseconds; and short */
#define LONG_NS     (60 * NANOSECONDS_PER_SECOND)
#define SHORT_NS    (20 * SCALE_MS)

#define MAX_STEPS   12

#define GREETING \
    "{'QMP': {'version': {'qemu': {'micro': 2, 'minor': 0, 'major': 10}," \
    " 'package': ''}, 'capabilities': ['oob']}}\r\n"
#define GREETING_WITHOUT_OOB \
    "{'QMP': {'version': {}, 'capabilities': ['other', 5]}}\r\n"
#define DONE(id) "{'return': {}, 'id': " id "}\r\n"
#define EVENT(name, data) \
    "{'timestamp': {'seconds': 1, 'microseconds': 2}, 'event': '" name "'," \
    " 'data': " data "}\r\n"

/**
 * StepType: what the server does next
 * @CONNECT: greet, and take the command that negotiates
 * @SAY: send bytes
 * @EXPECT: read a line, and compare it as JSON
 * @EXPECT_FD: the same for one that has a descriptor with it
 * @READ: read a line, whatever it is
 * @CLOSE: close the connection
 */
typedef enum StepType {
    END,
    CONNECT,
    SAY,
    EXPECT,
    EXPECT_FD,
    READ,
    CLOSE,
} StepType;

typedef struct Step {
    StepType type;
    const char *text;
} Step;

/**
 * Server: the other end of the connection
 * @chunk: how many bytes to send at a time
 * @ioc: NULL when it is closed
 * @fd: what EXPECT_FD has got, or -1
 * @over: the script is
 */
typedef struct Server {
    const Step *script;
    size_t chunk;
    QIOChannel *ioc;
    int fd;
    bool over;
} Server;

/**
 * Fixture: a client that is to talk to a server
 * @fd: the client's end, which stays open
 * @data: of the test
 */
typedef struct Fixture {
    SnapQMP *qmp;
    Server server;
    int fd;
    const void *data;
} Fixture;

static const size_t chunks[] = { SIZE_MAX, 7, 1 };

/* --- the server --- */

/* Returns: whether the client was there */
static bool coroutine_fn server_say(Server *s, const char *text)
{
    size_t size = strlen(text);

    while (size) {
        ssize_t ret = qio_channel_write(s->ioc, text, MIN(size, s->chunk),
                                        NULL);

        if (ret == QIO_CHANNEL_ERR_BLOCK) {
            qio_channel_yield(s->ioc, G_IO_OUT);
            continue;
        }
        if (ret < 0) {
            return false;
        }
        text += ret;
        size -= ret;
        snap_co_pause();
    }
    return true;
}

/* Returns: whether there was a byte */
static bool coroutine_fn server_read(Server *s, char *byte)
{
    struct iovec iov = { byte, 1 };
    g_autofree int *fds = NULL;
    size_t nb_fds = 0;
    ssize_t ret;

    while ((ret = qio_channel_readv_full(s->ioc, &iov, 1, &fds, &nb_fds, 0,
                                         NULL)) == QIO_CHANNEL_ERR_BLOCK) {
        qio_channel_yield(s->ioc, G_IO_IN);
    }
    if (nb_fds) {
        g_assert_cmpint(nb_fds, ==, 1);
        g_assert_cmpint(s->fd, ==, -1);
        s->fd = fds[0];
    }
    return ret == 1;
}

static GString *coroutine_fn server_read_line(Server *s)
{
    GString *line = g_string_new(NULL);
    char byte = 0;

    while (byte != '\n' && server_read(s, &byte)) {
        g_string_append_c(line, byte);
    }
    return line;
}

static void coroutine_fn server_expect(Server *s, const char *text)
{
    QObject *expected = qobject_from_json(text, &error_abort);
    GString *line = server_read_line(s);
    QObject *json = qobject_from_json(line->str, &error_abort);

    if (!qobject_is_equal(json, expected)) {
        g_test_message("%s instead of %s", line->str, text);
        g_test_fail();
    }
    qobject_unref(json);
    qobject_unref(expected);
    g_string_free(line, true);
}

static void coroutine_fn server_connect(Server *s)
{
    server_say(s, GREETING);
    server_expect(s, "{'execute': 'qmp_capabilities', 'id': 1,"
                     " 'arguments': {'enable': ['oob']}}");
    server_say(s, DONE("1"));
}

static void coroutine_fn server_entry(void *opaque)
{
    Server *s = opaque;

    for (const Step *step = s->script; step->type != END; step++) {
        if (step->type == CONNECT) {
            server_connect(s);
        } else if (step->type == SAY && !server_say(s, step->text)) {
            break;
        } else if (step->type == EXPECT || step->type == EXPECT_FD) {
            server_expect(s, step->text);
            g_assert_true((s->fd >= 0) == (step->type == EXPECT_FD));
        } else if (step->type == READ) {
            g_string_free(server_read_line(s), true);
        } else if (step->type == CLOSE) {
            g_clear_pointer(&s->ioc, object_unref);
        }
    }
    s->over = true;
}

/* --- clients --- */

static void poll_until(const bool *flag)
{
    while (!*flag) {
        aio_poll(qemu_get_aio_context(), true);
    }
}

static void fixture_init(Fixture *f, const Step *script, size_t chunk)
{
    g_autofree char *address = NULL;
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds),
                    ==, 0);
    address = g_strdup_printf("fd:%d", fds[0]);
    *f = (Fixture) {
        .qmp = snap_qmp_new(address, &error_abort),
        .fd = fds[0],
        .server = { .script = script, .chunk = chunk, .fd = -1 },
    };
    f->server.ioc = QIO_CHANNEL(qio_channel_socket_new_fd(fds[1],
                                                          &error_abort));
    qio_channel_set_follow_coroutine_ctx(f->server.ioc, true);
    g_unix_set_fd_nonblocking(fds[1], true, NULL);
    qemu_coroutine_enter(qemu_coroutine_create(server_entry, &f->server));
}

/* The script must be over, or soon when the client is not there any more. */
static void fixture_destroy(Fixture *f)
{
    snap_qmp_free(f->qmp);
    while (aio_poll(qemu_get_aio_context(), false)) {
        /* the reader ends */
    }
    g_assert_false(fcntl(f->fd, F_GETFL) & O_NONBLOCK);
    close(f->fd);
    poll_until(&f->server.over);
    if (f->server.ioc) {
        object_unref(OBJECT(f->server.ioc));
    }
    if (f->server.fd >= 0) {
        close(f->server.fd);
    }
}

/* Run @client with a server that sends all at once, or in pieces. */
static void run_scripted(const Step *script, size_t chunk,
                         void coroutine_fn (*client)(void *opaque),
                         const void *data)
{
    Fixture f;

    fixture_init(&f, script, chunk);
    f.data = data;
    run_in_coroutine(client, &f);
    fixture_destroy(&f);
}

static void run_chunked(const Step *script,
                        void coroutine_fn (*client)(void *opaque),
                        const void *data)
{
    for (unsigned i = 0; i < ARRAY_SIZE(chunks); i++) {
        run_scripted(script, chunks[i], client, data);
    }
}

/* That it failed with @code, and @why is in its message; takes the error. */
static void assert_why(int ret, int code, const char *why, Error **err)
{
    g_assert_nonnull(*err);
    if (!strstr(error_get_pretty(*err), why)) {
        g_test_message("'%s' is not in '%s'", why, error_get_pretty(*err));
        g_test_fail();
    }
    assert_failed(ret, code, err);
}

static void coroutine_fn connect_client(Fixture *f)
{
    g_assert_cmpint(snap_qmp_connect(f->qmp, LONG_NS, &error_abort), ==, 0);
}

/* A command without arguments, whose result is @expected */
static void coroutine_fn check_command(Fixture *f, const char *command,
                                       const char *expected)
{
    QObject *expected_json = qobject_from_json(expected, &error_abort);
    QObject *result = NULL;

    g_assert_cmpint(snap_qmp_execute(f->qmp, command, NULL, &result,
                                     &error_abort), ==, 0);
    g_assert_true(qobject_is_equal(result, expected_json));
    qobject_unref(result);
    qobject_unref(expected_json);
}

static void coroutine_fn check_refused(Fixture *f, int code, const char *why)
{
    QObject *result = NULL;
    Error *err = NULL;
    int ret = snap_qmp_execute(f->qmp, "stop", NULL, &result, &err);

    assert_why(ret, code, why, &err);
    g_assert_null(result);
}

/* --- greetings --- */

/**
 * GreetingCase: a server that cannot be connected to
 * @says: instead of a greeting
 * @closes: the connection, then
 */
typedef struct GreetingCase {
    const char *path;
    const char *says;
    bool closes;
    int code;
    const char *why;
} GreetingCase;

static const GreetingCase greeting_cases[] = {
    { "closed-before-the-greeting", "", true,
      -ECONNRESET, "closed the connection without a greeting" },
    { "closed-in-the-greeting", "{'QMP': {'ver", true,
      -ECONNRESET, "in the middle of a message" },
    { "never-comes", "", false, -ETIMEDOUT, "another one may be connected" },
    { "never-ends", "{'QMP': {'version': {", false,
      -ETIMEDOUT, "does not answer" },
    { "is-blanks-only", " \r\n\t ", false, -ETIMEDOUT, "does not answer" },
    { "of-a-human-monitor", "QEMU 10.0.2 monitor - type 'help'", false,
      -EPROTO, "is not a QMP monitor" },
    { "of-a-ssh-server", "SSH-2.0-OpenSSH_9.2p1\r\n", true,
      -EPROTO, "is not a QMP monitor" },
    { "is-a-list", "[]", false, -EPROTO, "not an object" },
    { "is-a-number", "12 ", false, -EPROTO, "not an object" },
    { "is-another-object", "{'RPC': {}}", false, -EPROTO, "another one" },
    { "is-an-event", EVENT("STOP", "{}"), false, -EPROTO, "another one" },
    { "is-a-reply", DONE("1"), false, -EPROTO, "another one" },
    { "is-no-object", "{'QMP': 5}", false, -EPROTO, "another one" },
    { "without-capabilities", "{'QMP': {}}", false, -EPROTO, "another one" },
    { "with-a-bad-list-of-capabilities", "{'QMP': {'capabilities': {}}}",
      false, -EPROTO, "another one" },
    { "is-not-json", "{'QMP' 5}", false, -EPROTO, "JSON parse error" },
    { "has-controls", "\001\002", false, -EPROTO, "JSON parse error" },
    { "closed-after-it", GREETING, true,
      -ECONNRESET, "'qmp_capabilities' failed: QMP monitor" },
    { "then-a-second-one", GREETING GREETING, false,
      -EPROTO, "neither a reply nor an event" },
    { "then-garbage", GREETING "}", false, -EPROTO, "invalid message" },
};

/* Afterwards everything fails in the same way. */
static void coroutine_fn fail_to_connect(void *opaque)
{
    static const SnapQMPFilter any = { };
    Fixture *f = opaque;
    const GreetingCase *c = f->data;
    Error *err = NULL;
    int ret = snap_qmp_connect(f->qmp, c->code == -ETIMEDOUT ? 5 * SHORT_NS :
                                       LONG_NS, &err);

    assert_why(ret, c->code, c->why, &err);
    check_refused(f, c->code, "QMP command 'stop' failed: ");
    ret = snap_qmp_wait_event(f->qmp, &any, -1, NULL, &err);
    assert_why(ret, c->code, "Could not wait for QMP event 'any': ", &err);
}

static void test_greeting(gconstpointer data)
{
    const GreetingCase *c = data;
    const Step script[] = {
        { SAY, c->says },
        { c->closes ? CLOSE : END },
        { END },
    };

    run_chunked(script, fail_to_connect, c);
}

/* How long to wait, and whether the greeting has come by then */
typedef struct Patience {
    int64_t ns;
    bool greeted;
} Patience;

static void coroutine_fn time_out(void *opaque)
{
    Fixture *f = opaque;
    Patience *patience = (Patience *)f->data;
    Error *err = NULL;
    int ret = snap_qmp_connect(f->qmp, patience->ns, &err);

    g_assert_nonnull(err);
    patience->greeted = strstr(error_get_pretty(err), "greets, but does not");
    assert_failed(ret, -ETIMEDOUT, &err);
}

/* However slow the machine is */
static void test_silent_afterwards(void)
{
    static const Step script[] = { { SAY, GREETING }, { END } };
    Patience patience = { .ns = SHORT_NS };

    while (!patience.greeted && patience.ns < LONG_NS) {
        run_scripted(script, SIZE_MAX, time_out, &patience);
        patience.ns *= 2;
    }
    g_assert_true(patience.greeted);
}

static void test_refused_capabilities(void)
{
    static const GreetingCase c = {
        .code = -EREMOTEIO,
        .why = "QMP command 'qmp_capabilities' failed: Go away",
    };
    static const Step script[] = {
        { SAY, GREETING },
        { READ },
        { SAY, "{'error': {'class': 'A', 'desc': 'Go away'}, 'id': 1}" },
        { END },
    };

    run_chunked(script, fail_to_connect, &c);
}

static void coroutine_fn connect_without_oob(void *opaque)
{
    Fixture *f = opaque;
    Error *err = NULL;

    connect_client(f);
    g_assert_false(snap_qmp_has_oob(f->qmp));
    assert_why(snap_qmp_execute_oob(f->qmp, "migrate-pause", qdict_new(), NULL,
                                    &err),
               -ENOTSUP, "executes nothing out-of-band", &err);
    check_command(f, "stop", "{}");
}

static void test_without_oob(void)
{
    static const Step script[] = {
        { SAY, "\r\n" GREETING_WITHOUT_OOB },
        { EXPECT, "{'execute': 'qmp_capabilities', 'id': 1}" },
        { SAY, DONE("1") },
        { EXPECT, "{'execute': 'stop', 'id': 2}" },
        { SAY, DONE("2") },
        { END },
    };

    run_chunked(script, connect_without_oob, NULL);
}

/* --- replies --- */

/**
 * ReplyCase: what follows upon a command, "stop"
 * @says: the server; @closes: the connection then
 * @code: 0 if the result is @why
 * @why: in the message
 * @alive: the connection is of use afterwards
 */
typedef struct ReplyCase {
    const char *path;
    const char *says;
    bool closes;
    int code;
    const char *why;
    bool alive;
} ReplyCase;

#define REFUSAL(class, desc, id) \
    "{'id': " id ", 'error': {'class': '" class "', 'desc': '" desc "'}}\r\n"

static const ReplyCase reply_cases[] = {
    { "empty-result", DONE("2"), false, 0, "{}", true },
    { "result-is-an-object", "{'return': {'a': [1, 2]}, 'id': 2}", false,
      0, "{'a': [1, 2]}", true },
    { "result-is-null", "{'return': null, 'id': 2}", false, 0, "null", true },
    { "result-is-a-list", "{'id': 2, 'return': []}", false, 0, "[]", true },
    { "result-over-lines", "{\r\n 'id': 2,\r\n 'return': \r\n 'x'\r\n}\r\n",
      false, 0, "'x'", true },
    { "result-has-members-that-are-new", "{'return': {}, 'id': 2, 'new': 1}",
      false, 0, "{}", true },
    { "event-comes-before", EVENT("STOP", "{}") DONE("2"), false,
      0, "{}", true },
    { "event-without-data", "{'event': 'STOP'}" DONE("2"), false,
      0, "{}", true },
    { "refused-in-words-of-qemu", REFUSAL("GenericError", "No 5 %s", "2"),
      false, -EREMOTEIO, "QMP command 'stop' failed: No 5 %s", true },
    { "refused-with-an-unknown-class", REFUSAL("NewError", "No", "2"),
      false, -EREMOTEIO, "QMP command 'stop' failed: No", true },
    { "refused-in-several-lines", REFUSAL("GenericError", "A\\nB", "2"),
      false, -EREMOTEIO, "failed: A B", true },
    { "closed-before", "", true, -ECONNRESET,
      "QMP command 'stop' failed: QMP monitor" },
    { "closed-in-it", "{'return': {}", true, -ECONNRESET,
      "closed the connection in the middle of a message" },
    { "closed-after-an-event", EVENT("SHUTDOWN", "{}"), true, -ECONNRESET,
      "closed the connection" },
    { "closed-after-it", DONE("2"), true, 0, "{}" },
    { "to-no-command", DONE("3"), false, -EPROTO, "a reply to no command" },
    { "to-an-earlier-command", DONE("1"), false,
      -EPROTO, "a reply to no command" },
    { "error-to-no-command", REFUSAL("GenericError", "No", "3"), false,
      -EPROTO, "a reply to no command" },
    { "without-id", "{'return': {}}", false, -EPROTO, "a reply to no command" },
    { "id-is-a-string", DONE("'2'"), false, -EPROTO, "a reply to no command" },
    { "id-is-a-fraction", DONE("2.5"), false, -EPROTO, "a reply to no" },
    { "id-is-giant", DONE("123456789012345678901234567890"), false,
      -EPROTO, "a reply to no command" },
    { "error-without-id",
      "{'error': {'class': 'GenericError', 'desc': 'Invalid JSON'}}", false,
      -EPROTO, "could not read a command: Invalid JSON" },
    { "both-result-and-error",
      "{'return': {}, 'error': {'class': 'A', 'desc': 'B'}, 'id': 2}", false,
      -EPROTO, "more than one" },
    { "both-result-and-event", "{'return': {}, 'event': 'A', 'id': 2}", false,
      -EPROTO, "more than one" },
    { "neither-result-nor-error", "{'id': 2}", false, -EPROTO, "neither" },
    { "error-without-class", "{'error': {'desc': 'B'}, 'id': 2}", false,
      -EPROTO, "without a class" },
    { "error-without-description", "{'error': {'class': 'B'}, 'id': 2}", false,
      -EPROTO, "without a class or a description" },
    { "error-is-a-string", "{'error': 'class', 'id': 2}", false,
      -EPROTO, "without a class" },
    { "error-has-a-number", "{'error': {'class': 'A', 'desc': 1}, 'id': 2}",
      false, -EPROTO, "without a class" },
    { "event-is-a-number", "{'event': 5}", false, -EPROTO, "an event without" },
    { "event-with-bad-data", "{'event': 'A', 'data': 5}", false,
      -EPROTO, "other data than an object" },
    { "is-a-list", "[]", false, -EPROTO, "not an object" },
    { "is-a-string", "'return'", false, -EPROTO, "not an object" },
    { "is-not-closed", "{'return': {}, 'id': 2]}", false,
      -EPROTO, "JSON parse error" },
    { "is-not-utf8", "{'return': '\xff', 'id': 2}", false,
      -EPROTO, "JSON parse error" },
    { "is-garbage", "\xff\xfe", false, -EPROTO, "JSON parse error" },
};

static void coroutine_fn get_reply(void *opaque)
{
    Fixture *f = opaque;
    const ReplyCase *c = f->data;

    connect_client(f);
    if (c->code) {
        check_refused(f, c->code, c->why);
    } else {
        check_command(f, "stop", c->why);
    }
    if (c->alive) {
        check_command(f, "cont", "{}");
    } else {
        check_refused(f, c->code ?: -ECONNRESET, c->code ? c->why : "closed");
    }
}

static void test_reply(gconstpointer data)
{
    const ReplyCase *c = data;
    const Step script[] = {
        { CONNECT },
        { EXPECT, "{'execute': 'stop', 'id': 2}" },
        { SAY, c->says },
        { c->closes ? CLOSE : c->alive ? EXPECT : END,
          "{'execute': 'cont', 'id': 3}" },
        { c->alive ? SAY : END, DONE("3") },
        { END },
    };

    run_chunked(script, get_reply, c);
}

/* Text between two others, many times */
static char *repeated(const char *begin, const char *text, unsigned nb,
                      const char *end)
{
    GString *s = g_string_new(begin);

    for (unsigned i = 0; i < nb; i++) {
        g_string_append(s, text);
    }
    g_string_append(s, end);
    return g_string_free(s, false);
}

/* A reply that is too much for a client */
static void check_too_much(char *says, const char *why)
{
    const ReplyCase c = { .code = -EPROTO, .why = why };
    const Step script[] = {
        { CONNECT },
        { EXPECT, "{'execute': 'stop', 'id': 2}" },
        { SAY, says },
        { END },
    };

    run_scripted(script, SIZE_MAX, get_reply, &c);
    g_free(says);
}

static void test_endless_nesting(void)
{
    check_too_much(repeated("{'id': 2, 'return': ", "[", 5000, ""), "nesting");
    check_too_much(repeated("", "{'a':", 5000, ""), "nesting");
}

static void test_endless_string(void)
{
    check_too_much(repeated("{'return': '", "0123456789abcdef", 17 * MiB / 16,
                            ""), "too large");
}

static void test_endless_list(void)
{
    check_too_much(repeated("{'return': [", "{},", 70000, ""), "too large");
}

static void test_endless_word(void)
{
    check_too_much(repeated("", "a", 17 * MiB, ""), "too large");
}

/* What is quoted of it is short. */
static void coroutine_fn get_long_error(void *opaque)
{
    Fixture *f = opaque;
    Error *err = NULL;

    connect_client(f);
    g_assert_cmpint(snap_qmp_execute(f->qmp, "stop", NULL, NULL, &err), ==,
                    -EREMOTEIO);
    g_assert_cmpint(strlen(error_get_pretty(err)), <, 1100);
    error_free(err);
}

static void test_long_error(void)
{
    g_autofree char *says =
        repeated("{'id': 2, 'error': {'class': 'A', 'desc': '", "long", 5000,
                 "'}}");
    const Step script[] = {
        { CONNECT },
        { READ },
        { SAY, says },
        { END },
    };

    run_scripted(script, SIZE_MAX, get_long_error, NULL);
}

/* Nearly as large as it may be */
static void coroutine_fn get_large_result(void *opaque)
{
    Fixture *f = opaque;
    QObject *result = NULL;

    connect_client(f);
    g_assert_cmpint(snap_qmp_execute(f->qmp, "stop", NULL, &result,
                                     &error_abort), ==, 0);
    g_assert_cmpint(qobject_type(result), ==, QTYPE_QSTRING);
    qobject_unref(result);
    check_command(f, "cont", "{}");
}

static void test_large_result(void)
{
    g_autofree char *says = repeated("{'return': '", "0123456789abcdef",
                                     15 * MiB / 16, "', 'id': 2}\r\n");
    const Step script[] = {
        { CONNECT },
        { READ },
        { SAY, says },
        { READ },
        { SAY, DONE("3") },
        { END },
    };

    run_scripted(script, SIZE_MAX, get_large_result, NULL);
}

/* As deeply as the parser takes it, about */
static void coroutine_fn get_nested_result(void *opaque)
{
    Fixture *f = opaque;
    QObject *result = NULL;

    connect_client(f);
    g_assert_cmpint(snap_qmp_execute(f->qmp, "stop", NULL, &result,
                                     &error_abort), ==, 0);
    g_assert_cmpint(qobject_type(result), ==, QTYPE_QLIST);
    qobject_unref(result);
}

static void test_nested_result(void)
{
    g_autofree char *says = repeated("{'id': 2, 'return': ", "[", 1000, "");
    g_autofree char *rest = repeated("", "]", 1000, "}");
    const Step script[] = {
        { CONNECT }, { READ }, { SAY, says }, { SAY, rest }, { END },
    };

    run_scripted(script, SIZE_MAX, get_nested_result, NULL);
}

/* --- commands --- */

typedef struct ClassCase {
    const char *path;
    const char *says;
    ErrorClass klass;
} ClassCase;

static const ClassCase class_cases[] = {
    { "generic", REFUSAL("GenericError", "", "2"),
      ERROR_CLASS_GENERIC_ERROR },
    { "command-not-found", REFUSAL("CommandNotFound", "", "2"),
      ERROR_CLASS_COMMAND_NOT_FOUND },
    { "device-not-found", REFUSAL("DeviceNotFound", "", "2"),
      ERROR_CLASS_DEVICE_NOT_FOUND },
    { "device-not-active", REFUSAL("DeviceNotActive", "", "2"),
      ERROR_CLASS_DEVICE_NOT_ACTIVE },
    { "unknown-is-generic", REFUSAL("OtherError", "", "2"),
      ERROR_CLASS_GENERIC_ERROR },
};

static void coroutine_fn get_class(void *opaque)
{
    Fixture *f = opaque;
    const ClassCase *c = f->data;
    Error *err = NULL;

    connect_client(f);
    g_assert_cmpint(snap_qmp_execute(f->qmp, "stop", NULL, NULL, &err), ==,
                    -EREMOTEIO);
    g_assert_cmpint(error_get_class(err), ==, c->klass);
    error_free(err);
}

static void test_class(gconstpointer data)
{
    const ClassCase *c = data;
    const Step script[] = { { CONNECT }, { READ }, { SAY, c->says }, { END } };

    run_scripted(script, SIZE_MAX, get_class, c);
}

static void coroutine_fn send_arguments(void *opaque)
{
    Fixture *f = opaque;

    connect_client(f);
    g_assert_true(snap_qmp_has_oob(f->qmp));
    snap_qmp_execute(f->qmp, "migrate",
                     qdict_from_jsonf_nofail("{ 'uri': %s }",
                                             "fd:\"\n\303\244"),
                     NULL, &error_abort);
    snap_qmp_execute(f->qmp, "balloon",
                     qdict_from_jsonf_nofail("{ 'value': %d }", 5),
                     NULL, &error_abort);
    snap_qmp_execute(f->qmp, "cont", qdict_new(), NULL, &error_abort);
}

static void test_arguments(void)
{
    static const Step script[] = {
        { CONNECT },
        { EXPECT, "{'execute': 'migrate', 'id': 2,"
                  " 'arguments': {'uri': 'fd:\\\"\\n\\u00e4'}}" },
        { SAY, DONE("2") },
        { EXPECT, "{'execute': 'balloon', 'arguments': {'value': 5},"
                  " 'id': 3}" },
        { SAY, DONE("3") },
        { EXPECT, "{'execute': 'cont', 'arguments': {}, 'id': 4}" },
        { SAY, DONE("4") },
        { END },
    };

    run_chunked(script, send_arguments, NULL);
}

static void coroutine_fn send_fd(void *opaque)
{
    Fixture *f = opaque;
    struct stat sent, received;
    int fds[2];

    g_assert_cmpint(pipe2(fds, O_CLOEXEC), ==, 0);
    connect_client(f);
    snap_qmp_execute_fd(f->qmp, "getfd",
                        qdict_from_jsonf_nofail("{ 'fdname': 'snap' }"),
                        fds[1], NULL, &error_abort);
    g_assert_cmpint(f->server.fd, >=, 0);
    g_assert_cmpint(fstat(fds[1], &sent), ==, 0);
    g_assert_cmpint(fstat(f->server.fd, &received), ==, 0);
    g_assert_cmpint(sent.st_ino, ==, received.st_ino);
    close(f->server.fd);
    f->server.fd = -1;
    check_command(f, "stop", "{}");
    close(fds[0]);
    close(fds[1]);
}

static void test_fd(void)
{
    static const Step script[] = {
        { CONNECT },
        { EXPECT_FD, "{'execute': 'getfd', 'arguments': {'fdname': 'snap'},"
                     " 'id': 2}" },
        { SAY, DONE("2") },
        { EXPECT, "{'execute': 'stop', 'id': 3}" },
        { SAY, DONE("3") },
        { END },
    };

    run_chunked(script, send_fd, NULL);
}

static void coroutine_fn send_bad_fd(void *opaque)
{
    Fixture *f = opaque;
    Error *err = NULL;

    connect_client(f);
    assert_why(snap_qmp_execute_fd(f->qmp, "getfd", NULL, 999999, NULL, &err),
               -EIO, "QMP command 'getfd' failed: QMP monitor", &err);
}

static void test_bad_fd(void)
{
    static const Step script[] = { { CONNECT }, { END } };

    run_scripted(script, SIZE_MAX, send_bad_fd, NULL);
}

/**
 * Task: a coroutine beside the test
 * @run: what it does
 * @oob: with a command
 * @large: that has many arguments
 * @nb_done: counts those that are done, for @order
 */
typedef struct Task {
    Fixture *f;
    int coroutine_fn (*run)(struct Task *task, Error **errp);
    const char *command;
    bool oob;
    bool done;
    int ret;
    Error *err;
    unsigned *nb_done;
    unsigned order;
} Task;

static void coroutine_fn task_entry(void *opaque)
{
    Task *task = opaque;

    task->ret = task->run(task, &task->err);
    task->done = true;
    if (task->nb_done) {
        task->order = ++*task->nb_done;
    }
}

static void task_start(Task *task)
{
    aio_co_enter(qemu_get_aio_context(),
                 qemu_coroutine_create(task_entry, task));
}

static int coroutine_fn run_connect(Task *task, Error **errp)
{
    return snap_qmp_connect(task->f->qmp, LONG_NS, errp);
}

static int coroutine_fn run_command(Task *task, Error **errp)
{
    return task->oob ?
           snap_qmp_execute_oob(task->f->qmp, task->command, NULL, NULL, errp) :
           snap_qmp_execute(task->f->qmp, task->command, NULL, NULL, errp);
}

static int coroutine_fn run_large_command(Task *task, Error **errp)
{
    g_autofree char *text = repeated("", "0123456789abcdef", 64 * KiB, "");
    QDict *arguments = qdict_new();

    qdict_put_str(arguments, "text", text);
    return snap_qmp_execute(task->f->qmp, task->command, arguments, NULL, errp);
}

static int coroutine_fn run_wait(Task *task, Error **errp)
{
    const SnapQMPFilter filter = { .name = task->command };

    return snap_qmp_wait_event(task->f->qmp, &filter, -1, NULL, errp);
}

static void connect_outside(Fixture *f)
{
    Task task = { .f = f, .run = run_connect };

    task_start(&task);
    poll_until(&task.done);
    g_assert_cmpint(task.ret, ==, 0);
}

static void test_oob(void)
{
    static const Step script[] = {
        { CONNECT },
        { EXPECT, "{'execute': 'migrate-incoming', 'id': 2}" },
        { EXPECT, "{'exec-oob': 'migrate-recover', 'id': 3}" },
        { SAY, DONE("3") EVENT("MIGRATION", "{}") DONE("2") },
        { END },
    };
    unsigned nb_done = 0;
    Fixture f;
    Task slow = { .f = &f, .run = run_command, .command = "migrate-incoming",
                  .nb_done = &nb_done };
    Task fast = { .f = &f, .run = run_command, .command = "migrate-recover",
                  .oob = true, .nb_done = &nb_done };

    fixture_init(&f, script, SIZE_MAX);
    connect_outside(&f);
    task_start(&slow);
    task_start(&fast);
    poll_until(&slow.done);
    g_assert_true(fast.done);
    g_assert_cmpint(slow.ret, ==, 0);
    g_assert_cmpint(fast.ret, ==, 0);
    g_assert_cmpint(fast.order, <, slow.order);
    fixture_destroy(&f);
}

static void test_one_at_a_time(void)
{
    static const Step script[] = {
        { CONNECT },
        { EXPECT, "{'execute': 'stop', 'id': 2}" },
        { SAY, EVENT("STOP", "{}") DONE("2") },
        { EXPECT, "{'execute': 'cont', 'id': 3}" },
        { SAY, DONE("3") },
        { END },
    };
    Fixture f;
    Task first = { .f = &f, .run = run_command, .command = "stop" };
    Task second = { .f = &f, .run = run_command, .command = "cont" };

    fixture_init(&f, script, SIZE_MAX);
    connect_outside(&f);
    task_start(&first);
    task_start(&second);
    poll_until(&second.done);
    g_assert_cmpint(first.ret, ==, 0);
    g_assert_cmpint(second.ret, ==, 0);
    fixture_destroy(&f);
}

static void coroutine_fn send_large(void *opaque)
{
    Fixture *f = opaque;
    Task task = { .f = f, .command = "stop" };

    connect_client(f);
    g_assert_cmpint(run_large_command(&task, &error_abort), ==, 0);
}

static void test_large_command(void)
{
    static const Step script[] = {
        { CONNECT }, { READ }, { SAY, DONE("2") }, { END },
    };

    run_scripted(script, SIZE_MAX, send_large, NULL);
}

/* --- events --- */

static bool status_is(const QDict *data, void *opaque)
{
    return g_strcmp0(qdict_get_try_str(data, "status"), opaque) == 0;
}

/* The next event @name with @status, if there must be one, has @number */
static void coroutine_fn check_event(Fixture *f, const char *name,
                                     const char *status, int number)
{
    const SnapQMPFilter filter = {
        .name = name,
        .match = status ? status_is : NULL,
        .opaque = (void *)status,
    };
    g_autoptr(QDict) event = NULL;

    g_assert_cmpint(snap_qmp_wait_event(f->qmp, &filter, LONG_NS, &event,
                                        &error_abort), ==, 0);
    g_assert_cmpint(qdict_get_int(qdict_get_qdict(event, "data"), "n"), ==,
                    number);
}

static void coroutine_fn check_no_event(Fixture *f, const char *name)
{
    const SnapQMPFilter filter = { .name = name };
    Error *err = NULL;
    int ret = snap_qmp_wait_event(f->qmp, &filter, SHORT_NS, NULL, &err);

    assert_why(ret, -ETIMEDOUT, "has not reported it for 20 ms", &err);
}

static void coroutine_fn take_events(void *opaque)
{
    Fixture *f = opaque;

    connect_client(f);
    check_command(f, "stop", "{}");
    check_event(f, "MIGRATION", "active", 3);
    check_event(f, "MIGRATION", NULL, 2);
    check_event(f, NULL, NULL, 1);
    check_no_event(f, "MIGRATION");
    check_command(f, "cont", "{}");
    check_event(f, "RESUME", NULL, 4);
    check_no_event(f, NULL);
}

static void test_events(void)
{
    static const Step script[] = {
        { CONNECT },
        { EXPECT, "{'execute': 'stop', 'id': 2}" },
        { SAY, EVENT("STOP", "{'n': 1}")
               EVENT("MIGRATION", "{'status': 'setup', 'n': 2}") DONE("2") },
        { SAY, EVENT("MIGRATION", "{'status': 'active', 'n': 3}") },
        { EXPECT, "{'execute': 'cont', 'id': 3}" },
        { SAY, DONE("3") EVENT("RESUME", "{'n': 4}") },
        { END },
    };

    run_chunked(script, take_events, NULL);
}

static void coroutine_fn discard_events(void *opaque)
{
    Fixture *f = opaque;

    connect_client(f);
    check_command(f, "stop", "{}");
    snap_qmp_discard_events(f->qmp);
    check_command(f, "cont", "{}");
    check_event(f, "STOP", NULL, 2);
}

static void test_discard(void)
{
    static const Step script[] = {
        { CONNECT },
        { READ },
        { SAY, EVENT("STOP", "{'n': 1}") DONE("2") },
        { READ },
        { SAY, EVENT("STOP", "{'n': 2}") DONE("3") },
        { END },
    };

    run_chunked(script, discard_events, NULL);
}

/* Those of the queue come before the end. */
static void coroutine_fn take_last_events(void *opaque)
{
    static const SnapQMPFilter any = { };
    Fixture *f = opaque;
    Error *err = NULL;

    connect_client(f);
    check_command(f, "quit", "{}");
    check_refused(f, -ECONNRESET, "closed the connection");
    check_event(f, "SHUTDOWN", NULL, 1);
    assert_why(snap_qmp_wait_event(f->qmp, &any, LONG_NS, NULL, &err),
               -ECONNRESET, "Could not wait for QMP event 'any': ", &err);
}

static void test_last_events(void)
{
    static const Step script[] = {
        { CONNECT },
        { READ },
        { SAY, DONE("2") EVENT("SHUTDOWN", "{'n': 1}") },
        { CLOSE },
        { END },
    };

    run_chunked(script, take_last_events, NULL);
}

static void coroutine_fn take_too_many(void *opaque)
{
    Fixture *f = opaque;

    connect_client(f);
    check_command(f, "stop", "{}");
    check_event(f, "FIRST", NULL, 2);
    for (unsigned i = 0; i < SNAP_QMP_MAX_EVENTS - 1; i++) {
        check_event(f, NULL, NULL, 0);
    }
    check_no_event(f, NULL);
}

/* The second of the first two is the oldest that is kept. */
static void test_too_many_events(void)
{
    g_autofree char *says =
        repeated(EVENT("FIRST", "{'n': 1}") EVENT("FIRST", "{'n': 2}"),
                 EVENT("NEXT", "{'n': 0}"), SNAP_QMP_MAX_EVENTS - 1, DONE("2"));
    const Step script[] = {
        { CONNECT }, { READ }, { SAY, says }, { END },
    };

    run_scripted(script, SIZE_MAX, take_too_many, NULL);
}

/* Each takes half of what may be kept and more; the last one is. */
static void coroutine_fn take_large(void *opaque)
{
    Fixture *f = opaque;

    connect_client(f);
    check_command(f, "stop", "{}");
    check_event(f, NULL, NULL, 2);
    check_no_event(f, NULL);
}

static void test_large_events(void)
{
    g_autofree char *first =
        repeated("{'event': 'A', 'data': {'n': 1, 'l': [{}", ", {}", 2500,
                 "]}}");
    g_autofree char *second =
        repeated("{'event': 'A', 'data': {'n': 2, 'l': [{}", ", {}", 5000,
                 "]}}" DONE("2"));
    const Step script[] = {
        { CONNECT }, { READ }, { SAY, first }, { SAY, second }, { END },
    };

    run_scripted(script, SIZE_MAX, take_large, NULL);
}

static void test_two_waiters(void)
{
    static const Step script[] = {
        { CONNECT },
        { READ },
        { SAY, EVENT("STOP", "{}") EVENT("RESUME", "{}") DONE("2") },
        { END },
    };
    Fixture f;
    Task resume = { .f = &f, .run = run_wait, .command = "RESUME" };
    Task stop = { .f = &f, .run = run_wait, .command = "STOP" };
    Task command = { .f = &f, .run = run_command, .command = "x-y" };

    fixture_init(&f, script, SIZE_MAX);
    connect_outside(&f);
    task_start(&resume);
    task_start(&stop);
    task_start(&command);
    poll_until(&command.done);
    g_assert_true(resume.done && stop.done);
    g_assert_cmpint(resume.ret, ==, 0);
    g_assert_cmpint(stop.ret, ==, 0);
    fixture_destroy(&f);
}

/* --- cancelled --- */

/**
 * CancelCase: a coroutine that waits
 * @connected: the client is, when it begins
 * @run: what it does, with @oob
 * @queued: another command is being executed
 * @broken: the connection is of no use any more
 */
typedef struct CancelCase {
    const char *path;
    int coroutine_fn (*run)(Task *task, Error **errp);
    bool connected;
    bool oob;
    bool queued;
    bool broken;
} CancelCase;

static const CancelCase cancel_cases[] = {
    { "greeting", run_connect, .broken = true },
    { "reply", run_command, .connected = true },
    { "reply-out-of-band", run_command, .connected = true, .oob = true },
    { "turn", run_command, .connected = true, .queued = true },
    { "event", run_wait, .connected = true },
    { "room-to-write", run_large_command, .connected = true, .broken = true },
};

static const Step silent[] = { { END } };
static const Step connects[] = { { CONNECT }, { END } };

/* Let everything run that can. */
static void settle(void)
{
    while (aio_poll(qemu_get_aio_context(), false)) {
        /* again */
    }
}

static void assert_task_waits(Task *task)
{
    task_start(task);
    settle();
    g_assert_false(task->done);
}

static void assert_task_cancelled(Task *task)
{
    g_assert_true(task->done);
    assert_failed(task->ret, -ECANCELED, &task->err);
}

static void cancel_set_up(const CancelCase *c, Fixture *f, Task *before,
                          Task *task)
{
    *before = (Task) { .f = f, .run = run_command, .command = "before",
                       .done = !c->queued };
    *task = (Task) { .f = f, .run = c->run, .command = "x", .oob = c->oob };
    fixture_init(f, c->connected ? connects : silent, SIZE_MAX);
    if (c->connected) {
        connect_outside(f);
    }
    if (c->queued) {
        assert_task_waits(before);
    }
    assert_task_waits(task);
}

static void test_cancel(gconstpointer data)
{
    const CancelCase *c = data;
    Task before, task;
    Fixture f;

    cancel_set_up(c, &f, &before, &task);
    snap_qmp_cancel(f.qmp);
    assert_task_cancelled(&task);
    if (c->queued) {
        assert_task_cancelled(&before);
    }
    /* also what begins later */
    task.done = false;
    task.run = run_command;
    task_start(&task);
    assert_task_cancelled(&task);
    snap_qmp_reset_cancel(f.qmp);
    task.done = false;
    task_start(&task);
    g_assert_true(task.done == c->broken);
    if (!c->broken) {
        snap_qmp_cancel(f.qmp);
    }
    g_assert_cmpint(task.ret, <, 0);
    error_free(task.err);
    fixture_destroy(&f);
}

static void test_free(gconstpointer data)
{
    const CancelCase *c = data;
    Task before, task;
    Fixture f;

    cancel_set_up(c, &f, &before, &task);
    snap_qmp_free(f.qmp);
    f.qmp = NULL;
    assert_task_cancelled(&task);
    if (c->queued) {
        assert_task_cancelled(&before);
    }
    fixture_destroy(&f);
}

static int coroutine_fn run_cancel(Task *task, Error **errp)
{
    snap_qmp_cancel(task->f->qmp);
    return 0;
}

static int coroutine_fn run_free(Task *task, Error **errp)
{
    snap_qmp_free(g_steal_pointer(&task->f->qmp));
    return 0;
}

/* From within another coroutine */
static void check_cancelled_by(int coroutine_fn (*run)(Task *task,
                                                       Error **errp))
{
    static const CancelCase c = { .run = run_command, .connected = true,
                                  .queued = true };
    Task before, task;
    Fixture f;
    Task canceller = { .f = &f, .run = run };

    cancel_set_up(&c, &f, &before, &task);
    task_start(&canceller);
    g_assert_true(canceller.done);
    assert_task_cancelled(&before);
    assert_task_cancelled(&task);
    fixture_destroy(&f);
}

static void test_cancel_in_coroutine(void)
{
    check_cancelled_by(run_cancel);
}

static void test_free_in_coroutine(void)
{
    check_cancelled_by(run_free);
}

static void test_free_unused(void)
{
    Fixture f;

    fixture_init(&f, silent, SIZE_MAX);
    fixture_destroy(&f);
    snap_qmp_free(NULL);
}

/* What was cancelled is answered later, once well and once not. */
static void test_late_reply(void)
{
    static const Step script[] = {
        { CONNECT },
        { EXPECT, "{'execute': 'migrate', 'id': 2}" },
        { EXPECT, "{'exec-oob': 'x', 'id': 3}" },
        { EXPECT, "{'execute': 'migrate_cancel', 'id': 4}" },
        { SAY, REFUSAL("GenericError", "No", "3") DONE("2") DONE("4") },
        { END },
    };
    Fixture f;
    Task task = { .f = &f, .run = run_command, .command = "migrate" };
    Task oob = { .f = &f, .run = run_command, .command = "x", .oob = true };
    Task undo = { .f = &f, .run = run_command, .command = "migrate_cancel" };

    fixture_init(&f, script, SIZE_MAX);
    connect_outside(&f);
    assert_task_waits(&task);
    assert_task_waits(&oob);
    snap_qmp_cancel(f.qmp);
    assert_task_cancelled(&task);
    assert_task_cancelled(&oob);
    snap_qmp_reset_cancel(f.qmp);
    task_start(&undo);
    poll_until(&undo.done);
    g_assert_cmpint(undo.ret, ==, 0);
    fixture_destroy(&f);
}

static void test_cut_off_command(void)
{
    Fixture f;
    Task large = { .f = &f, .run = run_large_command, .command = "x" };
    Task undo = { .f = &f, .run = run_command, .command = "cont" };

    fixture_init(&f, connects, SIZE_MAX);
    connect_outside(&f);
    assert_task_waits(&large);
    snap_qmp_cancel(f.qmp);
    assert_task_cancelled(&large);
    snap_qmp_reset_cancel(f.qmp);
    task_start(&undo);
    g_assert_true(undo.done);
    assert_why(undo.ret, -EIO, "cancelled while it was being sent", &undo.err);
    fixture_destroy(&f);
}

/* --- addresses --- */

typedef struct AddressCase {
    const char *path;
    const char *address;
    const char *why;
} AddressCase;

#define LONG_PATH "/0123456789012345678901234567890123456789012345678901234" \
                  "/0123456789012345678901234567890123456789012345678901234"

static const AddressCase address_cases[] = {
    { "empty", "", "The path is empty" },
    { "empty-path", "unix:", "The path is empty" },
    { "long-path", LONG_PATH, "The path is longer than 107 bytes" },
    { "no-number", "fd:", "Invalid descriptor number ''" },
    { "bad-number", "fd:3x", "Invalid descriptor number '3x'" },
    { "signed-number", "fd:+3", "Invalid descriptor number '+3'" },
    { "closed-descriptor", "fd:999999", "Not a connected socket" },
    { "no-socket", "fd:0", "Not a connected socket" },
};

static void test_bad_address(gconstpointer data)
{
    const AddressCase *c = data;
    g_autofree char *where = g_strdup_printf("Invalid QMP monitor '%s': ",
                                             c->address);
    Error *err = NULL;

    g_assert_null(snap_qmp_new(c->address, &err));
    g_assert_true(g_str_has_prefix(error_get_pretty(err), where));
    assert_why(0, 0, c->why, &err);
}

static void test_datagram_socket(void)
{
    g_autofree char *address = NULL;
    Error *err = NULL;
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_DGRAM, 0, fds), ==, 0);
    address = g_strdup_printf("fd:%d", fds[0]);
    g_assert_null(snap_qmp_new(address, &err));
    assert_why(0, 0, "Not a stream socket", &err);
    close(fds[0]);
    close(fds[1]);
}

/**
 * Place: where a server may listen
 * @dir: of it
 * @path: of the socket
 * @fd: listens
 */
typedef struct Place {
    char *dir;
    char *path;
    int fd;
} Place;

static void place_set_up(Place *p, gconstpointer data)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };

    p->dir = g_dir_make_tmp("snap-XXXXXX", NULL);
    p->path = g_build_filename(p->dir, "qmp", NULL);
    pstrcpy(addr.sun_path, sizeof(addr.sun_path), p->path);
    p->fd = qemu_socket(AF_UNIX, SOCK_STREAM, 0);
    g_assert_cmpint(bind(p->fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    g_assert_cmpint(listen(p->fd, 0), ==, 0);
}

static void place_tear_down(Place *p, gconstpointer data)
{
    if (p->fd >= 0) {
        close(p->fd);
    }
    unlink(p->path);
    rmdir(p->dir);
    g_free(p->path);
    g_free(p->dir);
}

/* Another client, which the server may not have accepted yet */
static int connect_other(const Place *p)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    int fd = qemu_socket(AF_UNIX, SOCK_STREAM, 0);

    pstrcpy(addr.sun_path, sizeof(addr.sun_path), p->path);
    g_assert_cmpint(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), ==, 0);
    return fd;
}

/* A server accepts the next client, and follows a script that connects. */
static void serve(Fixture *f, const Place *p)
{
    int fd = accept(p->fd, NULL, NULL);

    g_assert_cmpint(fd, >=, 0);
    f->server = (Server) { .script = connects, .chunk = SIZE_MAX, .fd = -1 };
    f->server.ioc = QIO_CHANNEL(qio_channel_socket_new_fd(fd, &error_abort));
    qio_channel_set_follow_coroutine_ctx(f->server.ioc, true);
    g_unix_set_fd_nonblocking(fd, true, NULL);
    qemu_coroutine_enter(qemu_coroutine_create(server_entry, &f->server));
}

static void check_connects_to(Place *p, const char *prefix)
{
    g_autofree char *address = g_strconcat(prefix, p->path, NULL);
    Fixture f = { .qmp = snap_qmp_new(address, &error_abort) };
    Task task = { .f = &f, .run = run_connect };

    assert_task_waits(&task);
    serve(&f, p);
    poll_until(&task.done);
    g_assert_cmpint(task.ret, ==, 0);
    snap_qmp_free(f.qmp);
    settle();
    object_unref(OBJECT(f.server.ioc));
}

static void test_connect_path(Place *p, gconstpointer data)
{
    check_connects_to(p, "");
    check_connects_to(p, "unix:");
}

static void coroutine_fn fail_at_path(void *opaque)
{
    Fixture *f = opaque;
    Error *err = NULL;
    int ret = snap_qmp_connect(f->qmp, 5 * SHORT_NS, &err);

    assert_why(ret, ret, f->data, &err);
}

static void check_no_connection(const Place *p, const char *why)
{
    Fixture f = { .qmp = snap_qmp_new(p->path, &error_abort), .data = why };

    run_in_coroutine(fail_at_path, &f);
    snap_qmp_free(f.qmp);
    settle();
}

static void test_nobody_listens(Place *p, gconstpointer data)
{
    close(p->fd);
    check_no_connection(p, "Could not connect to QMP monitor");
    p->fd = -1;
    unlink(p->path);
    check_no_connection(p, "No such file or directory");
}

static void test_busy(Place *p, gconstpointer data)
{
    int other = connect_other(p);

    check_no_connection(p, "another one may be connected");
    close(other);
}

static void test_busy_for_a_while(Place *p, gconstpointer data)
{
    int other = connect_other(p);
    Fixture f = { .qmp = snap_qmp_new(p->path, &error_abort) };
    Task task = { .f = &f, .run = run_connect };

    assert_task_waits(&task);
    close(accept(p->fd, NULL, NULL));
    while (!task.done) {
        struct pollfd pollfd = { .fd = p->fd, .events = POLLIN };

        if (!f.server.ioc && poll(&pollfd, 1, 0) > 0) {
            serve(&f, p);
        }
        aio_poll(qemu_get_aio_context(), true);
    }
    g_assert_cmpint(task.ret, ==, 0);
    snap_qmp_free(f.qmp);
    settle();
    object_unref(OBJECT(f.server.ioc));
    close(other);
}

static void test_cancel_busy(Place *p, gconstpointer data)
{
    int other = connect_other(p);
    Fixture f = { .qmp = snap_qmp_new(p->path, &error_abort) };
    Task task = { .f = &f, .run = run_connect };

    assert_task_waits(&task);
    snap_qmp_cancel(f.qmp);
    assert_task_cancelled(&task);
    snap_qmp_free(f.qmp);
    close(other);
}

static const Test tests[] = {
    { "greeting/may-offer-nothing-out-of-band", test_without_oob },
    { "greeting/then-silence-is-a-timeout", test_silent_afterwards },
    { "greeting/then-refused-capabilities-are-an-error",
      test_refused_capabilities },
    { "reply/nested-endlessly-is-refused", test_endless_nesting },
    { "reply/endless-string-is-refused", test_endless_string },
    { "reply/endless-list-is-refused", test_endless_list },
    { "reply/endless-word-is-refused", test_endless_word },
    { "reply/long-error-is-cut", test_long_error },
    { "reply/may-be-large", test_large_result },
    { "reply/may-be-nested-deeply", test_nested_result },
    { "command/has-its-arguments", test_arguments },
    { "command/takes-a-descriptor-along", test_fd },
    { "command/with-a-bad-descriptor-fails", test_bad_fd },
    { "command/out-of-band-overtakes", test_oob },
    { "command/in-band-waits-for-its-turn", test_one_at_a_time },
    { "command/may-be-large", test_large_command },
    { "event/is-taken-by-name-and-data", test_events },
    { "event/that-is-discarded-is-not-found", test_discard },
    { "event/before-the-end-can-be-taken", test_last_events },
    { "event/the-last-ones-are-kept", test_too_many_events },
    { "event/less-are-kept-if-they-are-large", test_large_events },
    { "event/goes-to-who-waits-for-it", test_two_waiters },
    { "cancel/in-a-coroutine", test_cancel_in_coroutine },
    { "cancel/late-replies-are-ignored", test_late_reply },
    { "cancel/in-the-middle-of-a-command-is-the-end", test_cut_off_command },
    { "free/in-a-coroutine", test_free_in_coroutine },
    { "free/unused", test_free_unused },
    { "address/of-a-datagram-socket-is-refused", test_datagram_socket },
};

static const struct {
    const char *path;
    void (*fn)(Place *p, gconstpointer data);
} path_tests[] = {
    { "is-connected-to", test_connect_path },
    { "where-nobody-listens-is-an-error", test_nobody_listens },
    { "busy-is-explained", test_busy },
    { "busy-is-waited-for", test_busy_for_a_while },
    { "busy-can-be-cancelled", test_cancel_busy },
};

int main(int argc, char **argv)
{
    main_loop_tests_init(&argc, &argv);
    ADD_TESTS("/snap/qmp/", tests, call_test);
    ADD_TESTS("/snap/qmp/greeting/", greeting_cases, test_greeting);
    ADD_TESTS("/snap/qmp/reply/", reply_cases, test_reply);
    ADD_TESTS("/snap/qmp/class/", class_cases, test_class);
    ADD_TESTS("/snap/qmp/cancel/ends-wait-for-", cancel_cases, test_cancel);
    ADD_TESTS("/snap/qmp/free/ends-wait-for-", cancel_cases, test_free);
    ADD_TESTS("/snap/qmp/address/refused-", address_cases, test_bad_address);
    ADD_FIXTURE_TESTS("/snap/qmp/path/", path_tests, Place, place_set_up,
                      place_tear_down);
    return g_test_run();
}
