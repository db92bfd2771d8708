/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Walking through a snapshot's RAM in order
 */

#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "snap/io-window.h"
#include "snap/ram-reader.h"
#include "trace.h"

/* RAM is read in pieces of this size, so many of them ahead. */
#define PIECE_SIZE (1 * MiB)
#define MAX_PIECE_PAGES (PIECE_SIZE >> SNAP_MIN_PAGE_BITS)
#define PIECES_AHEAD 16

/* The table is walked in order. */
#define TABLE_CHUNKS 4

typedef struct Piece {
    SnapIOBuffer *buffer;       /* NULL where no page is stored */
    int block;
    uint64_t offset;            /* within the block */
    unsigned nb_pages;
    unsigned first_stored;      /* what the buffer begins with */
    uint64_t entries[MAX_PIECE_PAGES];
} Piece;

struct SnapRAMReader {
    /* constant */
    SnapImage *image;
    SnapTable *page_table;
    SnapIOWindow *window;

    /* pieces whose reads were started, in order */
    Piece pieces[PIECES_AHEAD];
    unsigned head;
    unsigned nb_ahead;
    Piece *taken;               /* the caller has it */
    unsigned corrupt_pages;     /* of the piece that was taken last */

    /* what to start next */
    int next_block;
    uint64_t next_offset;
};

SnapRAMReader *snap_ram_reader_new(SnapImage *image)
{
    SnapRAMReader *r = g_new0(SnapRAMReader, 1);

    r->image = image;
    r->page_table = snap_image_page_table(image, TABLE_CHUNKS);
    r->window = snap_io_window_new(image->blk, PIECES_AHEAD, PIECE_SIZE);
    return r;
}

void snap_ram_reader_free(SnapRAMReader *r)
{
    if (!r) {
        return;
    }
    snap_table_free(r->page_table);
    snap_io_window_free(r->window);
    g_free(r);
}

static bool is_stored(uint64_t entry)
{
    return entry != SNAP_PAGE_UNSENT && entry != SNAP_PAGE_ZERO;
}

/* Read the table's entries of a piece; returns the range that is stored. */
static int coroutine_fn read_entries(SnapRAMReader *r, Piece *piece,
                                     unsigned *end_stored, Error **errp)
{
    const SnapLayout *layout = &r->image->layout;
    uint64_t first = snap_layout_page(layout, &layout->blocks[piece->block],
                                      piece->offset);

    piece->first_stored = piece->nb_pages;
    *end_stored = 0;
    for (unsigned i = 0; i < piece->nb_pages; i++) {
        int ret = snap_table_get(r->page_table, first + i, &piece->entries[i],
                                 errp);

        if (ret < 0) {
            return ret;
        }
        if (is_stored(piece->entries[i])) {
            piece->first_stored = MIN(piece->first_stored, i);
            *end_stored = i + 1;
        }
    }
    return 0;
}

/* Start to read the next piece of RAM. */
static int coroutine_fn start_piece(SnapRAMReader *r, Error **errp)
{
    const SnapLayout *layout = &r->image->layout;
    const SnapRAMBlock *block = &layout->blocks[r->next_block];
    Piece *piece = &r->pieces[(r->head + r->nb_ahead) % PIECES_AHEAD];
    uint64_t length = MIN(block->length - r->next_offset, PIECE_SIZE);
    unsigned end_stored;
    int ret;

    piece->buffer = NULL;
    piece->block = r->next_block;
    piece->offset = r->next_offset;
    piece->nb_pages = length >> layout->page_bits;
    ret = read_entries(r, piece, &end_stored, errp);
    if (ret < 0) {
        return ret;
    }
    if (end_stored) {
        unsigned nb = end_stored - piece->first_stored;

        piece->buffer = snap_io_window_get(r->window);
        piece->buffer->offset = block->offset + piece->offset +
            ((uint64_t)piece->first_stored << layout->page_bits);
        snap_io_window_read(r->window, piece->buffer,
                            (size_t)nb << layout->page_bits);
    }
    r->nb_ahead++;

    r->next_offset += length;
    if (r->next_offset == block->length) {
        r->next_block++;
        r->next_offset = 0;
    }
    return 0;
}

/* Count the stored pages of a piece that are not what their hashes say. */
static unsigned verify(SnapRAMReader *r, const Piece *piece,
                       const uint8_t *data, unsigned *first_corrupt)
{
    size_t page_size = snap_layout_page_size(&r->image->layout);
    unsigned nb_corrupt = 0;

    for (unsigned i = piece->first_stored; i < piece->nb_pages; i++) {
        if (is_stored(piece->entries[i]) &&
            (!data || snap_page_entry(data + i * page_size, page_size) !=
                      piece->entries[i])) {
            *first_corrupt = nb_corrupt++ ? *first_corrupt : i;
        }
    }
    return nb_corrupt;
}

/* Wait until the data of a piece is there; *@data as if it began at page 0. */
static int coroutine_fn wait_data(SnapRAMReader *r, const Piece *piece,
                                  const uint8_t **data, Error **errp)
{
    const SnapLayout *layout = &r->image->layout;
    const char *block_name = layout->blocks[piece->block].name;
    unsigned first_corrupt = 0;
    int ret;

    *data = NULL;
    if (!piece->buffer) {
        return 0;
    }
    ret = snap_io_window_wait(r->window, piece->buffer);
    if (ret < 0) {
        r->corrupt_pages = verify(r, piece, NULL, &first_corrupt);
        error_setg_errno(errp, -ret, "Could not read RAM block '%s' at offset "
                         "0x%" PRIx64, block_name, piece->offset);
        return ret;
    }
    *data = piece->buffer->data -
            ((size_t)piece->first_stored << layout->page_bits);
    r->corrupt_pages = verify(r, piece, *data, &first_corrupt);
    if (r->corrupt_pages) {
        error_setg(errp, "The snapshot is corrupt: RAM block '%s', page at "
                   "offset 0x%" PRIx64, block_name, piece->offset +
                   ((uint64_t)first_corrupt << layout->page_bits));
        return -EBADMSG;
    }
    return 0;
}

/* Wait for the head of the queue and hand it to the caller. */
static int coroutine_fn take_piece(SnapRAMReader *r, SnapRAMPiece *result,
                                   Error **errp)
{
    Piece *piece = &r->pieces[r->head];
    const uint8_t *data;
    int ret;

    r->head = (r->head + 1) % PIECES_AHEAD;
    r->nb_ahead--;
    r->taken = piece;
    ret = wait_data(r, piece, &data, errp);
    if (ret < 0) {
        return ret;
    }
    *result = (SnapRAMPiece) {
        .block = piece->block,
        .offset = piece->offset,
        .nb_pages = piece->nb_pages,
        .entries = piece->entries,
        .data = data,
    };
    return 1;
}

unsigned snap_ram_reader_corrupt_pages(const SnapRAMReader *r)
{
    return r->corrupt_pages;
}

static void put_taken(SnapRAMReader *r)
{
    if (r->taken && r->taken->buffer) {
        snap_io_window_put(r->window, r->taken->buffer);
    }
    r->taken = NULL;
}

int coroutine_fn snap_ram_reader_next(SnapRAMReader *r, SnapRAMPiece *piece,
                                      Error **errp)
{
    put_taken(r);
    r->corrupt_pages = 0;
    while (r->nb_ahead < PIECES_AHEAD - 1 &&
           r->next_block < r->image->layout.nb_blocks) {
        int ret = start_piece(r, errp);

        if (ret < 0) {
            return ret;
        }
    }
    return r->nb_ahead ? take_piece(r, piece, errp) : 0;
}

void coroutine_fn snap_ram_reader_abort(SnapRAMReader *r)
{
    snap_io_window_drain(r->window);
}
