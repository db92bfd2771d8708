/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzzer of what a destination says: of the return path's reader alone, and of
 * a whole load by postcopy that gets such answers
 *
 * Input: flags; then for the reader alone, how much the channel gives at a
 * time, and what is said; for a load, the percentage of precopy, pages around
 * one that is asked for, and what is said in pieces: how long to wait, length,
 * bytes.
 */

#include "qemu/osdep.h"
#include "block/aio-wait.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "snap/image/update.h"
#include "snap/image/working-set.h"
#include "snap/postcopy/postcopy.h"
#include "snap/stream/return-path.h"
#include "snap/util/task.h"
#include "snap/verb/load.h"
#include "../unit/lib/saved-ram.h"
#include "../unit/lib/snap-coroutine.h"
#include "fuzz.h"

/* Flags of an input */
enum {
    WHOLE_LOAD = 1,
    RESUME     = 2,
    LARGE      = 4,         /* host pages */
    NOT_LINEAR = 8,         /* push no pages but those that are asked for */
    OVERTAKE   = 16,        /* let requests of the disk do so */
};

#define DISK_SIZE (128 * MiB)

/* Turns of the main loop that the destination is silent in all */
#define MAX_WAIT 4096

/* --- the reader alone --- */

typedef struct Reading {
    FuzzBytes bytes;
    size_t chunk;
    SomeRAM *ram;
} Reading;

static void check_event(const SomeRAM *ram, const SnapReturnEvent *event)
{
    const SnapRAMBlock *block;
    SnapPageRange pages = event->pages;
    uint64_t targets;

    switch (event->type) {
    case SNAP_RP_REQ_PAGES:
        fuzz_check(pages.first < NB_PAGES && pages.count);
        block = snap_ram_block_of(&ram->ram, pages.first);
        targets = snap_host_pages_count(&ram->host_pages,
                                        block - ram->ram.blocks);
        fuzz_check(pages.count <= snap_ram_block_end(&ram->ram, block) -
                                  pages.first);
        fuzz_check((pages.first - block->first_page) % targets == 0);
        fuzz_check(pages.count % targets == 0);
        break;
    case SNAP_RP_RECV_BITMAP:
        fuzz_check(event->block >= 0 && event->block < NB_BLOCKS);
        fuzz_check(event->bitmap);
        break;
    default:
        break;
    }
}

static void coroutine_fn read_messages(void *opaque)
{
    Reading *reading = opaque;
    SomeRAM *ram = reading->ram;
    QIOChannel *ioc = fuzz_channel_new(reading->bytes, reading->chunk, 0);
    g_autoptr(SnapInput) input = snap_input_new(ioc);
    g_autoptr(SnapReturnPath) rp = snap_return_path_new(input, &ram->ram,
                                                        &ram->host_pages);
    uint64_t nb_events = 0;
    Error *err = NULL;
    int ret;

    do {
        SnapReturnEvent event = { };

        ret = snap_return_path_next(rp, &event, &err);
        if (ret > 0) {
            check_event(ram, &event);
            if (event.type == SNAP_RP_RECV_BITMAP) {
                snap_page_map_received(&ram->map, event.block, event.bitmap);
            }
        }
        g_free(event.bitmap);
        fuzz_check(nb_events++ <= reading->bytes.size);
    } while (ret > 0);
    fuzz_check((ret < 0) == !!err);
    error_free(err);
    object_unref(OBJECT(ioc));
}

static void read_alone(FuzzBytes bytes, uint8_t flags)
{
    uint8_t chunk = fuzz_u8(&bytes);
    SomeRAM ram;
    Reading reading = { .bytes = bytes, .chunk = chunk ?: SIZE_MAX };

    some_ram_init(&ram, flags & LARGE ? HUGE_BITS : PAGE_BITS);
    reading.ram = &ram;
    run_in_coroutine(read_messages, &reading);
    some_ram_destroy(&ram);
}

/* --- a whole load --- */

/* The snapshot that is loaded, for all inputs */
static FuzzDisk *snapshot_disk;

static void coroutine_fn save_entry(void *opaque)
{
    static const uint64_t arrivals[] = { 5, RAM_FIRST + 3, ROM_FIRST };
    static const uint64_t used[] = { RAM_FIRST + 9, 2, RAM_FIRST + 600 };
    g_autoptr(GArray) pages = g_array_new(false, false, sizeof(uint64_t));
    g_autoptr(GByteArray) working_set = NULL;
    SavedRAM *saved = opaque;

    put_full(saved->snapshot.devices, 7, "cpu", "state", 5);
    saved_ram_send_pages(saved);
    snap_image_writer_devices(saved->snapshot.image,
                              saved->snapshot.devices->data,
                              saved->snapshot.devices->len, &error_abort);
    saved_ram_commit(saved, arrivals, ARRAY_SIZE(arrivals));
    g_array_append_vals(pages, used, ARRAY_SIZE(used));
    working_set = snap_working_set_encode(pages, &saved->image->header.uuid);
    snap_image_set_working_set(saved->image, working_set, &error_abort);
}

static FuzzDisk *saved_disk(void)
{
    SavedRAM saved = { };

    if (!snapshot_disk) {
        snapshot_disk = g_new(FuzzDisk, 1);
        fuzz_disk_init(snapshot_disk, DISK_SIZE);
        some_ram_init(&saved.ram, PAGE_BITS);
        some_ram_blocks_init(&saved.snapshot.blocks);
        saved.snapshot.blk = fuzz_disk_open(snapshot_disk);
        snapshot_begin(&saved.snapshot);
        run_in_coroutine(save_entry, &saved);
        saved_ram_destroy(&saved);
    }
    return snapshot_disk;
}

/* A destination, which has its turns in the main loop */
typedef struct Destination {
    FuzzBytes script;
    int fd;
    unsigned waited;
    bool over;
} Destination;

/* A few turns exactly, or many */
static unsigned take_turns(FuzzBytes *script)
{
    uint8_t turns = fuzz_u8(script);

    return turns < 128 ? turns : (turns - 127) * 16;
}

static void coroutine_fn destination_entry(void *opaque)
{
    Destination *d = opaque;

    while (d->script.size) {
        unsigned turns = take_turns(&d->script);
        FuzzBytes bytes = fuzz_take(&d->script, fuzz_u8(&d->script));

        while (turns-- && d->waited++ < MAX_WAIT) {
            snap_co_pause();
        }
        if (write(d->fd, bytes.data, bytes.size) < 0) {
            break;
        }
    }
    close(d->fd);
    d->over = true;
}

/* It ends, now that there is nobody to talk to. */
static void finish(Destination *d)
{
    d->script = (FuzzBytes) { };
    d->waited = MAX_WAIT;
    while (!d->over) {
        aio_poll(qemu_get_aio_context(), true);
    }
}

static void load(const SnapLoadOptions *options, FuzzBytes script)
{
    BlockBackend *blk = fuzz_disk_open(snapshot_disk);
    Destination d = { .script = script };
    SnapTransport *transport;
    SnapStats stats;
    Error *err = NULL;
    SnapLoad *l;
    int fds[2], ret;

    fuzz_check(pipe2(fds, O_CLOEXEC | O_NONBLOCK) == 0);
    d.fd = fds[1];
    transport = fuzz_transport_open(fds[0], -1);
    l = snap_load_new(blk, transport, options);
    qemu_coroutine_enter(qemu_coroutine_create(destination_entry, &d));
    ret = snap_load_run(l, &stats, &err);
    fuzz_check(!ret == !err);
    error_free(err);
    finish(&d);
    snap_load_free(l);
}

static void load_whole(FuzzBytes bytes, uint8_t flags)
{
    char host_pages[] = "pc.ram=2M";
    char *const host_page_options[] = { flags & LARGE ? host_pages : NULL,
                                        NULL };
    const SnapPostcopyOptions postcopy = {
        .percent = fuzz_u8(&bytes) % 101,
        .resume = flags & RESUME,
        .host_pages = host_page_options,
        .push = {
            .reasons = flags & NOT_LINEAR ? 0 : UINT_MAX,
            .fault_around = fuzz_u8(&bytes),
            .backlog = 16 * KiB,
        },
    };
    const SnapLoadOptions options = { .postcopy = &postcopy };
    FuzzDisk *disk = saved_disk();

    disk->seed = flags & OVERTAKE ? 1 : 0;
    load(&options, bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzBytes bytes = { data, size };
    uint8_t flags = fuzz_u8(&bytes);

    if (flags & WHOLE_LOAD) {
        load_whole(bytes, flags);
    } else {
        read_alone(bytes, flags);
    }
    return 0;
}
