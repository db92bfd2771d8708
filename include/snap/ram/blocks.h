/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where RAM lies in a snapshot image
 *
 * The folder ram/ has the guest's RAM as all others see it: its blocks, the
 * numbers of its pages (here), the pages of the host under them (host-pages),
 * and what a stream says of it besides pages (section).
 *
 * Pure arithmetic over RAM blocks; nothing here does I/O.  The rules are those
 * of docs/interop/snapshot-image.rst, section "Layout".
 */

#ifndef SNAP_RAM_BLOCKS_H
#define SNAP_RAM_BLOCKS_H

#include "qemu/units.h"

/* RAM blocks start at multiples of this, the first one after the header. */
#define SNAP_BLOCK_ALIGN    (2 * MiB)
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
 * @offset: where the block starts in the image, in bytes
 * @first_page: number of its first page; pages are numbered through all blocks
 * @stored_pages: pages with data in the image
 * @zero_pages: pages known to be zero; all others were never sent
 */
typedef struct SnapRAMBlock {
    char name[SNAP_BLOCK_NAME_MAX + 1];
    uint64_t length;
    uint64_t page_size;

    /* set by snap_layout_add() */
    uint64_t offset;
    uint64_t first_page;

    /* filled in by save, stored in the block table */
    uint64_t stored_pages;
    uint64_t zero_pages;
} SnapRAMBlock;

/**
 * SnapLayout: all RAM blocks in stream order
 * @page_bits: log2 of the target page size
 * @blocks: the blocks, owned by the layout
 * @nb_blocks: how many
 * @nb_pages: target pages in all blocks together
 * @ram_end: first byte of the image after RAM
 */
typedef struct SnapLayout {
    unsigned page_bits;
    SnapRAMBlock *blocks;
    unsigned nb_blocks;
    uint64_t nb_pages;
    uint64_t ram_end;
} SnapLayout;

/**
 * snap_layout_init: start an empty layout
 * @page_bits: log2 of the target page size, within the bounds above
 */
void snap_layout_init(SnapLayout *layout, unsigned page_bits);
void snap_layout_destroy(SnapLayout *layout);

/* Whether a terminal does nothing but show @name: names go into messages. */
bool snap_name_is_printable(const char *name, size_t length);

/**
 * snap_layout_add: append a RAM block
 * @name: idstr, 1 to 255 printable characters, not used by a block before
 * @length: used length in bytes
 * @page_size: announced page size in bytes or 0
 *
 * Returns: the block, valid until the next call; NULL with @errp set if a
 * value is out of bounds
 */
SnapRAMBlock *snap_layout_add(SnapLayout *layout, const char *name,
                              uint64_t length, uint64_t page_size,
                              Error **errp);

/**
 * snap_layout_find: look a block up by idstr
 * @hint: index to try first
 *
 * Returns: index of the block, -1 if no block has that name
 */
int snap_layout_find(const SnapLayout *layout, const char *name, int hint);

/**
 * snap_layout_block_of: the block that holds a page
 * @page: page number, below @nb_pages
 */
SnapRAMBlock *snap_layout_block_of(const SnapLayout *layout, uint64_t page);

static inline uint64_t snap_layout_page_size(const SnapLayout *layout)
{
    return UINT64_C(1) << layout->page_bits;
}

/* Pages with data in all blocks, as the block table says for information. */
uint64_t snap_layout_stored_pages(const SnapLayout *layout);

/* Pages in @block. */
static inline uint64_t snap_layout_block_pages(const SnapLayout *layout,
                                               const SnapRAMBlock *block)
{
    return block->length >> layout->page_bits;
}

/* Number of the page at @offset bytes within @block. */
static inline uint64_t snap_layout_page(const SnapLayout *layout,
                                        const SnapRAMBlock *block,
                                        uint64_t offset)
{
    return block->first_page + (offset >> layout->page_bits);
}

/* Where page number @page of @block lies in the image, in bytes. */
static inline uint64_t snap_layout_offset(const SnapLayout *layout,
                                          const SnapRAMBlock *block,
                                          uint64_t page)
{
    return block->offset + ((page - block->first_page) << layout->page_bits);
}

#endif /* SNAP_RAM_BLOCKS_H */
