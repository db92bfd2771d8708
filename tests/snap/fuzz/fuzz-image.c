/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzzer of all that reads a snapshot image
 *
 * Checksums are made right, unless a flag says otherwise: a fuzzer would not
 * get past them.  An image in which a check finds nothing can be loaded, and so
 * can one that was repaired.
 *
 * Input: flags; the request of the disk that fails; size of the disk; seed for
 * the order of requests; then what is on the disk: offset, length, bytes, and
 * so on.
 */

#include "qemu/osdep.h"
#include <xxhash.h>
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "qobject/qjson.h"
#include "snap/image/update.h"
#include "snap/image/working-set.h"
#include "snap/ram/walk.h"
#include "snap/verb/check.h"
#include "snap/verb/info.h"
#include "snap/verb/load.h"
#include "../unit/lib/snap-coroutine.h"
#include "fuzz.h"

/* Flags of an input */
enum {
    KEEP_CHECKSUMS = 1,
    KEEP_HASHES    = 2,     /* of pages */
    OVERTAKE       = 4,     /* let requests do so */
    EMBED          = 8,     /* put a working set into the image */
    SMALL_PIECES   = 16,
    REPAIR         = 32,
};

#define SIZE_UNIT  (64 * KiB)
#define MAX_UNITS  1024         /* 64 MiB */

/* As much is made right, so that it does not take long. */
#define MAX_PART   (1 * MiB)
#define MAX_CHUNKS 8

/* Where the header has the checksums of parts, and its own */
#define PART_CHECKSUM(i) (104 + (i) * 24 + 16)
#define HEADER_CHECKSUM  (SNAP_HEADER_SIZE - 8)

/* --- checksums --- */

static void fix_header(FuzzDisk *disk)
{
    stq_be_p(disk->bytes + HEADER_CHECKSUM,
             snap_checksum(disk->bytes, HEADER_CHECKSUM));
}

static void fix_part(FuzzDisk *disk, SnapHeader *header, SnapPart part)
{
    SnapPartInfo *info = &header->parts[part];
    uint8_t *p = disk->bytes + info->offset;

    if (!info->length || info->length > MAX_PART) {
        return;
    }
    switch (part) {
    case SNAP_PART_PAGE_TABLE:
    case SNAP_PART_ARRIVALS:
        return;
    case SNAP_PART_VMDESC:
    case SNAP_PART_WORKING_SET:
        if (info->length >= 8) {
            stq_be_p(p + info->length - 8,
                     snap_checksum(p, info->length - 8));
        }
        return;
    default:
        info->checksum = snap_checksum(p, info->length);
        stq_be_p(disk->bytes + PART_CHECKSUM(part), info->checksum);
    }
}

/* The hashes of pages whose entries say that they have data. */
static void fix_pages(FuzzDisk *disk, const SnapHeader *header)
{
    const SnapPartInfo *blocks = &header->parts[SNAP_PART_BLOCK_TABLE];
    uint8_t *table = disk->bytes + header->parts[SNAP_PART_PAGE_TABLE].offset;
    uint64_t max = MIN(header->nb_pages, MAX_CHUNKS * SNAP_CHUNK_ENTRIES);
    g_autofree SnapPageCounts *counts = NULL;
    SnapRAMBlocks ram;
    SnapLayout layout;
    size_t page_size;

    if (snap_block_table_decode(&ram, &counts, header,
                                disk->bytes + blocks->offset, blocks->length,
                                NULL) < 0) {
        return;
    }
    if (!snap_layout_init(&layout, &ram, NULL)) {
        snap_ram_blocks_destroy(&ram);
        return;
    }
    page_size = snap_ram_page_size(&ram);
    for (uint64_t i = 0; i < max; i++) {
        const SnapRAMBlock *block = snap_ram_block_of(&ram, i);
        uint64_t offset = snap_layout_page_offset(&layout, block, i);
        uint8_t *entry = table + i / SNAP_CHUNK_ENTRIES * SNAP_CHUNK_SIZE +
                         i % SNAP_CHUNK_ENTRIES * 8;

        if (snap_page_is_stored(ldq_be_p(entry)) &&
            offset + page_size <= disk->size) {
            stq_be_p(entry, snap_page_entry(disk->bytes + offset, page_size));
        }
    }
    snap_layout_destroy(&layout);
    snap_ram_blocks_destroy(&ram);
}

static void fix_table(FuzzDisk *disk, const SnapHeader *header, SnapPart part)
{
    const SnapPartInfo *info = &header->parts[part];
    uint64_t nb_chunks = MIN(info->length / SNAP_CHUNK_SIZE, MAX_CHUNKS);

    for (uint64_t i = 0; i < nb_chunks; i++) {
        uint8_t *chunk = disk->bytes + info->offset + i * SNAP_CHUNK_SIZE;

        stq_be_p(chunk + SNAP_CHUNK_SIZE - 8,
                 XXH3_64bits_withSeed(chunk, SNAP_CHUNK_SIZE - 8,
                                      snap_header_seed(header, part) + i));
    }
}

static void fix_checksums(FuzzDisk *disk, bool pages)
{
    SnapHeader header;

    fix_header(disk);
    if (snap_header_decode(&header, disk->bytes, disk->size, NULL) < 0) {
        return;
    }
    for (unsigned i = 0; i < SNAP_PART__MAX; i++) {
        fix_part(disk, &header, i);
    }
    if (pages) {
        fix_pages(disk, &header);
    }
    fix_table(disk, &header, SNAP_PART_PAGE_TABLE);
    fix_table(disk, &header, SNAP_PART_ARRIVALS);
    fix_header(disk);
}

/* --- what is done with an image --- */

typedef struct Test {
    FuzzDisk disk;
    BlockBackend *blk;
    uint8_t flags;
    bool sound;             /* nothing was found */
} Test;

static void coroutine_fn read_info(SnapImage *image)
{
    g_autoptr(SnapInfo) info = snap_info(image, NULL);

    if (info) {
        g_string_free(qobject_to_json(info->metadata), true);
        g_string_free(qobject_to_json(info->parts), true);
    }
}

static void coroutine_fn take_bytes(void *opaque, const void *data,
                                    size_t length)
{
    uint64_t *sum = opaque;

    *sum += snap_checksum(data, length);
}

static void coroutine_fn read_devices(SnapImage *image)
{
    uint64_t sum = 0;

    snap_image_copy_part(image, SNAP_PART_DEVICES, take_bytes, &sum, NULL);
}

/* All of the pages that a caller may look at is there. */
static uint64_t sum_pages(const SnapImage *image, const SnapPages *pages)
{
    size_t page_size = snap_ram_page_size(&image->ram);
    const SnapRAMBlock *block = snap_ram_block_of(&image->ram,
                                                  pages->range.first);
    uint64_t sum = 0;

    fuzz_check(pages->range.first + pages->range.count <=
               snap_ram_block_end(&image->ram, block));
    for (unsigned i = 0; i < pages->range.count; i++) {
        if (snap_page_is_stored(pages->entries[i])) {
            sum += snap_checksum(pages->data + i * page_size, page_size);
        }
    }
    return sum;
}

static uint64_t coroutine_fn read_ram(SnapImage *image,
                                      size_t piece_size)
{
    g_autoptr(SnapRAMWalk) walk = snap_ram_walk_new(&image->source, piece_size,
                                                    NULL, NULL);
    uint64_t sum = 0;
    SnapPages pages;
    int ret;

    do {
        ret = snap_ram_walk_next(walk, &pages, NULL);
        if (ret > 0) {
            sum += sum_pages(image, &pages);
        }
    } while (ret > 0 || snap_ram_walk_corrupt_pages(walk));
    snap_ram_walk_abort(walk);
    return sum;
}

static bool coroutine_fn check(SnapImage *image)
{
    SnapCheckResult result;
    bool sound;

    snap_check(image, &result);
    sound = !result.first;
    fuzz_check(sound == !(result.pages_corrupt || result.corrupt_parts));
    snap_check_result_destroy(&result);
    return sound;
}

/* Nothing is left that could be found. */
static void coroutine_fn repair(Test *test, SnapImage *image)
{
    g_autoptr(SnapImage) again = NULL;
    SnapCheckResult found;
    int ret = -1;

    snap_check(image, &found);
    if (snap_check_can_repair(&found)) {
        ret = snap_check_repair(image, &found, NULL);
    }
    snap_check_result_destroy(&found);
    if (ret < 0 || test->disk.failed) {
        return;
    }
    test->disk.fail_at = 0;
    again = snap_image_open(test->blk, &error_abort);
    test->sound = check(again);
    fuzz_check(test->sound);
}

/* What was there stays, and the working set is there. */
static void coroutine_fn embed(Test *test, SnapImage *image)
{
    g_autoptr(GArray) pages = g_array_new(false, false, sizeof(uint64_t));
    g_autoptr(GByteArray) data = NULL;
    g_autoptr(SnapImage) again = NULL;
    g_autoptr(GArray) got = NULL;
    uint64_t page = image->header.nb_pages - 1;

    g_array_append_val(pages, page);
    data = snap_working_set_encode(pages, &image->header.uuid);
    if (snap_image_set_working_set(image, data, NULL) < 0) {
        return;
    }
    test->disk.fail_at = 0;
    again = snap_image_open(test->blk, &error_abort);
    fuzz_check(snap_image_working_set(again, &got, &error_abort) == 1);
    fuzz_check(got->len == 1 && g_array_index(got, uint64_t, 0) == page);
    fuzz_check(!test->sound || check(again));
}

static void coroutine_fn read_image(void *opaque)
{
    Test *test = opaque;
    g_autoptr(SnapImage) image = snap_image_open(test->blk, NULL);

    if (!image) {
        return;
    }
    read_info(image);
    read_devices(image);
    read_ram(image, test->flags & SMALL_PIECES ? 64 * KiB : 1 * MiB);
    test->sound = check(image) && !test->disk.failed;
    if (test->flags & REPAIR) {
        repair(test, image);
    }
    if (test->flags & EMBED) {
        embed(test, image);
    }
}

static void load(Test *test)
{
    const SnapLoadOptions options = { };
    SnapStats stats;
    Error *err = NULL;
    SnapLoad *l;
    int ret;

    blk_ref(test->blk);
    l = snap_load_new(test->blk, fuzz_transport_open(-1, -1), &options);
    ret = snap_load_run(l, &stats, &err);
    fuzz_check(!ret == !err);
    fuzz_check_ok(!ret || !test->sound || test->disk.failed, err);
    error_free(err);
    snap_load_free(l);
}

static void fill(FuzzDisk *disk, FuzzBytes bytes)
{
    while (bytes.size) {
        uint64_t offset = fuzz_be32(&bytes) % disk->size;
        size_t length = fuzz_be16(&bytes);
        FuzzBytes data = fuzz_take(&bytes, MIN(length, disk->size - offset));

        memcpy(disk->bytes + offset, data.data, data.size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzBytes bytes = { data, size };
    Test test = { .flags = fuzz_u8(&bytes) };
    uint8_t fail_at = fuzz_u8(&bytes);

    fuzz_disk_init(&test.disk, (1 + fuzz_be16(&bytes) % MAX_UNITS) * SIZE_UNIT);
    test.disk.fail_at = fail_at;
    test.disk.seed = fuzz_be16(&bytes) | 1;
    if (!(test.flags & OVERTAKE)) {
        test.disk.seed = 0;
    }
    fill(&test.disk, bytes);
    if (!(test.flags & KEEP_CHECKSUMS)) {
        fix_checksums(&test.disk, !(test.flags & KEEP_HASHES));
    }
    test.blk = fuzz_disk_open(&test.disk);
    run_in_coroutine(read_image, &test);
    load(&test);
    blk_unref(test.blk);
    fuzz_disk_destroy(&test.disk);
    return 0;
}
