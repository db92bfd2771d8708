/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A client of QEMU's monitor (QMP)
 *
 * One coroutine, the reader, reads from the time of the connection until that
 * fails, and passes on what comes:
 *
 *   greeting   to snap_qmp_connect(), which waits for it
 *   reply      to the call with the same id
 *   event      to the first waiter whose filter matches, or to the queue
 *
 * The others sleep until the reader, a timer or snap_qmp_cancel() wakes them,
 * and then look at what they wait for, and at the state of the client.  There
 * are two reasons to give up: the client is cancelled, which can be undone, or
 * the connection has failed, which cannot.  The first failure is kept, and all
 * functions return it from then on.
 *
 * In-band commands are sent one at a time.  QEMU would execute them one after
 * the other anyway, and of descriptors that come with several commands, it
 * keeps only the last ones.  Out-of-band commands overtake them, which is why
 * replies are matched by their ids.
 *
 * A call whose coroutine was cancelled stays in the list until its reply has
 * come: otherwise that would be a reply to no command, which is an error.
 *
 * QEMU is not trusted: what it sends is limited in size and, by QEMU's own
 * parser, in depth; and quoted in errors without control characters.
 */

#include "qemu/osdep.h"
#include <sys/un.h>
#include "block/aio.h"
#include "io/channel-socket.h"
#include "qapi/error.h"
#include "qapi/qapi-types-error.h"
#include "qapi/util.h"
#include "qemu/ctype.h"
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "qemu/queue.h"
#include "qemu/sockets.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "qobject/json-parser.h"
#include "qobject/qjson.h"
#include "qobject/qlist.h"
#include "qobject/qnum.h"
#include "qobject/qstring.h"
#include "snap/trace.h"
#include "snap/util/task.h"
#include "snap/vm/qmp.h"

/* The largest message that is accepted: a QDict is much larger than its text */
#define MAX_MESSAGE (16 * MiB)
#define MAX_OBJECTS (64 * KiB)

/* About the memory of the events in the queue; a single one may be larger */
#define MAX_EVENT_BYTES (16 * MiB)

/* How much of QEMU's text an error quotes, in bytes */
#define MAX_QUOTE 1000

/* Bytes to read at a time */
#define READ_SIZE (16 * KiB)

/* How often to try to connect */
#define RETRY_NS (INT64_C(20) * SCALE_MS)

typedef enum CallState {
    CALL_AWAITED,               /* by its coroutine */
    CALL_ABANDONED,             /* that was cancelled; in the list still */
    CALL_ANSWERED,              /* and not in the list any more */
} CallState;

/* A command that was sent, or is about to be */
typedef struct Call {
    int64_t id;
    CallState state;
    QObject *result;            /* NULL if QEMU has refused the command */
    Error *err;
    QemuCoSleep sleep;
    QTAILQ_ENTRY(Call) next;
} Call;

/* Somebody who waits for an event */
typedef struct Waiter {
    const SnapQMPFilter *filter;
    QDict *event;               /* NULL while it is in the list */
    QemuCoSleep sleep;
    QTAILQ_ENTRY(Waiter) next;
} Waiter;

/* An event that nobody has taken */
typedef struct Event {
    QDict *event;
    size_t size;                /* see message_size() */
    QTAILQ_ENTRY(Event) next;
} Event;

/* What to execute, and how */
typedef struct Command {
    const char *name;
    const QDict *arguments;     /* or NULL */
    int fd;                     /* or -1 */
    bool oob;
} Command;

struct SnapQMP {
    unsigned refcnt;            /* the user, the reader, and who waits */
    char *name;                 /* as given, for messages */
    struct sockaddr_un path;    /* empty if a descriptor was given */
    QIOChannelSocket *sioc;     /* NULL until connected */
    bool made_nonblocking;      /* O_NONBLOCK was clear before */

    /* why nobody may wait any more */
    bool cancelled;
    int ret;                    /* negative if the connection has failed */
    Error *err;

    /* what the reader reads */
    JSONMessageParser parser;
    size_t nb_bytes;            /* of the message that has begun */
    size_t nb_objects;

    /* snap_qmp_connect() */
    QDict *greeting;            /* NULL until it has come */
    QEMUTimer timeout;
    QemuCoSleep connect_sleep;

    CoMutex in_band;            /* of a command until its reply */
    CoMutex write;              /* of a message */
    int64_t last_id;
    QTAILQ_HEAD(, Call) calls;  /* without a reply */
    QTAILQ_HEAD(, Waiter) waiters;
    QTAILQ_HEAD(, Event) events;
    unsigned nb_events;
    size_t event_bytes;
};

/* --- states --- */

/* Returns: 0 if it makes sense to wait; otherwise -errno with @errp set */
static int qmp_status(const SnapQMP *qmp, Error **errp)
{
    if (qmp->cancelled) {
        error_setg(errp, "Cancelled");
        return -ECANCELED;
    }
    if (qmp->ret < 0) {
        error_propagate(errp, error_copy(qmp->err));
    }
    return qmp->ret;
}

static void coroutine_fn wake_all_entry(void *opaque)
{
    SnapQMP *qmp = opaque;
    Coroutine *writer;
    Waiter *waiter;
    Call *call;

    qemu_co_sleep_wake(&qmp->connect_sleep);
    QTAILQ_FOREACH(call, &qmp->calls, next) {
        qemu_co_sleep_wake(&call->sleep);
    }
    QTAILQ_FOREACH(waiter, &qmp->waiters, next) {
        qemu_co_sleep_wake(&waiter->sleep);
    }
    if (qmp->sioc) {
        qio_channel_wake_read(QIO_CHANNEL(qmp->sioc));
        /* qio_channel_yield() lets others than its handlers wake it, too. */
        writer = qatomic_xchg(&QIO_CHANNEL(qmp->sioc)->write_coroutine, NULL);
        if (writer) {
            aio_co_wake(writer);
        }
    }
}

/*
 * Let all that wait look at the state again.  Those that are woken in a
 * coroutine run when that ends, so nobody changes the lists meanwhile.
 */
static void wake_all(SnapQMP *qmp)
{
    qemu_coroutine_enter(qemu_coroutine_create(wake_all_entry, qmp));
}

/* Only the first failure counts.  Takes over @err. */
static void qmp_fail(SnapQMP *qmp, int ret, Error *err)
{
    if (qmp->ret < 0) {
        error_free(err);
        return;
    }
    trace_snap_qmp_fail(qmp->name, ret, error_get_pretty(err));
    qmp->ret = ret;
    qmp->err = err;
    wake_all(qmp);
}

static void free_events(SnapQMP *qmp, unsigned max_events, size_t max_bytes)
{
    Event *event;

    while (qmp->nb_events > max_events || qmp->event_bytes > max_bytes) {
        event = QTAILQ_FIRST(&qmp->events);
        QTAILQ_REMOVE(&qmp->events, event, next);
        qmp->nb_events--;
        qmp->event_bytes -= event->size;
        qobject_unref(event->event);
        g_free(event);
    }
}

static void call_free(Call *call)
{
    qobject_unref(call->result);
    error_free(call->err);
    g_free(call);
}

/* The flag is shared by all who hold the descriptor. */
static void restore_blocking(SnapQMP *qmp)
{
    int flags = fcntl(qmp->sioc->fd, F_GETFL);

    if (flags >= 0 && qmp->made_nonblocking) {
        fcntl(qmp->sioc->fd, F_SETFL, flags & ~O_NONBLOCK);
    }
}

static void qmp_destroy(SnapQMP *qmp)
{
    Call *call, *next;

    assert(QTAILQ_EMPTY(&qmp->waiters));
    QTAILQ_FOREACH_SAFE(call, &qmp->calls, next, next) {
        assert(call->state == CALL_ABANDONED);
        call_free(call);
    }
    free_events(qmp, 0, 0);
    if (qmp->sioc) {
        restore_blocking(qmp);
        object_unref(OBJECT(qmp->sioc));
    }
    timer_del(&qmp->timeout);
    json_message_parser_destroy(&qmp->parser);
    qobject_unref(qmp->greeting);
    error_free(qmp->err);
    g_free(qmp->name);
    g_free(qmp);
}

static void qmp_unref(SnapQMP *qmp)
{
    if (!--qmp->refcnt) {
        qmp_destroy(qmp);
    }
}

void snap_qmp_free(SnapQMP *qmp)
{
    Error *err = NULL;

    GLOBAL_STATE_CODE();
    if (qmp) {
        error_setg(&err, "The connection to QMP monitor '%s' is closed",
                   qmp->name);
        qmp_fail(qmp, -ECANCELED, err);
        qmp_unref(qmp);
    }
}

void snap_qmp_cancel(SnapQMP *qmp)
{
    GLOBAL_STATE_CODE();
    trace_snap_qmp_cancel(qmp->name);
    qmp->cancelled = true;
    qmp->refcnt++;
    wake_all(qmp);
    qmp_unref(qmp);
}

void snap_qmp_reset_cancel(SnapQMP *qmp)
{
    GLOBAL_STATE_CODE();
    qmp->cancelled = false;
}

/* --- what comes from QEMU --- */

/* Returns: as much of @text as an error can quote */
static char *quote(const char *text)
{
    char *copy = g_strndup(text, MAX_QUOTE);

    for (char *p = copy; *p; p++) {
        if (qemu_iscntrl(*p)) {
            *p = ' ';
        }
    }
    return copy;
}

static void bad_message(SnapQMP *qmp, const char *why)
{
    g_autofree char *quoted = quote(why);
    Error *err = NULL;

    if (qmp->greeting) {
        error_setg(&err, "QMP monitor '%s' sent an invalid message: %s",
                   qmp->name, quoted);
    } else {
        error_setg(&err, "'%s' is not a QMP monitor, which begins with a "
                   "greeting: %s", qmp->name, quoted);
    }
    qmp_fail(qmp, -EPROTO, err);
}

static void take_greeting(SnapQMP *qmp, QDict *message)
{
    QDict *greeting = qobject_to(QDict, qdict_get(message, "QMP"));

    if (!greeting || !qobject_to(QList, qdict_get(greeting, "capabilities"))) {
        bad_message(qmp, "its first message is another one");
        return;
    }
    qmp->greeting = qobject_ref(greeting);
    qemu_co_sleep_wake(&qmp->connect_sleep);
}

static bool filter_matches(const SnapQMPFilter *filter, const QDict *event)
{
    g_autoptr(QDict) data = NULL;

    if (filter->name &&
        !g_str_equal(filter->name, qdict_get_str(event, "event"))) {
        return false;
    }
    data = qdict_haskey(event, "data") ?
           qobject_ref(qdict_get_qdict(event, "data")) : qdict_new();
    return !filter->match || filter->match(data, filter->opaque);
}

static void queue_event(SnapQMP *qmp, QDict *message, size_t size)
{
    Event *event = g_new(Event, 1);

    free_events(qmp, SNAP_QMP_MAX_EVENTS - 1,
                MAX_EVENT_BYTES - MIN(size, MAX_EVENT_BYTES));
    *event = (Event) { .event = qobject_ref(message), .size = size };
    QTAILQ_INSERT_TAIL(&qmp->events, event, next);
    qmp->nb_events++;
    qmp->event_bytes += size;
}

static void take_event(SnapQMP *qmp, QDict *message, size_t size)
{
    Waiter *waiter;

    if (!qdict_get_try_str(message, "event") ||
        (qdict_haskey(message, "data") &&
         !qobject_to(QDict, qdict_get(message, "data")))) {
        bad_message(qmp, "an event without a name, or with other data than an "
                    "object");
        return;
    }
    trace_snap_qmp_event(qmp->name, qdict_get_str(message, "event"));
    QTAILQ_FOREACH(waiter, &qmp->waiters, next) {
        if (filter_matches(waiter->filter, message)) {
            waiter->event = qobject_ref(message);
            QTAILQ_REMOVE(&qmp->waiters, waiter, next);
            qemu_co_sleep_wake(&waiter->sleep);
            return;
        }
    }
    queue_event(qmp, message, size);
}

/* Returns: NULL if @id is not that of a command without a reply */
static Call *find_call(const SnapQMP *qmp, QObject *id)
{
    QNum *number = qobject_to(QNum, id);
    int64_t value;
    Call *call;

    if (number && qnum_get_try_int(number, &value)) {
        QTAILQ_FOREACH(call, &qmp->calls, next) {
            if (call->id == value) {
                return call;
            }
        }
    }
    return NULL;
}

static void call_answer(SnapQMP *qmp, Call *call, QObject *result, Error *err)
{
    bool awaited = call->state == CALL_AWAITED;

    trace_snap_qmp_reply(qmp->name, call->id, !err);
    QTAILQ_REMOVE(&qmp->calls, call, next);
    call->state = CALL_ANSWERED;
    call->result = qobject_ref(result);
    call->err = err;
    if (awaited) {
        qemu_co_sleep_wake(&call->sleep);
    } else {
        call_free(call);
    }
}

/* Returns: @error, which is valid, as an Error */
static Error *error_of_qemu(const QDict *error)
{
    g_autofree char *desc = quote(qdict_get_str(error, "desc"));
    int klass = qapi_enum_parse(&QapiErrorClass_lookup,
                                qdict_get_str(error, "class"),
                                QAPI_ERROR_CLASS_GENERICERROR, NULL);
    Error *err = NULL;

    error_set(&err, (ErrorClass)klass, "%s", desc);
    return err;
}

static void take_error(SnapQMP *qmp, const QDict *message)
{
    const QDict *error = qobject_to(QDict, qdict_get(message, "error"));
    Call *call = find_call(qmp, qdict_get(message, "id"));
    Error *err = NULL;

    if (!error || !qdict_get_try_str(error, "class") ||
        !qdict_get_try_str(error, "desc")) {
        bad_message(qmp, "an error without a class or a description");
        return;
    }
    err = error_of_qemu(error);
    if (call) {
        call_answer(qmp, call, NULL, err);
    } else if (!qdict_haskey(message, "id")) {
        error_prepend(&err, "QMP monitor '%s' could not read a command: ",
                      qmp->name);
        qmp_fail(qmp, -EPROTO, err);
    } else {
        error_free(err);
        bad_message(qmp, "a reply to no command");
    }
}

static void take_return(SnapQMP *qmp, const QDict *message)
{
    Call *call = find_call(qmp, qdict_get(message, "id"));

    if (call) {
        call_answer(qmp, call, qdict_get(message, "return"), NULL);
    } else {
        bad_message(qmp, "a reply to no command");
    }
}

static void take_message(SnapQMP *qmp, QDict *message, size_t size)
{
    bool has_return = qdict_haskey(message, "return");
    bool has_error = qdict_haskey(message, "error");

    if (!qmp->greeting) {
        take_greeting(qmp, message);
    } else if (has_return + has_error + qdict_haskey(message, "event") > 1) {
        bad_message(qmp, "more than one of a return value, an error and an "
                    "event");
    } else if (has_return) {
        take_return(qmp, message);
    } else if (has_error) {
        take_error(qmp, message);
    } else if (qdict_haskey(message, "event")) {
        take_event(qmp, message, size);
    } else {
        bad_message(qmp, "neither a reply nor an event");
    }
}

/* Returns: about how many bytes of memory the parsed message takes */
static size_t message_size(const SnapQMP *qmp)
{
    return qmp->nb_bytes + qmp->nb_objects * sizeof(QDict);
}

/* Called by the parser, which hands over @json and @err. */
static void message_parsed(void *opaque, QObject *json, Error *err)
{
    SnapQMP *qmp = opaque;
    size_t size = message_size(qmp);
    QDict *message = qobject_to(QDict, json);

    qmp->nb_bytes = 0;
    qmp->nb_objects = 0;
    if (message) {
        take_message(qmp, message, size);
    } else {
        bad_message(qmp, err ? error_get_pretty(err) : "not an object");
    }
    qobject_unref(json);
    error_free(err);
}

/* One by one, as the parser does not say how long a message is. */
static void parse_bytes(SnapQMP *qmp, const char *bytes, size_t size)
{
    for (size_t i = 0; i < size && !qmp->ret; i++) {
        if (!qmp->nb_bytes && qemu_isspace(bytes[i])) {
            continue;
        }
        qmp->nb_bytes++;
        qmp->nb_objects += bytes[i] == '{';
        if (qmp->nb_bytes > MAX_MESSAGE || qmp->nb_objects > MAX_OBJECTS) {
            bad_message(qmp, "too large");
            return;
        }
        json_message_parser_feed(&qmp->parser, &bytes[i], 1);
    }
}

static void connection_closed(SnapQMP *qmp)
{
    Error *err = NULL;

    error_setg(&err, "QMP monitor '%s' closed the connection%s", qmp->name,
               qmp->nb_bytes ? " in the middle of a message" :
               qmp->greeting ? "" : " without a greeting");
    qmp_fail(qmp, -ECONNRESET, err);
}

/* Takes over @err of a read or write, which set @error_number. */
static void connection_failed(SnapQMP *qmp, int error_number, Error *err)
{
    if (error_number == ECONNRESET || error_number == EPIPE) {
        error_free(err);
        connection_closed(qmp);
        return;
    }
    error_prepend(&err, "QMP monitor '%s': ", qmp->name);
    qmp_fail(qmp, -EIO, err);
}

static void coroutine_fn reader_entry(void *opaque)
{
    SnapQMP *qmp = opaque;
    QIOChannel *ioc = QIO_CHANNEL(qmp->sioc);
    g_autofree char *bytes = g_malloc(READ_SIZE);

    while (!qmp->ret) {
        Error *err = NULL;
        ssize_t size = qio_channel_read(ioc, bytes, READ_SIZE, &err);

        if (size == QIO_CHANNEL_ERR_BLOCK) {
            qio_channel_yield(ioc, G_IO_IN);
        } else if (size > 0) {
            parse_bytes(qmp, bytes, size);
            /* Whatever QEMU sends, others have their turn. */
            snap_co_pause();
        } else if (size == 0) {
            connection_closed(qmp);
        } else {
            connection_failed(qmp, errno, err);
        }
    }
    qmp_unref(qmp);
}

/* --- addresses --- */

static bool parse_path(SnapQMP *qmp, const char *path, Error **errp)
{
    qmp->path.sun_family = AF_UNIX;
    if (!path[0]) {
        error_setg(errp, "The path is empty");
        return false;
    }
    if (strlen(path) >= sizeof(qmp->path.sun_path)) {
        error_setg(errp, "The path is longer than %zu bytes",
                   sizeof(qmp->path.sun_path) - 1);
        return false;
    }
    pstrcpy(qmp->path.sun_path, sizeof(qmp->path.sun_path), path);
    return true;
}

static bool check_connected_stream(int fd, Error **errp)
{
    struct sockaddr_storage peer;
    socklen_t peer_size = sizeof(peer), size = sizeof(int);
    int type = 0;

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0 ||
        getpeername(fd, (struct sockaddr *)&peer, &peer_size) < 0) {
        error_setg_errno(errp, errno, "Not a connected socket");
        return false;
    }
    if (type != SOCK_STREAM) {
        error_setg(errp, "Not a stream socket");
        return false;
    }
    return true;
}

/* Takes over @fd, also on errors. */
static int set_socket(SnapQMP *qmp, int fd, Error **errp)
{
    int flags = fcntl(fd, F_GETFL);

    qmp->sioc = qio_channel_socket_new_fd(fd, errp);
    if (!qmp->sioc) {
        close(fd);
        return -EIO;
    }
    qio_channel_set_name(QIO_CHANNEL(qmp->sioc), "snap-qmp");
    /* Waiting belongs into the AioContext of the coroutine that waits. */
    qio_channel_set_follow_coroutine_ctx(QIO_CHANNEL(qmp->sioc), true);
    if (flags >= 0 && !(flags & O_NONBLOCK)) {
        qmp->made_nonblocking = fcntl(fd, F_SETFL, flags | O_NONBLOCK) == 0;
    }
    return 0;
}

static bool parse_fd(SnapQMP *qmp, const char *number, Error **errp)
{
    int fd, dup_fd;

    /* qemu_strtoi() would take white space and a sign as well. */
    if (!qemu_isdigit(number[0]) || qemu_strtoi(number, NULL, 10, &fd) < 0) {
        error_setg(errp, "Invalid descriptor number '%s'", number);
        return false;
    }
    if (!check_connected_stream(fd, errp)) {
        return false;
    }
    dup_fd = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
    if (dup_fd < 0) {
        error_setg_errno(errp, errno, "Could not duplicate descriptor %d", fd);
        return false;
    }
    return set_socket(qmp, dup_fd, errp) == 0;
}

static bool parse_address(SnapQMP *qmp, const char *address, Error **errp)
{
    const char *rest;

    if (strstart(address, "fd:", &rest)) {
        return parse_fd(qmp, rest, errp);
    }
    return parse_path(qmp, strstart(address, "unix:", &rest) ? rest : address,
                      errp);
}

/* --- connecting --- */

static void connect_timed_out(void *opaque)
{
    SnapQMP *qmp = opaque;
    Error *err = NULL;

    if (qmp->greeting) {
        error_setg(&err, "QMP monitor '%s' greets, but does not answer",
                   qmp->name);
    } else {
        error_setg(&err, "QMP monitor '%s' does not answer: it serves one "
                   "client at a time, and another one may be connected",
                   qmp->name);
    }
    qmp_fail(qmp, -ETIMEDOUT, err);
}

SnapQMP *snap_qmp_new(const char *address, Error **errp)
{
    ERRP_GUARD();
    SnapQMP *qmp = g_new0(SnapQMP, 1);

    GLOBAL_STATE_CODE();
    qmp->refcnt = 1;
    qmp->name = g_strdup(address);
    qemu_co_mutex_init(&qmp->in_band);
    qemu_co_mutex_init(&qmp->write);
    QTAILQ_INIT(&qmp->calls);
    QTAILQ_INIT(&qmp->waiters);
    QTAILQ_INIT(&qmp->events);
    json_message_parser_init(&qmp->parser, message_parsed, qmp, NULL);
    aio_timer_init(qemu_get_aio_context(), &qmp->timeout, QEMU_CLOCK_REALTIME,
                   SCALE_NS, connect_timed_out, qmp);
    if (!parse_address(qmp, address, errp)) {
        error_prepend(errp, "Invalid QMP monitor '%s': ", address);
        g_clear_pointer(&qmp, qmp_unref);
    }
    return qmp;
}

/* Returns: a descriptor, or -errno with @errp set */
static int coroutine_fn connect_path(SnapQMP *qmp, Error **errp)
{
    int fd = qemu_socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int ret = fd < 0 ? -errno : 0;

    while (!ret && connect(fd, (struct sockaddr *)&qmp->path,
                           sizeof(qmp->path)) < 0) {
        if (errno != EAGAIN && errno != EINTR) {
            ret = -errno;
            break;
        }
        /* As many others wait already as QEMU lets. */
        qemu_co_sleep_ns_wakeable(&qmp->connect_sleep, QEMU_CLOCK_REALTIME,
                                  RETRY_NS);
        if (qmp_status(qmp, NULL) < 0) {
            close(fd);
            return qmp_status(qmp, errp);
        }
    }
    if (ret < 0) {
        error_setg_errno(errp, -ret, "Could not connect to QMP monitor '%s'",
                         qmp->name);
        if (fd >= 0) {
            close(fd);
        }
        return ret;
    }
    return fd;
}

static int coroutine_fn connect_socket(SnapQMP *qmp, Error **errp)
{
    int fd;

    if (qmp->sioc) {
        return 0;
    }
    fd = connect_path(qmp, errp);
    return fd < 0 ? fd : set_socket(qmp, fd, errp);
}

static int coroutine_fn wait_greeting(SnapQMP *qmp, Error **errp)
{
    qmp->refcnt++;
    qemu_coroutine_enter(qemu_coroutine_create(reader_entry, qmp));
    while (!qmp->greeting && qmp_status(qmp, NULL) == 0) {
        qemu_co_sleep(&qmp->connect_sleep);
    }
    return qmp_status(qmp, errp);
}

bool snap_qmp_has_oob(const SnapQMP *qmp)
{
    QListEntry *entry;

    QLIST_FOREACH_ENTRY(qdict_get_qlist(qmp->greeting, "capabilities"),
                        entry) {
        QString *capability = qobject_to(QString, qlist_entry_obj(entry));

        if (capability && g_str_equal(qstring_get_str(capability), "oob")) {
            return true;
        }
    }
    return false;
}

static int coroutine_fn negotiate(SnapQMP *qmp, Error **errp)
{
    QDict *arguments = snap_qmp_has_oob(qmp) ?
                       qdict_from_jsonf_nofail("{ 'enable': ['oob'] }") : NULL;

    return snap_qmp_execute(qmp, "qmp_capabilities", arguments, NULL, errp);
}

int coroutine_fn snap_qmp_connect(SnapQMP *qmp, int64_t timeout_ns,
                                  Error **errp)
{
    Error *err = NULL;
    int ret;

    assert(!qmp->greeting);
    qmp->refcnt++;
    timer_mod(&qmp->timeout,
              qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + timeout_ns);
    ret = qmp_status(qmp, &err) ?:
          connect_socket(qmp, &err) ?:
          wait_greeting(qmp, &err) ?:
          negotiate(qmp, &err);
    timer_del(&qmp->timeout);
    if (ret < 0) {
        qmp_fail(qmp, ret, error_copy(err));
        error_propagate(errp, err);
    }
    qmp_unref(qmp);
    return ret;
}

/* --- commands --- */

static GString *command_to_json(const Command *command, int64_t id)
{
    g_autoptr(QDict) message = qdict_new();
    GString *json;

    qdict_put_str(message, command->oob ? "exec-oob" : "execute",
                  command->name);
    if (command->arguments) {
        qdict_put(message, "arguments", qobject_ref(command->arguments));
    }
    qdict_put_int(message, "id", id);
    json = qobject_to_json(QOBJECT(message));
    return g_string_append_c(json, '\n');
}

/* What is missing of a message makes the connection useless. */
static int write_cancelled(SnapQMP *qmp, size_t done, Error **errp)
{
    Error *err = NULL;

    if (done) {
        error_setg(&err, "A command to QMP monitor '%s' was cancelled while it "
                   "was being sent", qmp->name);
        qmp_fail(qmp, -EIO, err);
    }
    return qmp_status(qmp, errp);
}

/* @fd: sent along with the first byte; -1 for none */
static int coroutine_fn write_bytes(SnapQMP *qmp, const char *bytes,
                                    size_t size, int fd, Error **errp)
{
    QIOChannel *ioc = QIO_CHANNEL(qmp->sioc);
    size_t done = 0;

    while (done < size && qmp_status(qmp, NULL) == 0) {
        struct iovec iov = { (char *)bytes + done, size - done };
        bool with_fd = fd >= 0 && !done;
        Error *err = NULL;
        ssize_t ret = qio_channel_writev_full(ioc, &iov, 1,
                                              with_fd ? &fd : NULL, with_fd, 0,
                                              &err);

        if (ret == QIO_CHANNEL_ERR_BLOCK) {
            qio_channel_yield(ioc, G_IO_OUT);
        } else if (ret < 0) {
            connection_failed(qmp, errno, err);
        } else {
            done += ret;
        }
    }
    return done == size ? 0 : write_cancelled(qmp, done, errp);
}

static int coroutine_fn send_command(SnapQMP *qmp, const Command *command,
                                     int64_t id, Error **errp)
{
    GString *json = command_to_json(command, id);
    int ret;

    trace_snap_qmp_command(qmp->name, id, command->name);
    qemu_co_mutex_lock(&qmp->write);
    ret = write_bytes(qmp, json->str, json->len, command->fd, errp);
    qemu_co_mutex_unlock(&qmp->write);
    g_string_free(json, true);
    return ret;
}

/* Takes over @call, which is answered. */
static int call_result(Call *call, QObject **result, Error **errp)
{
    int ret = call->err ? -EREMOTEIO : 0;

    error_propagate(errp, g_steal_pointer(&call->err));
    if (!ret && result) {
        *result = g_steal_pointer(&call->result);
    }
    call_free(call);
    return ret;
}

static int coroutine_fn call_wait(SnapQMP *qmp, Call *call, QObject **result,
                                  Error **errp)
{
    while (call->state == CALL_AWAITED && qmp_status(qmp, NULL) == 0) {
        qemu_co_sleep(&call->sleep);
    }
    if (call->state == CALL_ANSWERED) {
        return call_result(call, result, errp);
    }
    call->state = CALL_ABANDONED;
    return qmp_status(qmp, errp);
}

static int coroutine_fn call_command(SnapQMP *qmp, const Command *command,
                                     QObject **result, Error **errp)
{
    Call *call = g_new0(Call, 1);
    int ret;

    assert(qmp->greeting);
    call->id = ++qmp->last_id;
    QTAILQ_INSERT_TAIL(&qmp->calls, call, next);
    ret = send_command(qmp, command, call->id, errp);
    if (ret == 0) {
        return call_wait(qmp, call, result, errp);
    }
    /* QEMU may have answered already what it has not got yet. */
    if (call->state == CALL_AWAITED) {
        QTAILQ_REMOVE(&qmp->calls, call, next);
    }
    call_free(call);
    return ret;
}

static int coroutine_fn execute_in_band(SnapQMP *qmp, const Command *command,
                                        QObject **result, Error **errp)
{
    int ret;

    qemu_co_mutex_lock(&qmp->in_band);
    ret = qmp_status(qmp, errp) ?: call_command(qmp, command, result, errp);
    qemu_co_mutex_unlock(&qmp->in_band);
    return ret;
}

static int coroutine_fn execute_oob(SnapQMP *qmp, const Command *command,
                                    QObject **result, Error **errp)
{
    if (qmp_status(qmp, NULL) == 0 && !snap_qmp_has_oob(qmp)) {
        error_setg(errp, "QMP monitor '%s' executes nothing out-of-band",
                   qmp->name);
        return -ENOTSUP;
    }
    return qmp_status(qmp, errp) ?: call_command(qmp, command, result, errp);
}

static int coroutine_fn execute(SnapQMP *qmp, const Command *command,
                                QObject **result, Error **errp)
{
    ERRP_GUARD();
    int ret;

    GLOBAL_STATE_CODE();
    qmp->refcnt++;
    ret = command->oob ? execute_oob(qmp, command, result, errp) :
                         execute_in_band(qmp, command, result, errp);
    if (ret < 0) {
        error_prepend(errp, "QMP command '%s' failed: ", command->name);
    }
    qobject_unref((QDict *)command->arguments);
    qmp_unref(qmp);
    return ret;
}

int coroutine_fn snap_qmp_execute(SnapQMP *qmp, const char *command,
                                  QDict *arguments, QObject **result,
                                  Error **errp)
{
    return snap_qmp_execute_fd(qmp, command, arguments, -1, result, errp);
}

int coroutine_fn snap_qmp_execute_fd(SnapQMP *qmp, const char *command,
                                     QDict *arguments, int fd,
                                     QObject **result, Error **errp)
{
    const Command c = { .name = command, .arguments = arguments, .fd = fd };

    return execute(qmp, &c, result, errp);
}

int coroutine_fn snap_qmp_execute_oob(SnapQMP *qmp, const char *command,
                                      QDict *arguments, QObject **result,
                                      Error **errp)
{
    const Command c = {
        .name = command,
        .arguments = arguments,
        .fd = -1,
        .oob = true,
    };

    return execute(qmp, &c, result, errp);
}

/* --- events --- */

/* Returns: NULL if no event in the queue will do */
static QDict *take_queued(SnapQMP *qmp, const SnapQMPFilter *filter)
{
    Event *event;
    QDict *taken;

    QTAILQ_FOREACH(event, &qmp->events, next) {
        if (filter_matches(filter, event->event)) {
            QTAILQ_REMOVE(&qmp->events, event, next);
            qmp->nb_events--;
            qmp->event_bytes -= event->size;
            taken = event->event;
            g_free(event);
            return taken;
        }
    }
    return NULL;
}

/* Returns: NULL if none has come until the timeout, or the client gives up */
static QDict *coroutine_fn wait_unqueued(SnapQMP *qmp,
                                         const SnapQMPFilter *filter,
                                         int64_t timeout_ns)
{
    int64_t now_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    int64_t deadline_ns = timeout_ns < 0 ? INT64_MAX : now_ns + timeout_ns;
    g_autofree Waiter *waiter = g_new(Waiter, 1);

    *waiter = (Waiter) { .filter = filter };
    QTAILQ_INSERT_TAIL(&qmp->waiters, waiter, next);
    while (!waiter->event && qmp_status(qmp, NULL) == 0 &&
           (now_ns = qemu_clock_get_ns(QEMU_CLOCK_REALTIME)) < deadline_ns) {
        if (timeout_ns < 0) {
            qemu_co_sleep(&waiter->sleep);
        } else {
            qemu_co_sleep_ns_wakeable(&waiter->sleep, QEMU_CLOCK_REALTIME,
                                      deadline_ns - now_ns);
        }
    }
    if (!waiter->event) {
        QTAILQ_REMOVE(&qmp->waiters, waiter, next);
    }
    return waiter->event;
}

/* Returns: why there is no event, with @errp set */
static int no_event(SnapQMP *qmp, const SnapQMPFilter *filter,
                    int64_t timeout_ns, Error **errp)
{
    ERRP_GUARD();
    int ret = qmp_status(qmp, errp);

    if (!ret) {
        error_setg(errp, "QMP monitor '%s' has not reported it for %" PRId64
                   " ms", qmp->name, timeout_ns / SCALE_MS);
        ret = -ETIMEDOUT;
    }
    error_prepend(errp, "Could not wait for QMP event '%s': ",
                  filter->name ?: "any");
    return ret;
}

int coroutine_fn snap_qmp_wait_event(SnapQMP *qmp, const SnapQMPFilter *filter,
                                     int64_t timeout_ns, QDict **event,
                                     Error **errp)
{
    QDict *taken = NULL;
    int ret = 0;

    GLOBAL_STATE_CODE();
    qmp->refcnt++;
    if (!qmp->cancelled) {
        taken = take_queued(qmp, filter) ?:
                wait_unqueued(qmp, filter, timeout_ns);
    }
    if (!taken) {
        ret = no_event(qmp, filter, timeout_ns, errp);
    } else if (event) {
        *event = taken;
    } else {
        qobject_unref(taken);
    }
    qmp_unref(qmp);
    return ret;
}

void snap_qmp_discard_events(SnapQMP *qmp)
{
    GLOBAL_STATE_CODE();
    free_events(qmp, 0, 0);
}
