/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzzer of a whole save
 *
 * A save that succeeds leaves a sound snapshot, which gives a stream that is
 * saved as the same snapshot; one that fails leaves none.
 *
 * Input: flags; log2 of the default page size; unit of allocation; the request
 * of the disk that fails; seed for the order of requests; the stream.
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "snap/image/writer.h"
#include "snap/verb/check.h"
#include "snap/verb/load.h"
#include "snap/verb/save.h"
#include "../unit/lib/snap-coroutine.h"
#include "fuzz.h"

/* Flags of an input */
enum {
    FROM_FILE = 1,
    OVERTAKE  = 2,      /* let requests do so */
    REPEAT    = 4,      /* load it, and save that */
};

#define MAX_RAM   (16 * MiB)
#define DISK_SIZE (1 * GiB)


static int save(FuzzDisk *disk, int in, unsigned page_bits, Error **errp)
{
    const SnapTargetOptions target = {
        .image.filename = fuzz_disk_options(disk),
        .image.image_opts = true,
        .existing = true,
    };
    const SnapSaveOptions options = {
        .max_ram = MAX_RAM,
        .page_bits = page_bits,
        .quiet = true,
    };
    SnapSave *s = snap_save_new(&options,
                                snap_target_begin(&target, &error_abort),
                                fuzz_transport_open(in, -1));
    SnapStats stats;
    int ret = snap_save_run(s, &stats, errp);

    snap_save_free(s);
    return ret;
}

/* What is to be found out about an image. */
typedef struct Look {
    BlockBackend *blk;
    BlockBackend *other;        /* with the same snapshot */
    bool complete;
    SnapCheckResult result;
} Look;

static void coroutine_fn look(void *opaque)
{
    Look *look = opaque;
    g_autoptr(SnapImage) image = snap_image_open(look->blk, NULL);

    look->complete = image;
    if (image) {
        snap_check(image, &look->result);
    }
}

/* Whether there is a snapshot, and a sound one. */
static bool is_complete(FuzzDisk *disk, bool vmdesc_lost)
{
    Look l = { .blk = fuzz_disk_open(disk) };

    run_in_coroutine(look, &l);
    fuzz_check_ok(!l.result.first ||
                  (vmdesc_lost && !l.result.pages_corrupt &&
                   l.result.corrupt_parts == 1 << SNAP_PART_VMDESC),
                  l.result.first);
    snap_check_result_destroy(&l.result);
    blk_unref(l.blk);
    return l.complete;
}

static void coroutine_fn check_same_pages(SnapImage *a, SnapImage *b)
{
    g_autoptr(SnapTable) table_a = snap_image_page_table(a, 1);
    g_autoptr(SnapTable) table_b = snap_image_page_table(b, 1);

    for (uint64_t i = 0; i < a->ram.nb_pages; i++) {
        uint64_t entry_a, entry_b;

        snap_table_get(table_a, i, &entry_a, &error_abort);
        snap_table_get(table_b, i, &entry_b, &error_abort);
        fuzz_check(entry_a == entry_b, "page %" PRIu64, i);
    }
}

static void coroutine_fn compare(void *opaque)
{
    static const SnapPart parts[] = {
        SNAP_PART_BLOCK_TABLE, SNAP_PART_CONFIGURATION, SNAP_PART_SETUP,
        SNAP_PART_DEVICES,
    };
    Look *look = opaque;
    g_autoptr(SnapImage) a = snap_image_open(look->blk, &error_abort);
    g_autoptr(SnapImage) b = snap_image_open(look->other, &error_abort);

    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
        const SnapPartInfo *x = &a->header.parts[parts[i]];
        const SnapPartInfo *y = &b->header.parts[parts[i]];

        /* Page sizes of RAM blocks are not sent again. */
        fuzz_check(parts[i] == SNAP_PART_BLOCK_TABLE ||
                   (x->length == y->length && x->checksum == y->checksum),
                   "%s", snap_part_name(parts[i]));
    }
    fuzz_check(a->header.before_ram == b->header.before_ram);
    fuzz_check(a->header.nb_blocks == b->header.nb_blocks);
    fuzz_check(a->header.nb_pages == b->header.nb_pages);
    check_same_pages(a, b);
}

/* Load what was saved. Returns: a file with the stream */
static int load(FuzzDisk *disk)
{
    const SnapLoadOptions options = { };
    BlockBackend *blk = fuzz_disk_open(disk);
    int out = fuzz_file_with((FuzzBytes) { });
    SnapTransport *transport = fuzz_transport_open(-1, out);
    SnapLoad *l = snap_load_new(blk, transport, &options);
    SnapStats stats;

    snap_load_run(l, &stats, &error_abort);
    snap_load_free(l);
    fuzz_check(lseek(out, 0, SEEK_SET) == 0);
    return out;
}

static void repeat(FuzzDisk *disk, unsigned page_bits)
{
    FuzzDisk again;
    Look l;

    fuzz_disk_init(&again, DISK_SIZE);
    save(&again, load(disk), page_bits, &error_abort);
    l = (Look) {
        .blk = fuzz_disk_open(disk),
        .other = fuzz_disk_open(&again),
    };
    run_in_coroutine(compare, &l);
    blk_unref(l.blk);
    blk_unref(l.other);
    fuzz_disk_destroy(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzBytes bytes = { data, size };
    uint8_t flags = fuzz_u8(&bytes);
    unsigned page_bits = SNAP_MIN_PAGE_BITS +
        fuzz_u8(&bytes) % (SNAP_MAX_PAGE_BITS - SNAP_MIN_PAGE_BITS + 1);
    uint8_t cluster_bits = fuzz_u8(&bytes);
    FuzzDisk disk;
    Error *err = NULL;
    bool complete;
    int ret;

    fuzz_disk_init(&disk, DISK_SIZE);
    disk.cluster_size = cluster_bits ? 512u << cluster_bits % 13 : 0;
    disk.fail_at = fuzz_u8(&bytes);
    disk.seed = fuzz_be16(&bytes) | 1;
    if (!(flags & OVERTAKE)) {
        disk.seed = 0;
    }
    ret = save(&disk, flags & FROM_FILE ? fuzz_file_with(bytes) :
                                          fuzz_pipe_with(bytes),
               page_bits, &err);
    fuzz_check(!ret == !err);

    /* A request that fails may be one that would undo a snapshot. */
    complete = is_complete(&disk, disk.failed);
    fuzz_check_ok(complete == !ret || (!complete == !ret && disk.failed), err);
    if (!ret && !disk.failed && (flags & REPEAT)) {
        repeat(&disk, page_bits);
    }
    error_free(err);
    fuzz_disk_destroy(&disk);
    return 0;
}
