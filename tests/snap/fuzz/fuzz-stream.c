/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Fuzzer of the stream reader
 *
 * Each stream is read twice, in different pieces, and has to say the same.
 *
 * Input: log2 of the default page size; how much the channel gives at a time;
 * how many pages are wanted at a time; the stream.
 */

#include "qemu/osdep.h"
#include <xxhash.h>
#include "qapi/error.h"
#include "snap/image/format.h"
#include "snap/stream/reader.h"
#include "../unit/lib/snap-coroutine.h"
#include "fuzz.h"

/* More than the reader takes at a time */
#define MAX_PAGES 200
#define MAX_BYTES (256 * KiB)
/* So many pieces take little time. */
#define MAX_CHUNKS 1024

/* How a stream is read, and what it said. */
typedef struct Reading {
    FuzzBytes bytes;
    unsigned page_bits;
    size_t chunk;
    unsigned nb_pages;      /* at a time */

    XXH3_state_t *hash;     /* of all events */
    uint64_t nb_events;
    Error *err;
} Reading;

static void note(Reading *reading, const void *data, size_t length)
{
    XXH3_64bits_update(reading->hash, data, length);
}

static void note_number(Reading *reading, uint64_t number)
{
    note(reading, &number, sizeof(number));
}

static void check_blocks(Reading *reading, SnapStreamReader *reader)
{
    const SnapRAMBlocks *ram = snap_stream_ram(reader);
    uint64_t nb_pages = 0;

    fuzz_check(ram->nb_blocks > 0);
    for (unsigned i = 0; i < ram->nb_blocks; i++) {
        const SnapRAMBlock *block = &ram->blocks[i];

        fuzz_check(block->name[0] && block->length);
        fuzz_check(block->first_page == nb_pages);
        nb_pages += block->length >> ram->page_bits;
        note(reading, block->name, strlen(block->name));
        note_number(reading, block->length);
        note_number(reading, block->page_size);
    }
    fuzz_check(ram->nb_pages == nb_pages);
    fuzz_check(snap_stream_configuration(reader)->len <=
               SNAP_MAX_CONFIGURATION);
    note(reading, snap_stream_configuration(reader)->data,
         snap_stream_configuration(reader)->len);
}

/* A page, with data or without. */
static void note_page(Reading *reading, uint64_t page, const uint8_t *data,
                      size_t page_size)
{
    note_number(reading, page);
    note_number(reading, data ? XXH3_64bits(data, page_size) : 0);
}

static int coroutine_fn read_pages(Reading *reading, SnapStreamReader *reader,
                                   const SnapEvent *event)
{
    const SnapRAMBlocks *ram = snap_stream_ram(reader);
    size_t page_size = snap_ram_page_size(ram);
    const SnapRAMBlock *block = snap_ram_block_of(ram, event->page);
    uint64_t left = snap_ram_block_end(ram, block) - event->page;
    unsigned wanted = MIN(MIN(reading->nb_pages, left), MAX_BYTES / page_size);
    unsigned nb_pages = wanted;
    g_autofree uint8_t *buf = g_malloc(wanted * page_size);
    int ret = snap_stream_read_pages(reader, buf, &nb_pages, &reading->err);

    if (ret < 0) {
        return ret;
    }
    fuzz_check(nb_pages > 0 && nb_pages <= wanted);
    for (unsigned i = 0; i < nb_pages; i++) {
        note_page(reading, event->page + i, buf + i * page_size, page_size);
    }
    return 0;
}

static void check_place(SnapStreamReader *reader, const SnapEvent *event)
{
    fuzz_check(event->page < snap_stream_ram(reader)->nb_pages);
}

static int coroutine_fn handle(Reading *reading, SnapStreamReader *reader,
                               const SnapEvent *event)
{
    size_t before_ram;

    switch (event->type) {
    case SNAP_EVENT_PAGE:
        check_place(reader, event);
        return read_pages(reading, reader, event);
    case SNAP_EVENT_ZERO_PAGE:
        check_place(reader, event);
        note_page(reading, event->page, NULL, 0);
        return 0;
    case SNAP_EVENT_RAM_SETUP:
        check_blocks(reading, reader);
        break;
    case SNAP_EVENT_DEVICES:
        fuzz_check(snap_stream_setup(reader, &before_ram)->len <=
                   SNAP_MAX_SETUP);
        fuzz_check(before_ram <= snap_stream_setup(reader, &before_ram)->len);
        break;
    case SNAP_EVENT_DEVICE_DATA:
        /* In pieces of any size */
        note(reading, event->data, event->length);
        return 0;
    default:
        break;
    }
    note_number(reading, event->type);
    note_number(reading, event->value);
    note(reading, event->data, event->data ? event->length : 0);
    return 0;
}

static void coroutine_fn read_stream(void *opaque)
{
    Reading *reading = opaque;
    QIOChannel *ioc = fuzz_channel_new(reading->bytes, reading->chunk, 0);
    SnapInput *input = snap_input_new(ioc);
    SnapStreamReader *reader = snap_stream_reader_new(input,
                                                      reading->page_bits);
    SnapEvent event;
    int ret;

    do {
        ret = snap_stream_next(reader, &event, &reading->err);
        if (!ret) {
            ret = handle(reading, reader, &event);
        }
        /* None is without a byte, but for the last ones. */
        fuzz_check(reading->nb_events++ <= 2 * reading->bytes.size + 16);
    } while (!ret && event.type != SNAP_EVENT_END);
    fuzz_check(!ret == !reading->err);

    snap_stream_reader_free(reader);
    snap_input_free(input);
    object_unref(OBJECT(ioc));
}

/* Returns: hash of all that the stream said */
static uint64_t run(Reading *reading)
{
    uint64_t hash;

    reading->hash = XXH3_createState();
    XXH3_64bits_reset(reading->hash);
    run_in_coroutine(read_stream, reading);
    hash = XXH3_64bits_digest(reading->hash);
    XXH3_freeState(reading->hash);
    return hash;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    FuzzBytes bytes = { data, size };
    uint8_t bits = fuzz_u8(&bytes);
    uint8_t chunk = fuzz_u8(&bytes);
    uint8_t nb_pages = fuzz_u8(&bytes);
    Reading a = {
        .page_bits = SNAP_MIN_PAGE_BITS +
                     bits % (SNAP_MAX_PAGE_BITS - SNAP_MIN_PAGE_BITS + 1),
        .chunk = chunk < 128 ? chunk : (size_t)(chunk - 127) * 512,
        .nb_pages = 1 + nb_pages % MAX_PAGES,
        .bytes = bytes,
    };
    Reading b = a;
    uint64_t hash_a, hash_b;

    a.chunk = MAX(a.chunk, bytes.size / MAX_CHUNKS);
    b.chunk = SIZE_MAX;
    b.nb_pages = 1;
    hash_a = run(&a);
    hash_b = run(&b);
    fuzz_check(!a.err == !b.err && hash_a == hash_b, "%s; %s",
               a.err ? error_get_pretty(a.err) : "-",
               b.err ? error_get_pretty(b.err) : "-");
    error_free(a.err);
    error_free(b.err);
    return 0;
}
