/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SIGINT, SIGTERM and SIGHUP as events of the main AioContext
 */

#include "qemu/osdep.h"
#include "block/aio.h"
#include "qemu/main-loop.h"
#include "snap/interrupt.h"

#include <sys/signalfd.h>

struct SnapInterrupt {
    void (*func)(void *opaque);
    void *opaque;
    int fd;
};

static void signal_set(sigset_t *set)
{
    sigemptyset(set);
    sigaddset(set, SIGINT);
    sigaddset(set, SIGTERM);
    sigaddset(set, SIGHUP);
}

static void on_signal(void *opaque)
{
    SnapInterrupt *interrupt = opaque;
    struct signalfd_siginfo info;

    if (read(interrupt->fd, &info, sizeof(info)) == sizeof(info)) {
        interrupt->func(interrupt->opaque);
    }
}

SnapInterrupt *snap_interrupt_new(void (*func)(void *opaque), void *opaque)
{
    SnapInterrupt *interrupt = g_new(SnapInterrupt, 1);
    sigset_t set;

    signal_set(&set);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    *interrupt = (SnapInterrupt) {
        .func = func,
        .opaque = opaque,
        .fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK),
    };
    if (interrupt->fd < 0) {
        /* Without a descriptor, the signals do what they always do. */
        pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    } else {
        aio_set_fd_handler(qemu_get_aio_context(), interrupt->fd, on_signal,
                           NULL, NULL, NULL, interrupt);
    }
    return interrupt;
}

void snap_interrupt_free(SnapInterrupt *interrupt)
{
    if (!interrupt) {
        return;
    }
    if (interrupt->fd >= 0) {
        aio_set_fd_handler(qemu_get_aio_context(), interrupt->fd, NULL, NULL,
                           NULL, NULL, NULL);
        close(interrupt->fd);
    }
    g_free(interrupt);
}
