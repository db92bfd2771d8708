/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The host pages of a destination
 *
 * Postcopy places whole host pages, which are larger than target pages if
 * RAM is backed by hugetlbfs.  The snapshot does not know those of a
 * destination; QEMU compares what is announced with its own, and refuses a
 * mismatch
 * (migration/savevm.c:loadvm_postcopy_handle_advise,
 * migration/ram.c:parse_ramblock).
 */

#ifndef SNAP_RAM_HOST_PAGES_H
#define SNAP_RAM_HOST_PAGES_H

#include "snap/ram/blocks.h"

/* A target may have larger pages than the host: postcopy refuses those. */
#define SNAP_MAX_HOST_PAGE_BITS 34

/**
 * SnapHostPages: size of the host pages of each RAM block
 */
typedef struct SnapHostPages {
    /*< private >*/
    const SnapRAMBlocks *ram;   /* not owned */
    unsigned *bits;             /* log2 of the size for each block */
    unsigned default_bits;      /* log2 of the default size */
} SnapHostPages;

/**
 * snap_host_pages_init: set the host pages to announce to a destination
 * @ram: must outlive @pages
 * @options: NULL-terminated list of "[BLOCK=]SIZE"; NULL for none.  Without a
 *           name, the size is for the largest block
 *
 * A block that is not named has the page size that was announced when it was
 * saved, and this host's page size if none was.
 *
 * Returns: false with @errp set if a size does not fit its block
 */
bool snap_host_pages_init(SnapHostPages *pages, const SnapRAMBlocks *ram,
                          char *const *options, Error **errp);
void snap_host_pages_destroy(SnapHostPages *pages);

/* The sizes of all blocks ored together, as POSTCOPY_ADVISE has it. */
uint64_t snap_host_pages_summary(const SnapHostPages *pages);

/* Size of the host pages of block @index, in bytes. */
static inline uint64_t snap_host_pages_size(const SnapHostPages *pages,
                                            int index)
{
    return UINT64_C(1) << pages->bits[index];
}

/* Target pages in a host page of block @index. */
static inline uint64_t snap_host_pages_count(const SnapHostPages *pages,
                                             int index)
{
    return UINT64_C(1) << (pages->bits[index] - pages->ram->page_bits);
}

/* Whether RAM's START section has to tell the size for block @index. */
static inline bool snap_host_pages_announced(const SnapHostPages *pages,
                                             int index)
{
    return pages->bits[index] != pages->default_bits;
}

#endif /* SNAP_RAM_HOST_PAGES_H */
