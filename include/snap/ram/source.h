/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where pages come from
 *
 * Whoever sends or checks pages reads them through this, and does not know
 * what has them: today an image (image/verified-read), in unit tests memory.
 *
 *   walk (precopy, multifd, prefetch, check)     demand
 *                       |                           |
 *                       +----- SnapPageReader ------+
 *                                    |
 *                             SnapPageSource
 *
 * A source is opened for a number of reads that may be in flight.  These are
 * started one after another, and waited for in any order:
 *
 *   start -> (anything else) -> wait -> look at the pages -> release
 *
 * All calls of one reader are made in one AioContext.
 */

#ifndef SNAP_RAM_SOURCE_H
#define SNAP_RAM_SOURCE_H

#include "qemu/coroutine.h"
#include "snap/ram/blocks.h"

/* What is known of a page, its entry; other values are hashes of its data. */
#define SNAP_PAGE_UNSENT    UINT64_C(0)
#define SNAP_PAGE_ZERO      UINT64_C(1)

/* Whether the entry of a page says that it has data. */
static inline bool snap_page_is_stored(uint64_t entry)
{
    return entry > SNAP_PAGE_ZERO;
}

/**
 * SnapPages: pages that were read
 * @range: which
 * @entries: what is known of each
 * @data: their data, valid for stored pages; NULL if none is stored
 */
typedef struct SnapPages {
    SnapPageRange range;
    const uint64_t *entries;
    const uint8_t *data;
} SnapPages;

/**
 * SnapPageRead: a read; zero before the first one, and once it is released
 * @pages: the pages, valid from snap_page_reader_wait() on
 * @nb_corrupt: of these, pages that are damaged or could not be read
 */
typedef struct SnapPageRead {
    SnapPages pages;
    unsigned nb_corrupt;

    /*< private: up to the source >*/
    uint64_t *entries;
    unsigned first_stored;
    void *buffer;
} SnapPageRead;

/**
 * SnapPageReaderLimits: what a reader may have in memory
 * @nb_reads: reads that were started and not released; 0 to look up only
 * @read_size: bytes of a read
 * @lookup_size: bytes of entries to keep: 8 for each page, and little for who
 *               goes through RAM in order
 */
typedef struct SnapPageReaderLimits {
    unsigned nb_reads;
    size_t read_size;
    size_t lookup_size;
} SnapPageReaderLimits;

typedef struct SnapPageSourceOps SnapPageSourceOps;

/**
 * SnapPageSource: something that has a guest's pages
 * @ops: how to get at them
 * @ram: the RAM blocks, not owned
 */
typedef struct SnapPageSource {
    const SnapPageSourceOps *ops;
    const SnapRAMBlocks *ram;
} SnapPageSource;

/**
 * SnapPageReader: a source that was opened; a source's own begin with this
 */
typedef struct SnapPageReader {
    SnapPageSource *source;
} SnapPageReader;

/**
 * SnapPageSourceOps: what a source can do; see the functions below
 */
struct SnapPageSourceOps {
    SnapPageReader *(*open)(SnapPageSource *source,
                            const SnapPageReaderLimits *limits);
    void (*close)(SnapPageReader *reader);
    int coroutine_fn (*lookup)(SnapPageReader *reader, SnapPageRange range,
                               uint64_t *entries, Error **errp);
    int coroutine_fn (*start)(SnapPageReader *reader, SnapPageRead *read,
                              SnapPageRange range, Error **errp);
    int coroutine_fn (*wait)(SnapPageReader *reader, SnapPageRead *read,
                             Error **errp);
    void (*release)(SnapPageReader *reader, SnapPageRead *read);
    void coroutine_fn (*drain)(SnapPageReader *reader);
};

/**
 * snap_page_reader_open: get ready to read pages
 * @source: not owned, must outlive the reader
 */
static inline SnapPageReader *
snap_page_reader_open(SnapPageSource *source,
                      const SnapPageReaderLimits *limits)
{
    return source->ops->open(source, limits);
}

/* Nothing may be in flight, and all reads have to be released. */
static inline void snap_page_reader_close(SnapPageReader *reader)
{
    if (reader) {
        reader->source->ops->close(reader);
    }
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapPageReader, snap_page_reader_close)

/**
 * snap_page_reader_lookup: what is known of pages
 * @entries: filled in, one for each page of @range
 *
 * Returns: 0 on success, -errno with @errp set
 */
static inline int coroutine_fn
snap_page_reader_lookup(SnapPageReader *reader, SnapPageRange range,
                        uint64_t *entries, Error **errp)
{
    return reader->source->ops->lookup(reader, range, entries, errp);
}

/**
 * snap_page_reader_start: begin to read pages
 * @read: to be released, even if this fails
 * @range: not larger than the limits say
 *
 * Waits if as many reads as the limits allow hold data.
 *
 * Returns: 0 on success, -errno with @errp set
 */
static inline int coroutine_fn
snap_page_reader_start(SnapPageReader *reader, SnapPageRead *read,
                       SnapPageRange range, Error **errp)
{
    return reader->source->ops->start(reader, read, range, errp);
}

/**
 * snap_page_reader_wait: wait until pages are there, and were verified
 *
 * Returns: 0 on success; -errno with @errp set, and @read->nb_corrupt: -EBADMSG
 * if a page is not what it should be
 */
static inline int coroutine_fn
snap_page_reader_wait(SnapPageReader *reader, SnapPageRead *read, Error **errp)
{
    return reader->source->ops->wait(reader, read, errp);
}

/* Give back what a read holds. */
static inline void snap_page_reader_release(SnapPageReader *reader,
                                            SnapPageRead *read)
{
    reader->source->ops->release(reader, read);
}

/* Wait until nothing is in flight, whatever was started. */
static inline void coroutine_fn snap_page_reader_drain(SnapPageReader *reader)
{
    reader->source->ops->drain(reader);
}

#endif /* SNAP_RAM_SOURCE_H */
