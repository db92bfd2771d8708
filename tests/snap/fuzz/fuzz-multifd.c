/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzzer of what comes over the channels of multifd
 *
 * RAM that was taken is sound in the snapshot.
 *
 * Input: flags; log2 of the page size; number of channels; seed for whose turn
 * it is; what the main channel does; for each channel, length and bytes.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qobject/qdict.h"
#include "snap/image/ram-writer.h"
#include "snap/image/writer.h"
#include "snap/stream/multifd.h"
#include "snap/transfer/multifd-receiver.h"
#include "snap/verb/check.h"
#include "../unit/lib/snap-coroutine.h"
#include "fuzz.h"

/* Flags of an input */
enum {
    OVERTAKE = 1,       /* let requests of the disk do so */
    FAIL     = 2,       /* a request of the disk fails */
};

/* What the main channel does: so many points, and zero pages between them */
#define NB_STEPS     4
#define STEP_SYNC    0x80
#define MAX_CHANNELS 4
#define DISK_SIZE    (128 * MiB)

typedef struct Test {
    FuzzDisk disk;
    BlockBackend *blk;
    SnapTransport *transport;
    SnapRAMBlocks blocks;
    SnapLayout layout;
    SnapRAMSection section;
    SnapImageWriter *image;
    SnapRAMWriter *ram;
    GPtrArray *channels;
    uint8_t steps[NB_STEPS];
} Test;

static int coroutine_fn receive(Test *test, SnapMultifdReceiver *receiver)
{
    int ret = 0;

    for (unsigned i = 0; i < NB_STEPS && !ret; i++) {
        uint64_t page = test->steps[i] % test->blocks.nb_pages;

        if (test->steps[i] & STEP_SYNC) {
            ret = snap_multifd_receiver_sync(receiver, NULL);
        } else {
            ret = snap_ram_writer_add_zero(test->ram, page, NULL);
        }
    }
    return ret;
}

static int coroutine_fn commit(Test *test)
{
    g_autoptr(QDict) metadata = qdict_new();
    g_autoptr(GByteArray) bytes = g_byte_array_new();
    g_autofree SnapPageCounts *counts = snap_ram_writer_counts(test->ram);
    const SnapCommitInfo info = {
        .counts = counts,
        .configuration = bytes,
        .setup = bytes,
        .metadata = metadata,
    };
    int ret = snap_ram_writer_flush(test->ram, NULL);

    /* As long as a stream's header */
    g_byte_array_set_size(bytes, 8);
    memset(bytes->data, 0, bytes->len);
    if (!ret) {
        ret = snap_image_writer_flush_ram(test->image, 0, NULL);
    }
    return ret ?: snap_image_writer_finish(test->image, &info, NULL);
}

static void coroutine_fn check(Test *test)
{
    g_autoptr(SnapImage) image = snap_image_open(test->blk, &error_abort);
    SnapCheckResult result;

    snap_check(image, &result);
    fuzz_check_ok(!result.first, result.first);
    snap_check_result_destroy(&result);
}

static void coroutine_fn run(void *opaque)
{
    Test *test = opaque;
    SnapMultifdReceiver *receiver =
        snap_multifd_receiver_new(test->transport, test->channels,
                                  &test->blocks, test->ram);
    Error *err = NULL;
    int ret, end;

    snap_multifd_receiver_start(receiver);
    ret = receive(test, receiver);
    end = snap_multifd_receiver_pages_end(receiver, &err);
    fuzz_check(!end == !err);
    error_free(err);
    snap_multifd_receiver_end(receiver, 0);
    snap_multifd_receiver_free(receiver);
    if (ret < 0 || end < 0) {
        snap_ram_writer_abort(test->ram);
        return;
    }
    ret = commit(test);
    fuzz_check(!ret || test->disk.failed);
    if (!ret && !test->disk.failed) {
        check(test);
    }
}

static void test_init(Test *test, FuzzBytes *bytes)
{
    uint8_t flags = fuzz_u8(bytes);
    unsigned page_bits = SNAP_MIN_PAGE_BITS +
        fuzz_u8(bytes) % (SNAP_MAX_PAGE_BITS - SNAP_MIN_PAGE_BITS + 1);
    unsigned nb_channels = 1 + fuzz_u8(bytes) % MAX_CHANNELS;
    uint32_t seed = fuzz_be16(bytes);

    fuzz_disk_init(&test->disk, DISK_SIZE);
    test->disk.seed = flags & OVERTAKE ? seed | 1 : 0;
    test->disk.fail_at = flags & FAIL ? 1 + seed % 32 : 0;
    test->blk = fuzz_disk_open(&test->disk);
    test->transport = fuzz_transport_open(-1, -1);

    snap_ram_blocks_init(&test->blocks, page_bits);
    snap_ram_blocks_add(&test->blocks, "pc.ram", 3 * MiB, 0, &error_abort);
    snap_ram_blocks_add(&test->blocks, "vga.vram", 256 * KiB, 0, &error_abort);
    snap_layout_init(&test->layout, &test->blocks, &error_abort);
    test->section = (SnapRAMSection) { .id = 2, .footers = true };
    test->image = snap_image_writer_new(test->blk, &test->layout,
                                        &test->section);
    test->ram = snap_ram_writer_new(test->blk, &test->layout,
                                    snap_image_writer_page_table(test->image),
                                    NULL, &error_abort);

    for (unsigned i = 0; i < NB_STEPS; i++) {
        test->steps[i] = fuzz_u8(bytes);
    }
    test->channels = g_ptr_array_new_with_free_func(object_unref);
    for (unsigned i = 0; i < nb_channels; i++) {
        size_t length = fuzz_be32(bytes) & 0xffffff;

        g_ptr_array_add(test->channels,
                        fuzz_channel_new(fuzz_take(bytes, length), SIZE_MAX,
                                         seed ? seed + i : 0));
    }
}

static void test_destroy(Test *test)
{
    g_ptr_array_unref(test->channels);
    snap_ram_writer_free(test->ram);
    snap_image_writer_free(test->image);
    snap_layout_destroy(&test->layout);
    snap_ram_blocks_destroy(&test->blocks);
    snap_transport_close(test->transport);
    blk_unref(test->blk);
    fuzz_disk_destroy(&test->disk);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzBytes bytes = { data, size };
    Test test = { };

    test_init(&test, &bytes);
    run_in_coroutine(run, &test);
    test_destroy(&test);
    return 0;
}
