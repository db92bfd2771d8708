/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit test of the writer into the reader, through a pipe
 */

#include "qemu/osdep.h"
#include "read-stream.h"
#include "test-table.h"
#include "write-stream.h"

#define MANY    600

static SnapInput *pipe_input(int fd)
{
    g_autoptr(QIOChannel) ioc = pipe_channel(fd);

    return snap_input_new(ioc);
}

static void coroutine_fn write_many(WriteJob *job, SnapStreamWriter *writer)
{
    g_autofree uint8_t *pages = g_malloc(256 * PAGE);
    g_autoptr(GByteArray) b = g_byte_array_new();

    for (int i = 0; i < 256; i++) {
        memset(pages + i * PAGE, i, PAGE);
    }
    put_header(b);
    snap_stream_put(writer, b->data, b->len);
    snap_stream_put_ram_start(writer, NULL);
    for (int i = 0; i < MANY; i++) {
        snap_stream_begin_ram(writer, i == MANY - 1);
        snap_stream_put_page(writer, i % 4, pages + i % 256 * PAGE);
        snap_stream_put_zero_page(writer, VGA_FIRST + i % 2);
        snap_stream_end_ram(writer);
    }
    g_byte_array_set_size(b, 0);
    put_devices(b);
    snap_stream_put(writer, b->data, b->len);
    snap_stream_put_eof(writer, VMDESC, strlen(VMDESC));
    snap_stream_flush(writer, &job->err);
}

static char *log_many(void)
{
    GString *log = g_string_new("setup ");

    for (int i = 0; i < MANY; i++) {
        g_string_append_printf(log, "%spage 0+%x=%02x zero 1+%x eos ",
                               i == MANY - 1 ? "final " : "",
                               i % 4 * PAGE, i % 256, i % 2 * PAGE);
    }
    g_string_append(log, LOG_DEVICES);
    return g_string_free(log, false);
}

static void test_round_trip(void)
{
    g_autoptr(Result) res = result_new();
    g_autofree char *log = log_many();
    ReadJob read_job = { .room = MUCH_ROOM, .res = res };
    WriteJob write_job;
    int fds[2];

    g_unix_open_pipe(fds, FD_CLOEXEC, NULL);
    write_job_init(&write_job, write_many, true);
    write_job.file = pipe_output(fds[1]);
    read_job.input = pipe_input(fds[0]);

    qemu_coroutine_enter(qemu_coroutine_create(write_entry, &write_job));
    g_assert_false(write_job.done);
    qemu_coroutine_enter(qemu_coroutine_create(read_entry, &read_job));
    while (!write_job.done) {
        main_loop_wait(false);
    }
    qemu_fclose(write_job.file);
    while (!read_job.done) {
        main_loop_wait(false);
    }
    snap_input_free(read_job.input);

    g_assert_cmpint(write_job.ret, ==, 0);
    g_assert_cmpint(res->ret, ==, 0);
    g_assert_cmpstr(res->log->str, ==, log);
    g_assert_cmpmem(res->vmdesc->data, res->vmdesc->len,
                    VMDESC, strlen(VMDESC));
    snap_ram_blocks_destroy(&write_job.ram);
}

int main(int argc, char **argv)
{
    main_loop_tests_init(&argc, &argv);
    g_test_add_func("/snap/stream-round-trip/what-is-written-is-read",
                    test_round_trip);
    return g_test_run();
}
