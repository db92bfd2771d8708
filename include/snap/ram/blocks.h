/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's RAM: its blocks, and the numbers of its pages
 *
 * The folder ram/ has the guest's RAM as all others see it: its blocks and
 * pages (here), the pages of the host under them (host-pages), what a stream
 * says of it besides pages (section), and how pages are read, wherever they
 * come from (source, and walk for many of them).  Where RAM lies in an image is
 * up to image/layout.
 *
 * Blocks and pages are pure arithmetic.
 */

#ifndef SNAP_RAM_BLOCKS_H
#define SNAP_RAM_BLOCKS_H

#include "qemu/units.h"

/* Bounds of what a stream or an image may claim. */
#define SNAP_MAX_BLOCKS     4096
#define SNAP_MAX_RAM        (64 * TiB)
#define SNAP_MIN_PAGE_BITS  10
#define SNAP_MAX_PAGE_BITS  16
/* idstr of a RAM block: u8 length in the stream. */
#define SNAP_BLOCK_NAME_MAX 255

/**
 * SnapRAMBlock: one RAM block of the guest
 * @name: its idstr
 * @length: used length in bytes, a multiple of the target page size
 * @page_size: the page size in bytes that the stream announced for the block,
 *             0 if it announced none (migration/ram.c:ram_save_setup)
 * @first_page: number of its first page; pages are numbered through all blocks
 */
typedef struct SnapRAMBlock {
    char name[SNAP_BLOCK_NAME_MAX + 1];
    uint64_t length;
    uint64_t page_size;
    uint64_t first_page;
} SnapRAMBlock;

/**
 * SnapRAMBlocks: all RAM blocks in stream order; constant once all were added
 * @page_bits: log2 of the target page size
 * @blocks: the blocks, owned
 * @nb_blocks: how many
 * @nb_pages: target pages in all blocks together
 */
typedef struct SnapRAMBlocks {
    unsigned page_bits;
    SnapRAMBlock *blocks;
    unsigned nb_blocks;
    uint64_t nb_pages;
} SnapRAMBlocks;

/**
 * SnapPageRange: consecutive pages of one RAM block
 * @first: number of the first one
 * @count: how many
 *
 * This is how pages are named inside.  Streams and their messages name a block
 * and an offset in it: whoever reads or writes them converts, and checks.
 */
typedef struct SnapPageRange {
    uint64_t first;
    uint64_t count;
} SnapPageRange;

/**
 * snap_ram_blocks_init: start without blocks
 * @page_bits: log2 of the target page size, within the bounds above
 */
void snap_ram_blocks_init(SnapRAMBlocks *ram, unsigned page_bits);
void snap_ram_blocks_destroy(SnapRAMBlocks *ram);

/* Whether a terminal does nothing but show @name: names go into messages. */
bool snap_name_is_printable(const char *name, size_t length);

/**
 * snap_ram_blocks_add: append a RAM block
 * @name: idstr, 1 to 255 printable characters, not used by a block before
 * @length: used length in bytes
 * @page_size: announced page size in bytes or 0
 *
 * Returns: the block, valid until the next call; NULL with @errp set if a
 * value is out of bounds
 */
const SnapRAMBlock *snap_ram_blocks_add(SnapRAMBlocks *ram, const char *name,
                                        uint64_t length, uint64_t page_size,
                                        Error **errp);

/**
 * snap_ram_blocks_find: look a block up by idstr
 * @hint: index to try first
 *
 * Returns: index of the block, -1 if no block has that name
 */
int snap_ram_blocks_find(const SnapRAMBlocks *ram, const char *name, int hint);

/**
 * snap_ram_block_of: the block that holds a page
 * @page: page number, below @nb_pages
 */
const SnapRAMBlock *snap_ram_block_of(const SnapRAMBlocks *ram, uint64_t page);

static inline uint64_t snap_ram_page_size(const SnapRAMBlocks *ram)
{
    return UINT64_C(1) << ram->page_bits;
}

/* Pages in @block. */
static inline uint64_t snap_ram_block_pages(const SnapRAMBlocks *ram,
                                            const SnapRAMBlock *block)
{
    return block->length >> ram->page_bits;
}

/* Number of the page after the last one of @block. */
static inline uint64_t snap_ram_block_end(const SnapRAMBlocks *ram,
                                          const SnapRAMBlock *block)
{
    return block->first_page + snap_ram_block_pages(ram, block);
}

/* Number of the page at @offset bytes within @block. */
static inline uint64_t snap_ram_page(const SnapRAMBlocks *ram,
                                     const SnapRAMBlock *block,
                                     uint64_t offset)
{
    return block->first_page + (offset >> ram->page_bits);
}

/* Offset of page number @page within @block, in bytes. */
static inline uint64_t snap_ram_page_offset(const SnapRAMBlocks *ram,
                                            const SnapRAMBlock *block,
                                            uint64_t page)
{
    return (page - block->first_page) << ram->page_bits;
}

#endif /* SNAP_RAM_BLOCKS_H */
