/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of saves that fail: a process can go on, and save again
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include "block/aio.h"
#include "block/block-io.h"
#include "qemu/timer.h"
#include "system/qtest.h"
#include "snap/image/image.h"
#include "snap/verb/check.h"
#include "snap/verb/save.h"
#include "snap-coroutine.h"
#include "stream-builder.h"
#include "test-table.h"

#define DISK_SIZE (1 * GiB)
#define OLD "not a snapshot"
#define STEP_MS 20
#define NB_PAGES ((RAM_LENGTH + VGA_LENGTH) / PAGE)

/* What happens one after the other while a save runs, every STEP_MS */
typedef enum Step {
    DONE,
    SEND_START,                 /* as far as RAM's size */
    SEND_PAGES,
    SEND_DEVICES,               /* nothing tells yet that they are all */
    SEND_END,                   /* but for the last byte */
    SEND_LAST,
    SEND_GARBAGE,
    SEND_PING,                  /* after opening the return path */
    CLOSE,
    AWAIT_TABLE,                /* RAM and its table were written */
    AWAIT_NAME,                 /* a new file was committed */
    HANG,                       /* the next write to the image */
    AWAIT_HANG,                 /* there was one */
    INTERRUPT,
} Step;

#define MAX_STEPS 10

/**
 * Case: how a save goes wrong
 * @new: replace a file, instead of writing to a disk
 * @socket: of the source, instead of a pipe
 * @ret: what the save returns; 0 for any error
 * @error: text in it
 * @injection: what blkdebug does to the disk
 */
typedef struct Case {
    const char *path;
    bool new;
    bool socket;
    Step steps[MAX_STEPS];
    int ret;
    const char *error;
    const char *injection;
} Case;

#define NEW         .new = true
#define SOCKET      .socket = true
#define STEPS(...)  .steps = { __VA_ARGS__ }
#define WHOLE       STEPS(SEND_START, SEND_PAGES, SEND_DEVICES, SEND_END, \
                          SEND_LAST, CLOSE)
#define INTERRUPTED .ret = -EINTR, .error = "Interrupted"
#define LEFT(how)   .ret = -ETIMEDOUT, .error = how "Interrupted, and storage"
#define FAILS(what) .injection = "inject-error.0.event=none," \
                    "file.inject-error.0.iotype=" what, .error = "error"

static const Case cases[] = {
    { "bad-stream/at-once", STEPS(SEND_GARBAGE, CLOSE) },
    { "bad-stream/in-ram", STEPS(SEND_START, SEND_PAGES, SEND_GARBAGE, CLOSE) },
    { "bad-stream/in-ram-new", NEW,
      STEPS(SEND_START, SEND_PAGES, SEND_GARBAGE, CLOSE) },
    { "bad-stream/socket", SOCKET,
      STEPS(SEND_START, SEND_PAGES, SEND_GARBAGE, CLOSE) },
    { "bad-stream/ends-before-it-begins", STEPS(CLOSE) },
    { "bad-stream/ends-in-ram", STEPS(SEND_START, SEND_PAGES, CLOSE) },
    { "bad-stream/ends-in-devices",
      STEPS(SEND_START, SEND_PAGES, SEND_DEVICES, CLOSE) },
    { "bad-stream/ends-after-commit",
      STEPS(SEND_START, SEND_PAGES, SEND_DEVICES, SEND_END, CLOSE) },
    { "bad-stream/ends-after-commit-new", NEW,
      STEPS(SEND_START, SEND_PAGES, SEND_DEVICES, SEND_END, AWAIT_NAME,
            CLOSE) },

    { "interrupted/before-a-byte", STEPS(INTERRUPT), INTERRUPTED },
    { "interrupted/before-a-byte-new", NEW, STEPS(INTERRUPT), INTERRUPTED },
    { "interrupted/in-ram", STEPS(SEND_START, SEND_PAGES, INTERRUPT),
      INTERRUPTED },
    { "interrupted/in-ram-new", NEW,
      STEPS(SEND_START, SEND_PAGES, INTERRUPT), INTERRUPTED },
    { "interrupted/in-ram-socket", NEW, SOCKET,
      STEPS(SEND_START, SEND_PAGES, INTERRUPT), INTERRUPTED },
    { "interrupted/in-devices",
      STEPS(SEND_START, SEND_PAGES, SEND_DEVICES, INTERRUPT), INTERRUPTED },
    { "interrupted/answers", NEW, SOCKET,
      STEPS(SEND_START, SEND_PING, SEND_PAGES, INTERRUPT), INTERRUPTED },
    { "interrupted/no-end-after-commit", NEW,
      STEPS(SEND_START, SEND_PAGES, SEND_DEVICES, SEND_END, AWAIT_NAME,
            INTERRUPT) },

    { "storage/write-error", WHOLE, FAILS("write") },
    { "storage/flush-error", WHOLE, FAILS("flush") },
    { "storage/write-error-socket", SOCKET, WHOLE, FAILS("write") },
    { "storage/hangs-at-the-beginning",
      STEPS(HANG, SEND_START, INTERRUPT, INTERRUPT), LEFT("") },
    { "storage/hangs-in-ram", SOCKET,
      STEPS(SEND_START, SEND_PAGES, HANG, SEND_DEVICES, AWAIT_HANG, INTERRUPT,
            INTERRUPT),
      LEFT("") },
    { "storage/hangs-in-commit",
      STEPS(SEND_START, SEND_PAGES, SEND_DEVICES, AWAIT_TABLE, HANG, SEND_END,
            AWAIT_HANG, INTERRUPT, INTERRUPT),
      LEFT("The image must not be used: ") },
};

/**
 * Fixture: a process that saves again and again
 * @path: the image
 * @fds: the channel: the save's end, the source's end
 * @step: the next one
 * @bs: the disk, if storage may hang
 */
typedef struct Fixture {
    char *dir;
    char *path;
    int fds[2];
    const Step *step;
    BlockDriverState *bs;
    bool hangs;
    SnapSave *save;
    QEMUTimer *timer;
} Fixture;

/* --- the source --- */

static void send_bytes(Fixture *f, GByteArray *b)
{
    g_assert_cmpint(write(f->fds[1], b->data, b->len), ==, b->len);
}

static void close_source(Fixture *f)
{
    if (f->fds[1] >= 0) {
        close(f->fds[1]);
    }
    f->fds[1] = -1;
}

static void put_step(GByteArray *b, Step step)
{
    switch (step) {
    case SEND_START:
        put_header(b);
        put_ram_start(b);
        break;
    case SEND_PAGES:
        put_parts(b);
        break;
    case SEND_DEVICES:
        put_devices(b);
        break;
    case SEND_END:
        put_end(b);
        g_byte_array_set_size(b, b->len - 1);
        break;
    case SEND_LAST:
        put_u8(b, '}');
        break;
    case SEND_PING:
        put_command(b, SNAP_CMD_OPEN_RETURN_PATH, NULL, 0);
        put_command(b, SNAP_CMD_PING, "\0\0\0\7", 4);
        break;
    default:
        put_be64(b, UINT64_MAX);
        break;
    }
}

static bool has_table(const Fixture *f)
{
    SnapRAMBlocks blocks;
    SnapLayout layout = { };
    uint64_t entry = 0;
    int fd = open(f->path, O_RDONLY);

    snap_ram_blocks_init(&blocks, PAGE_BITS);
    snap_ram_blocks_add(&blocks, "pc.ram", RAM_LENGTH, 0, &error_abort);
    snap_ram_blocks_add(&blocks, "vga.vram", VGA_LENGTH, 0, &error_abort);
    snap_layout_init(&layout, &blocks, &error_abort);
    g_assert_cmpint(pread(fd, &entry, sizeof(entry), layout.ram_end), ==,
                    sizeof(entry));
    snap_layout_destroy(&layout);
    snap_ram_blocks_destroy(&blocks);
    close(fd);
    return entry;
}

static bool has_name(const Fixture *f)
{
    struct stat st;

    g_assert_cmpint(stat(f->path, &st), ==, 0);
    return st.st_size > strlen(OLD);
}

static bool may_go_on(const Fixture *f, Step step)
{
    switch (step) {
    case AWAIT_TABLE:
        return has_table(f);
    case AWAIT_NAME:
        return has_name(f);
    case AWAIT_HANG:
        return bdrv_debug_is_suspended(f->bs, "hang");
    default:
        return true;
    }
}

static void take_step(void *opaque)
{
    Fixture *f = opaque;
    Step step = *f->step;
    g_autoptr(GByteArray) b = g_byte_array_new();

    if (step == DONE) {
        return;
    }
    f->step += may_go_on(f, step);
    timer_mod(f->timer, qemu_clock_get_ms(QEMU_CLOCK_REALTIME) + STEP_MS);
    if (step == CLOSE) {
        close_source(f);
    } else if (step == HANG) {
        f->hangs = true;
        bdrv_debug_breakpoint(f->bs, "pwritev", "hang");
    } else if (step == INTERRUPT) {
        snap_save_interrupt(f->save);
    } else if (step != AWAIT_TABLE && step != AWAIT_NAME &&
               step != AWAIT_HANG) {
        put_step(b, step);
        send_bytes(f, b);
    }
}

/* --- the save --- */

static SnapTarget *begin_target(Fixture *f, bool new, const char *injection)
{
    g_autofree char *options = g_strdup_printf(
        "driver=raw,file.driver=blkdebug,file.image.driver=file,"
        "file.image.filename=%s%s%s", f->path,
        injection ? ",file." : "", injection ?: "");
    SnapTargetOptions target_options = {
        .image = {
            .filename = new ? f->path : options,
            .format = new ? "qcow2" : NULL,
            .image_opts = !new,
            .backing_chain = true,
        },
        .existing = !new,
    };
    SnapTarget *target = snap_target_begin(&target_options, &error_abort);

    f->bs = new ? NULL : blk_bs(snap_target_blk(target));
    return target;
}

static SnapTransport *open_source(Fixture *f, bool socket)
{
    g_autofree char *uri = NULL;
    SnapTransport *transport;

    if (socket) {
        g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0,
                                   f->fds), ==, 0);
    } else {
        g_assert_true(g_unix_open_pipe(f->fds, FD_CLOEXEC, NULL));
    }
    uri = g_strdup_printf("fd:%d", f->fds[0]);
    transport = snap_transport_open(uri, true, NULL, &error_abort);
    g_assert_true(snap_transport_connect(transport, &error_abort));
    return transport;
}

static void save_begin(Fixture *f, const Case *c)
{
    SnapSaveOptions options = { .page_bits = PAGE_BITS, .quiet = true };

    f->step = c->steps;
    f->hangs = false;
    f->save = snap_save_new(&options, begin_target(f, c->new, c->injection),
                            open_source(f, c->socket));
}

static int save_run(Fixture *f, SnapStats *stats, Error **errp)
{
    int ret;

    f->timer = aio_timer_new(qemu_get_aio_context(), QEMU_CLOCK_REALTIME,
                             SCALE_MS, take_step, f);
    take_step(f);
    ret = snap_save_run(f->save, stats, errp);
    timer_free(f->timer);
    return ret;
}

/* The save's descriptors are closed when all is freed. */
static bool is_freed(const Fixture *f)
{
    uint8_t byte;

    return write(f->fds[1], &byte, 1) < 0;
}

static void save_end(Fixture *f)
{
    close(f->fds[0]);
    snap_save_free(f->save);
    if (f->hangs) {
        g_assert_false(is_freed(f));
        bdrv_debug_remove_breakpoint(f->bs, "hang");
        while (!is_freed(f)) {
            aio_poll(qemu_get_aio_context(), true);
        }
    }
    close_source(f);
}

/* --- the image --- */

typedef struct Look {
    BlockBackend *blk;
    bool is_snapshot;
} Look;

static uint64_t expected_entry(uint64_t page)
{
    static const uint8_t fill[NB_PAGES] = {
        0xaa, 0xbb, [VGA_FIRST + 1] = 0xcc,
    };
    uint8_t data[PAGE];

    memset(data, fill[page], PAGE);
    return fill[page] ? snap_page_entry(data, PAGE) :
           page == VGA_FIRST ? SNAP_PAGE_UNSENT : SNAP_PAGE_ZERO;
}

static void coroutine_fn look_entry(void *opaque)
{
    Look *look = opaque;
    g_autoptr(SnapImage) image = snap_image_open(look->blk, NULL);
    g_autoptr(SnapTable) table = NULL;
    SnapCheckResult result = { };

    look->is_snapshot = image;
    if (!image) {
        return;
    }
    table = snap_image_page_table(image, 1);
    for (uint64_t page = 0; page < NB_PAGES; page++) {
        uint64_t entry;

        snap_table_get(table, page, &entry, &error_abort);
        g_assert_cmphex(entry, ==, expected_entry(page));
    }
    snap_check(image, &result);
    g_assert_null(result.first);
    snap_check_result_destroy(&result);
}

/* Whether the file has the snapshot: that one, and a whole one */
static bool has_snapshot(Fixture *f, bool new)
{
    SnapImageOptions options = {
        .filename = f->path, .format = new ? "qcow2" : "raw",
    };
    Look look = { .blk = snap_open_image(&options, false, &error_abort) };

    run_in_coroutine(look_entry, &look);
    blk_unref(look.blk);
    return look.is_snapshot;
}

static void assert_nothing_left(Fixture *f, bool new)
{
    g_autoptr(GDir) dir = g_dir_open(f->dir, 0, NULL);
    g_autofree char *text = NULL;

    g_assert_cmpstr(g_dir_read_name(dir), ==, "image");
    g_assert_null(g_dir_read_name(dir));
    if (!new) {
        g_assert_false(has_snapshot(f, false));
        return;
    }
    g_assert_true(g_file_get_contents(f->path, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, OLD);
}

/* --- tests --- */

static void fixture_init(Fixture *f, bool new)
{
    *f = (Fixture) { };
    f->dir = g_dir_make_tmp("test-snap-save-XXXXXX", NULL);
    g_assert_nonnull(f->dir);
    f->path = g_build_filename(f->dir, "image", NULL);
    g_assert_true(g_file_set_contents(f->path, OLD, -1, NULL));
    if (!new) {
        g_assert_cmpint(truncate(f->path, DISK_SIZE), ==, 0);
    }
}

static void fixture_destroy(Fixture *f)
{
    g_remove(f->path);
    g_assert_cmpint(g_rmdir(f->dir), ==, 0);
    g_free(f->dir);
    g_free(f->path);
}

static void save_well(Fixture *f, bool new, bool socket)
{
    Case good = { .new = new, .socket = socket, WHOLE };
    SnapStats stats = { };

    save_begin(f, &good);
    g_assert_cmpint(save_run(f, &stats, &error_abort), ==, 0);
    save_end(f);
    g_assert_cmpuint(stats.stored_pages, ==, 3);
    g_assert_cmpuint(stats.zero_pages, ==, 2);
    g_assert_true(has_snapshot(f, new));
}

static void save_badly(Fixture *f, const Case *c)
{
    SnapStats stats = { };
    Error *err = NULL;
    int ret;

    save_begin(f, c);
    ret = save_run(f, &stats, &err);
    g_assert_cmpint(ret, <, 0);
    g_assert_nonnull(err);
    if (c->ret) {
        g_assert_cmpint(ret, ==, c->ret);
    }
    if (c->error && !strstr(error_get_pretty(err), c->error)) {
        g_assert_cmpstr(error_get_pretty(err), ==, c->error);
    }
    error_free(err);
    save_end(f);
    assert_nothing_left(f, c->new);
}

/* Twice, so that the first one has left nothing for the second */
static void test_case(gconstpointer data)
{
    const Case *c = data;
    Fixture f;

    fixture_init(&f, c->new);
    save_badly(&f, c);
    save_badly(&f, c);
    save_well(&f, c->new, c->socket);
    fixture_destroy(&f);
}

static void test_free_before_run(void)
{
    static const Case none = { .new = true };
    Fixture f;

    fixture_init(&f, true);
    save_begin(&f, &none);
    save_end(&f);
    assert_nothing_left(&f, true);
    fixture_destroy(&f);
}

/* The last byte comes after the signal: the source believes in it. */
static void test_interrupted_before_last_byte(void)
{
    static const Case late = {
        .new = true,
        STEPS(SEND_START, SEND_PAGES, SEND_DEVICES, SEND_END, AWAIT_NAME,
              INTERRUPT, SEND_LAST, CLOSE),
    };
    SnapStats stats;
    Fixture f;

    fixture_init(&f, true);
    save_begin(&f, &late);
    g_assert_cmpint(save_run(&f, &stats, &error_abort), ==, 0);
    save_end(&f);
    g_assert_true(has_snapshot(&f, true));
    fixture_destroy(&f);
}

int main(int argc, char **argv)
{
    /* Else blkdebug prints, among the results, which requests it suspends. */
    qtest_allowed = true;
    block_tests_init(&argc, &argv);
    ADD_TESTS("/snap/save/", cases, test_case);
    g_test_add_func("/snap/save/freed-before-it-runs", test_free_before_run);
    g_test_add_func("/snap/save/interrupted-before-the-last-byte",
                    test_interrupted_before_last_byte);
    return g_test_run();
}
