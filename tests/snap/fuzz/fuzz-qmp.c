/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzzer of what a monitor says to its client
 *
 * Input: flags, how much the monitor says at a time and how long it waits
 * before, when the client is cancelled, and what is said.  In the end, the
 * monitor closes the connection.
 */

#include "qemu/osdep.h"
#include "block/aio-wait.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "snap/util/task.h"
#include "snap/vm/qmp.h"
#include "fuzz.h"

/* Flags of an input */
enum {
    GREETED     = 1,            /* before what the input says */
    OUT_OF_BAND = 2,            /* one command is */
    WAITS       = 4,            /* for an event, all the time */
    CANCELLED   = 8,
    FREED       = 16,           /* while it is in use */
};

#define GREETING "{'QMP': {'capabilities': ['oob']}} {'return': {}, 'id': 1}"

/* Nothing depends on time. */
#define TIMEOUT_NS (3600 * NANOSECONDS_PER_SECOND)

/* QEMU's parser loses the second value of a key that is there twice. */
const char *__lsan_default_suppressions(void)
{
    return "leak:parse_pair\n";
}

/**
 * Conversation: a client and a monitor
 * @qmp: NULL when it is freed
 * @fd: of the monitor, which closes it
 * @chunk: bytes that it says at a time
 * @turns: of the main loop that it waits before
 * @cancel_turns: until the client is cancelled or freed
 * @nb_running: coroutines
 * @client_over: nobody needs to say more
 */
typedef struct Conversation {
    SnapQMP *qmp;
    FuzzBytes bytes;
    int fd;
    size_t chunk;
    unsigned turns;
    unsigned cancel_turns;
    uint8_t flags;
    unsigned nb_running;
    bool client_over;
} Conversation;

static void coroutine_fn say(Conversation *c, FuzzBytes bytes)
{
    while (bytes.size && !c->client_over) {
        ssize_t ret = send(c->fd, bytes.data, MIN(bytes.size, c->chunk),
                           MSG_DONTWAIT | MSG_NOSIGNAL);

        fuzz_check(ret > 0 || errno == EAGAIN || errno == EPIPE ||
                   errno == ECONNRESET);
        fuzz_take(&bytes, MAX(ret, 0));
        for (unsigned i = 0; i <= c->turns; i++) {
            snap_co_pause();
        }
    }
}

static void coroutine_fn monitor_entry(void *opaque)
{
    Conversation *c = opaque;

    if (c->flags & GREETED) {
        say(c, (FuzzBytes) { (const uint8_t *)GREETING, strlen(GREETING) });
    }
    say(c, c->bytes);
    close(c->fd);
    c->nb_running--;
}

static void check_outcome(int ret, bool has_result, Error *err)
{
    fuzz_check(ret <= 0);
    fuzz_check(!ret == !err);
    fuzz_check(!ret == has_result);
    error_free(err);
}

static void coroutine_fn execute(SnapQMP *qmp, const char *command, bool oob)
{
    QObject *result = NULL;
    Error *err = NULL;
    int ret = oob ?
        snap_qmp_execute_oob(qmp, command, NULL, &result, &err) :
        snap_qmp_execute(qmp, command, qdict_new(), &result, &err);

    check_outcome(ret, result, err);
    qobject_unref(result);
}

static bool has_status(const QDict *data, void *opaque)
{
    return qdict_haskey(data, "status");
}

static void coroutine_fn wait_event(SnapQMP *qmp, const char *name)
{
    const SnapQMPFilter filter = {
        .name = name,
        .match = name ? has_status : NULL,
    };
    QDict *event = NULL;
    Error *err = NULL;
    int ret = snap_qmp_wait_event(qmp, &filter, -1, &event, &err);

    check_outcome(ret, event, err);
    qobject_unref(event);
}

static void coroutine_fn waiter_entry(void *opaque)
{
    Conversation *c = opaque;

    if (c->qmp) {
        wait_event(c->qmp, "MIGRATION");
    }
    c->nb_running--;
}

static void coroutine_fn out_of_band_entry(void *opaque)
{
    Conversation *c = opaque;

    if (c->qmp) {
        execute(c->qmp, "migrate-pause", true);
    }
    c->nb_running--;
}

static void coroutine_fn canceller_entry(void *opaque)
{
    Conversation *c = opaque;

    for (unsigned i = 0; i < c->cancel_turns; i++) {
        snap_co_pause();
    }
    if (c->qmp && (c->flags & CANCELLED)) {
        snap_qmp_cancel(c->qmp);
        snap_qmp_reset_cancel(c->qmp);
    } else if (c->flags & FREED) {
        snap_qmp_free(g_steal_pointer(&c->qmp));
    }
    c->nb_running--;
}

static void start(Conversation *c, CoroutineEntry *entry)
{
    c->nb_running++;
    aio_co_enter(qemu_get_aio_context(), qemu_coroutine_create(entry, c));
}

static void coroutine_fn client_entry(void *opaque)
{
    Conversation *c = opaque;
    Error *err = NULL;
    int ret = snap_qmp_connect(c->qmp, TIMEOUT_NS, &err);

    check_outcome(ret, !ret, err);
    if (!ret && (c->flags & WAITS)) {
        start(c, waiter_entry);
    }
    if (!ret && (c->flags & OUT_OF_BAND)) {
        start(c, out_of_band_entry);
    }
    for (unsigned i = 0; c->qmp && i < 2; i++) {
        execute(c->qmp, "query-migrate", false);
    }
    for (unsigned i = 0; c->qmp && i < 3; i++) {
        wait_event(c->qmp, i == 1 ? "MIGRATION" : NULL);
    }
    c->client_over = true;
    c->nb_running--;
}

static void converse(Conversation *c)
{
    start(c, client_entry);
    start(c, monitor_entry);
    start(c, canceller_entry);
    while (c->nb_running) {
        aio_poll(qemu_get_aio_context(), true);
    }
    snap_qmp_free(c->qmp);
    while (aio_poll(qemu_get_aio_context(), false)) {
        /* what the client has left to the main loop */
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzBytes bytes = { data, size };
    Conversation c = { .flags = fuzz_u8(&bytes) };
    g_autofree char *address = NULL;
    int fds[2];

    fuzz_check(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    address = g_strdup_printf("fd:%d", fds[0]);
    c.qmp = snap_qmp_new(address, &error_abort);
    c.fd = fds[1];
    close(fds[0]);
    /* Many turns take time. */
    c.chunk = MAX(fuzz_u8(&bytes) ?: SIZE_MAX, size / 256);
    c.turns = fuzz_u8(&bytes) % 4;
    c.cancel_turns = fuzz_u8(&bytes);
    c.bytes = bytes;
    converse(&c);
    return 0;
}
