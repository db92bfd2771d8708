/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages in memory, as a source, for the unit tests of who reads pages
 */

#ifndef SNAP_TESTS_MEMORY_SOURCE_H
#define SNAP_TESTS_MEMORY_SOURCE_H

#include "qemu/bswap.h"
#include "qapi/error.h"
#include "snap/ram/source.h"
#include "snap/util/task.h"

/* No page: for MemorySource's @bad_page and @unknown_page */
#define NO_PAGE UINT64_MAX

/**
 * MemorySource: a source whose reads take a while
 * @entries: what is known of each page, not owned
 * @bad_page: one that is damaged
 * @unknown_page: one that cannot be looked up
 * @nb_readers: readers that are open
 * @nb_started: reads that were ever started
 * @in_flight: reads that were started, and not waited for
 * @nb_held: reads that were started, and not released
 * @max_held: how many that were at most
 */
typedef struct MemorySource {
    SnapPageSource source;
    const uint64_t *entries;
    uint64_t bad_page;
    uint64_t unknown_page;
    unsigned nb_readers;
    unsigned nb_started;
    unsigned in_flight;
    unsigned nb_held;
    unsigned max_held;
} MemorySource;

typedef struct MemoryReader {
    SnapPageReader reader;
    SnapPageReaderLimits limits;
} MemoryReader;

static inline MemorySource *memory_of(SnapPageReader *reader)
{
    return container_of(reader->source, MemorySource, source);
}

static SnapPageReader *memory_open(SnapPageSource *source,
                                   const SnapPageReaderLimits *limits)
{
    MemoryReader *r = g_new(MemoryReader, 1);

    *r = (MemoryReader) { .reader.source = source, .limits = *limits };
    memory_of(&r->reader)->nb_readers++;
    return &r->reader;
}

static void memory_close(SnapPageReader *reader)
{
    g_assert_cmpuint(memory_of(reader)->nb_held, ==, 0);
    memory_of(reader)->nb_readers--;
    g_free(reader);
}

static int coroutine_fn memory_lookup(SnapPageReader *reader,
                                      SnapPageRange range, uint64_t *entries,
                                      Error **errp)
{
    MemorySource *m = memory_of(reader);

    snap_co_pause();
    if (m->unknown_page >= range.first &&
        m->unknown_page - range.first < range.count) {
        error_setg(errp, "Page %" PRIu64 " is unknown", m->unknown_page);
        return -EIO;
    }
    memcpy(entries, m->entries + range.first, range.count * sizeof(*entries));
    return 0;
}

/* What each eight bytes of a page are */
static inline uint64_t memory_word(const MemorySource *m, uint64_t page)
{
    return m->entries[page] * 31 + page;
}

static inline uint8_t *memory_data(const MemorySource *m, SnapPageRange range)
{
    size_t page_size = snap_ram_page_size(m->source.ram);
    uint8_t *data = g_malloc(range.count * page_size);

    for (size_t i = 0; i < range.count * page_size; i += 8) {
        stq_le_p(data + i, memory_word(m, range.first + i / page_size));
    }
    return data;
}

static int coroutine_fn memory_start(SnapPageReader *reader, SnapPageRead *read,
                                     SnapPageRange range, Error **errp)
{
    MemorySource *m = memory_of(reader);
    MemoryReader *r = container_of(reader, MemoryReader, reader);
    const SnapRAMBlock *block = snap_ram_block_of(m->source.ram, range.first);
    int ret;

    g_assert_null(read->entries);
    g_assert_cmpuint(range.count, >, 0);
    g_assert_cmpuint(range.count << m->source.ram->page_bits, <=,
                     r->limits.read_size);
    g_assert_cmpuint(range.first + range.count, <=,
                     snap_ram_block_end(m->source.ram, block));
    g_assert_cmpuint(m->nb_held, <, r->limits.nb_reads);
    read->entries = g_new(uint64_t, range.count);
    ret = memory_lookup(reader, range, read->entries, errp);
    if (ret < 0) {
        return ret;
    }
    read->pages = (SnapPages) { .range = range, .entries = read->entries };
    read->buffer = m;
    m->nb_started++;
    m->in_flight++;
    m->nb_held++;
    m->max_held = MAX(m->max_held, m->nb_held);
    return 0;
}

static int coroutine_fn memory_wait(SnapPageReader *reader, SnapPageRead *read,
                                    Error **errp)
{
    MemorySource *m = memory_of(reader);
    SnapPageRange range = read->pages.range;
    bool has_data = false;

    snap_co_pause();
    m->in_flight--;
    for (uint64_t i = 0; i < range.count; i++) {
        has_data |= snap_page_is_stored(read->entries[i]);
    }
    if (has_data) {
        read->pages.data = memory_data(m, range);
    }
    if (m->bad_page >= range.first && m->bad_page - range.first < range.count) {
        read->nb_corrupt = 1;
        error_setg(errp, "Page %" PRIu64 " is damaged", m->bad_page);
        return -EBADMSG;
    }
    return 0;
}

static void memory_release(SnapPageReader *reader, SnapPageRead *read)
{
    memory_of(reader)->nb_held -= read->buffer != NULL;
    g_free((void *)read->pages.data);
    g_free(read->entries);
    *read = (SnapPageRead) { };
}

static void coroutine_fn memory_drain(SnapPageReader *reader)
{
    memory_of(reader)->in_flight = 0;
}

static const SnapPageSourceOps memory_ops = {
    .open = memory_open,
    .close = memory_close,
    .lookup = memory_lookup,
    .start = memory_start,
    .wait = memory_wait,
    .release = memory_release,
    .drain = memory_drain,
};

/* @entries: one for each page of @ram */
static inline void memory_source_init(MemorySource *m, const SnapRAMBlocks *ram,
                                      const uint64_t *entries)
{
    *m = (MemorySource) {
        .source = { .ops = &memory_ops, .ram = ram },
        .entries = entries,
        .bad_page = NO_PAGE,
        .unknown_page = NO_PAGE,
    };
}

/* Compare pages that were read with what the source has. */
static inline void assert_memory(const MemorySource *m, const SnapPages *pages)
{
    size_t page_size = snap_ram_page_size(m->source.ram);

    for (uint64_t i = 0; i < pages->range.count; i++) {
        uint64_t page = pages->range.first + i;

        g_assert_cmpuint(pages->entries[i], ==, m->entries[page]);
        if (snap_page_is_stored(pages->entries[i])) {
            g_assert_cmpuint(ldq_le_p(pages->data + i * page_size), ==,
                             memory_word(m, page));
            g_assert_cmpuint(ldq_le_p(pages->data + (i + 1) * page_size - 8),
                             ==, memory_word(m, page));
        }
    }
}

#endif /* SNAP_TESTS_MEMORY_SOURCE_H */
