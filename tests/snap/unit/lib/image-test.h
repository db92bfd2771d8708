/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Tests that save a snapshot on a disk in memory or in a file
 */

#ifndef SNAP_TESTS_IMAGE_TEST_H
#define SNAP_TESTS_IMAGE_TEST_H

#include <glib/gstdio.h>
#include "block/block.h"
#include "block/qdict.h"
#include "saved-snapshot.h"
#include "snap-coroutine.h"
#include "test-table.h"

#define NB_PAGES (2819 + 1 + 255)

typedef struct ImageTest {
    const char *path;
    void coroutine_fn (*fn)(Snapshot *s);
    const char *format;         /* of a file; NULL for the disk in memory */
    const char *options;        /* to create the file */
    unsigned page_bits;         /* 0 for 12 */
    bool many_pages;            /* room for all arrivals */
    bool fails;                 /* writes to the file fail */
} ImageTest;

/* RAM blocks that do not fill the writer's buffers. */
static inline void fill_blocks(SnapRAMBlocks *ram, const ImageTest *test)
{
    unsigned page_bits = test->page_bits ?: 12;
    uint64_t lengths[] = { 2819, 1, 255 };

    if (test->many_pages) {
        lengths[0] = 2 * SNAP_MAX_ARRIVALS + 1000;
    }
    snap_ram_blocks_init(ram, page_bits);
    snap_ram_blocks_add(ram, "pc.ram", lengths[0] << page_bits, 0,
                        &error_abort);
    snap_ram_blocks_add(ram, "vga.vram", lengths[1] << page_bits, 4 * KiB,
                        &error_abort);
    snap_ram_blocks_add(ram, "/rom@etc/acpi/tables", lengths[2] << page_bits,
                        2 * MiB, &error_abort);
}

static inline char *create_file(const ImageTest *test,
                                const SnapRAMBlocks *ram)
{
    g_autofree char *options = g_strdup(test->options);
    SnapLayout layout;
    char *path = NULL;
    int fd = g_file_open_tmp("test-snap-image-XXXXXX", &path, NULL);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    snap_layout_init(&layout, ram, &error_abort);
    bdrv_img_create(path, test->format, NULL, NULL, options,
                    snap_image_writer_size(&layout), 0, true, &error_abort);
    snap_layout_destroy(&layout);
    return path;
}

static inline BlockBackend *open_file(const ImageTest *test, const char *path)
{
    g_autoptr(QDict) options = qdict_new();

    if (test->fails) {
        qdict_put_str(options, "driver", "blkdebug");
        qdict_put_str(options, "image.driver", "file");
        qdict_put_str(options, "image.filename", path);
        qdict_put_str(options, "inject-error.0.event", "none");
        qdict_put_str(options, "inject-error.0.iotype", "write");
        qdict_put_int(options, "inject-error.0.errno", ENOSPC);
        path = NULL;
    } else {
        qdict_put_str(options, "driver", test->format);
    }
    return blk_new_open(path, NULL, g_steal_pointer(&options),
                        BDRV_O_RDWR | BDRV_O_RESIZE, &error_abort);
}

typedef struct TestRun {
    const ImageTest *test;
    Snapshot snapshot;
} TestRun;

static inline void coroutine_fn call_image_test(void *opaque)
{
    TestRun *run = opaque;

    run->test->fn(&run->snapshot);
}

static inline void run_test(gconstpointer data)
{
    TestRun run = { .test = data };
    Snapshot *s = &run.snapshot;
    g_autofree char *path = NULL;

    fill_blocks(&s->blocks, run.test);
    if (run.test->format) {
        path = create_file(run.test, &s->blocks);
        s->blk = open_file(run.test, path);
    } else {
        s->blk = slow_disk_open(&s->disk);
    }
    snapshot_begin(s);
    run_in_coroutine(call_image_test, &run);
    snapshot_end(s);
    if (path) {
        g_unlink(path);
    }
}

#endif /* SNAP_TESTS_IMAGE_TEST_H */
