/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A source that writes to a pipe, with pauses
 */

#ifndef SNAP_TESTS_STREAM_SOURCE_H
#define SNAP_TESTS_STREAM_SOURCE_H

#include "io/channel-file.h"
#include "read-stream.h"

/**
 * Source: what is written to a pipe, in pieces
 * @pieces: up to the first one that is NULL
 * @pause_ms: between two pieces
 * @closes: close the pipe another such pause after the last piece
 */
typedef struct Source {
    const GByteArray *pieces[4];
    unsigned pause_ms;
    bool closes;
    int fd;
} Source;

static inline void *source_run(void *opaque)
{
    Source *source = opaque;

    for (int i = 0; source->pieces[i]; i++) {
        const GByteArray *piece = source->pieces[i];

        if (i) {
            g_usleep(source->pause_ms * 1000);
        }
        g_assert_cmpint(write(source->fd, piece->data, piece->len), ==,
                        piece->len);
    }
    if (source->closes) {
        g_usleep(source->pause_ms * 1000);
        close(source->fd);
    }
    return NULL;
}

static inline Result *read_source(Source *source)
{
    g_autoptr(QIOChannelFile) ioc = NULL;
    Result *res;
    GThread *thread;
    int fds[2];

    g_unix_open_pipe(fds, FD_CLOEXEC, NULL);
    g_unix_set_fd_nonblocking(fds[0], true, NULL);
    ioc = qio_channel_file_new_fd(fds[0]);
    source->fd = fds[1];

    thread = g_thread_new("source", source_run, source);
    res = read_channel(QIO_CHANNEL(ioc), MUCH_ROOM);
    g_thread_join(thread);
    if (!source->closes) {
        close(fds[1]);
    }
    return res;
}

#endif /* SNAP_TESTS_STREAM_SOURCE_H */
