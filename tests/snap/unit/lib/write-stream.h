/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Streams that the writer of migration streams writes
 */

#ifndef SNAP_TESTS_WRITE_STREAM_H
#define SNAP_TESTS_WRITE_STREAM_H

#include "qapi/error.h"
#include "io/channel-file.h"
#include "migration/qemu-file.h"
#include "snap/stream/writer.h"
#include "stream-builder.h"

typedef struct WriteJob WriteJob;
typedef void coroutine_fn WriteFn(WriteJob *job, SnapStreamWriter *writer);

struct WriteJob {
    QEMUFile *file;
    SnapRAMBlocks ram;
    SnapRAMSection section;
    WriteFn *fn;
    int ret;
    Error *err;
    bool done;
};

static inline void coroutine_fn write_entry(void *opaque)
{
    WriteJob *job = opaque;
    g_autoptr(SnapStreamWriter) writer =
        snap_stream_writer_new(job->file, &job->ram, &job->section);

    job->fn(job, writer);
    job->ret = snap_stream_flush(writer, &job->err);
    job->done = true;
}

static inline void write_job_init(WriteJob *job, WriteFn *fn, bool footers)
{
    *job = (WriteJob) {
        .section = { .id = RAM_ID, .footers = footers },
        .fn = fn,
    };
    snap_ram_blocks_init(&job->ram, PAGE_BITS);
    snap_ram_blocks_add(&job->ram, "pc.ram", RAM_LENGTH, 0, &error_abort);
    snap_ram_blocks_add(&job->ram, "vga.vram", VGA_LENGTH, 0, &error_abort);
}

static inline QIOChannel *pipe_channel(int fd)
{
    QIOChannel *ioc = QIO_CHANNEL(qio_channel_file_new_fd(fd));

    qio_channel_set_blocking(ioc, false, &error_abort);
    return ioc;
}

static inline QEMUFile *pipe_output(int fd)
{
    g_autoptr(QIOChannel) ioc = pipe_channel(fd);

    return qemu_file_new_output(ioc);
}

#endif /* SNAP_TESTS_WRITE_STREAM_H */
