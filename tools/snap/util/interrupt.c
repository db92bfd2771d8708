/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SIGINT, SIGTERM and SIGHUP: as events, and while the main thread is blocked
 *
 * The signals are blocked, so that the kernel keeps them until somebody reads
 * them from a signalfd.  At any time, at most one does, depending on what the
 * main thread does:
 *
 *   it runs the main loop     a handler in the main AioContext
 *                             (snap_interrupt_watch)
 *   a call may block it       a thread that exists for that time only
 *   neither, briefly          nobody: the signal stays pending
 *
 * Calls that block are those that open an image or a connection: drivers run a
 * main loop of their own there, which cannot be left, or wait in a library.
 * Nothing can be unwound then, so the thread does what has to be done and ends
 * the process.  The main thread joins it when the call has returned, so it
 * cannot go on while the process is being ended.
 *
 * Threads that a library has started before main(), and threads of drivers, may
 * not have the signals blocked, and the kernel delivers a signal to any thread
 * that lets it.  Such a thread blocks the signal, and sends it to the process
 * again.
 */

#include "qemu/osdep.h"
#include <poll.h>
#include <sys/signalfd.h>
#include <ucontext.h>
#include "block/aio.h"
#include "qemu/lockable.h"
#include "qemu/main-loop.h"
#include "qemu/thread.h"
#include "snap/util/interrupt.h"

/* Something to do before the process ends */
typedef struct Action {
    void (*func)(void *opaque);
    void *opaque;
} Action;

struct SnapInterrupt {
    /* constant */
    void (*end)(void *opaque);
    void *opaque;
    int fd;                         /* -1: signals have their usual effect */
    EventNotifier unblocked;        /* tells @thread to return */

    /* used by the main thread only */
    void (*watch)(void *opaque);    /* NULL if nobody does */
    void *watch_opaque;
    bool signalled;                 /* @watch was called */
    unsigned depth;                 /* calls that may block */
    QemuThread thread;

    /* the thread that ends the process does not release this */
    QemuMutex lock;
    GArray *actions;
};

static void on_stray_signal(int number, siginfo_t *info, void *context)
{
    ucontext_t *interrupted = context;

    /* What the thread's mask is when this returns */
    sigaddset(&interrupted->uc_sigmask, number);
    kill(getpid(), number);
}

static void signal_set(sigset_t *set)
{
    static const int numbers[] = { SIGINT, SIGTERM, SIGHUP };
    struct sigaction old;

    sigemptyset(set);
    for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++) {
        if (sigaction(numbers[i], NULL, &old) == 0 &&
            old.sa_handler != SIG_IGN) {
            sigaddset(set, numbers[i]);
        }
    }
}

static void catch_stray_signals(const sigset_t *set)
{
    struct sigaction action = {
        .sa_sigaction = on_stray_signal,
        .sa_flags = SA_SIGINFO | SA_RESTART,
        .sa_mask = *set,
    };

    for (int number = 1; number < NSIG; number++) {
        if (sigismember(set, number) == 1) {
            sigaction(number, &action, NULL);
        }
    }
}

SnapInterrupt *snap_interrupt_new(void (*end)(void *opaque), void *opaque)
{
    SnapInterrupt *interrupt = g_new(SnapInterrupt, 1);
    sigset_t set;

    *interrupt = (SnapInterrupt) {
        .end = end,
        .opaque = opaque,
        .fd = -1,
        .actions = g_array_new(false, false, sizeof(Action)),
    };
    qemu_mutex_init(&interrupt->lock);
    signal_set(&set);
    if (event_notifier_init(&interrupt->unblocked, false) == 0) {
        interrupt->fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    }
    if (interrupt->fd >= 0) {
        pthread_sigmask(SIG_BLOCK, &set, NULL);
        catch_stray_signals(&set);
    }
    return interrupt;
}

void snap_interrupt_free(SnapInterrupt *interrupt)
{
    if (!interrupt) {
        return;
    }
    event_notifier_cleanup(&interrupt->unblocked);
    if (interrupt->fd >= 0) {
        close(interrupt->fd);
    }
    qemu_mutex_destroy(&interrupt->lock);
    g_array_unref(interrupt->actions);
    g_free(interrupt);
}

/* --- the main loop --- */

static void on_signal(void *opaque)
{
    SnapInterrupt *interrupt = opaque;
    struct signalfd_siginfo info;

    if (read(interrupt->fd, &info, sizeof(info)) == sizeof(info)) {
        interrupt->signalled = true;
        interrupt->watch(interrupt->watch_opaque);
    }
}

static void set_handler(SnapInterrupt *interrupt, bool on)
{
    if (interrupt->fd >= 0) {
        aio_set_fd_handler(qemu_get_aio_context(), interrupt->fd,
                           on ? on_signal : NULL, NULL, NULL, NULL, interrupt);
    }
}

void snap_interrupt_watch(SnapInterrupt *interrupt, void (*func)(void *opaque),
                          void *opaque)
{
    GLOBAL_STATE_CODE();
    if (interrupt) {
        interrupt->watch = func;
        interrupt->watch_opaque = opaque;
        set_handler(interrupt, func);
    }
}

/* --- the end of the process --- */

void snap_interrupt_add(SnapInterrupt *interrupt, void (*func)(void *opaque),
                        void *opaque)
{
    Action action = { .func = func, .opaque = opaque };

    if (interrupt) {
        QEMU_LOCK_GUARD(&interrupt->lock);
        g_array_append_val(interrupt->actions, action);
    }
}

void snap_interrupt_remove(SnapInterrupt *interrupt,
                           void (*func)(void *opaque), void *opaque)
{
    if (!interrupt) {
        return;
    }
    QEMU_LOCK_GUARD(&interrupt->lock);
    for (unsigned i = interrupt->actions->len; i-- > 0; ) {
        Action *action = &g_array_index(interrupt->actions, Action, i);

        if (action->func == func && action->opaque == opaque) {
            g_array_remove_index(interrupt->actions, i);
            return;
        }
    }
}

static void G_NORETURN end_process(SnapInterrupt *interrupt)
{
    qemu_mutex_lock(&interrupt->lock);
    for (unsigned i = interrupt->actions->len; i-- > 0; ) {
        Action *action = &g_array_index(interrupt->actions, Action, i);

        action->func(action->opaque);
    }
    interrupt->end(interrupt->opaque);
    g_assert_not_reached();
}

/* --- calls that block --- */

static void *wait_for_signal(void *opaque)
{
    SnapInterrupt *interrupt = opaque;
    struct pollfd fds[] = {
        { .fd = event_notifier_get_fd(&interrupt->unblocked),
          .events = POLLIN },
        { .fd = interrupt->fd, .events = POLLIN },
    };

    while (!fds[0].revents && !fds[1].revents) {
        poll(fds, ARRAY_SIZE(fds), -1);
    }
    /* If the call has returned, the main thread takes the signal. */
    if (!fds[0].revents) {
        end_process(interrupt);
    }
    return NULL;
}

void snap_interrupt_begin_blocking(SnapInterrupt *interrupt)
{
    GLOBAL_STATE_CODE();
    if (!interrupt || interrupt->fd < 0 || interrupt->depth++) {
        return;
    }
    if (interrupt->signalled) {
        end_process(interrupt);
    }
    if (interrupt->watch) {
        set_handler(interrupt, false);
    }
    qemu_thread_create(&interrupt->thread, "signals", wait_for_signal,
                       interrupt, QEMU_THREAD_JOINABLE);
}

void snap_interrupt_end_blocking(SnapInterrupt *interrupt)
{
    GLOBAL_STATE_CODE();
    if (!interrupt || interrupt->fd < 0 || --interrupt->depth) {
        return;
    }
    event_notifier_set(&interrupt->unblocked);
    qemu_thread_join(&interrupt->thread);
    event_notifier_test_and_clear(&interrupt->unblocked);
    if (interrupt->watch) {
        set_handler(interrupt, true);
    }
}
