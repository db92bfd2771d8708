/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Whole migration streams, put together by hand for the unit tests
 */

#ifndef SNAP_TESTS_STREAM_BUILDER_H
#define SNAP_TESTS_STREAM_BUILDER_H

#include "qemu/units.h"
#include "migration/ram.h"
#include "migration/savevm.h"
#include "snap/stream/stream.h"
#include "stream-bytes.h"

#define PAGE_BITS   10
#define PAGE        (1 << PAGE_BITS)
#define RAM_ID      2
#define RAM_LENGTH  (4 * PAGE)
#define VGA_LENGTH  (2 * PAGE)

/* Number of the first page of block vga.vram */
#define VGA_FIRST   (RAM_LENGTH / PAGE)
#define VMDESC      "{\"page_size\":1024}"

#define COMPRESS_PAGE   0x100

static inline void put_header(GByteArray *b)
{
    put_be32(b, QEMU_VM_FILE_MAGIC);
    put_be32(b, QEMU_VM_FILE_VERSION);
    put_u8(b, QEMU_VM_CONFIGURATION);
    put_be32(b, 2);
    put_bytes(b, "pc", 2);
}

static inline void put_subsection(GByteArray *b, const char *name)
{
    put_u8(b, QEMU_VM_SUBSECTION);
    put_name(b, name);
    put_be32(b, 1);
}

static inline void put_ram_head(GByteArray *b, uint64_t total)
{
    put_head(b, QEMU_VM_SECTION_START, RAM_ID, "ram", 4);
    put_be64(b, total | RAM_SAVE_FLAG_MEM_SIZE);
}

static inline void put_block(GByteArray *b, const char *name, uint64_t length)
{
    put_name(b, name);
    put_be64(b, length);
}

static inline void put_eos(GByteArray *b)
{
    put_be64(b, RAM_SAVE_FLAG_EOS);
    put_footer(b, RAM_ID);
}

static inline void put_ram_start(GByteArray *b)
{
    put_ram_head(b, RAM_LENGTH + VGA_LENGTH);
    put_block(b, "pc.ram", RAM_LENGTH);
    put_block(b, "vga.vram", VGA_LENGTH);
    put_eos(b);
}

static inline void put_part(GByteArray *b)
{
    put_short_head(b, QEMU_VM_SECTION_PART, RAM_ID);
}

static inline void put_final(GByteArray *b)
{
    put_short_head(b, QEMU_VM_SECTION_END, RAM_ID);
}

static inline void put_record(GByteArray *b, uint64_t word, const char *name)
{
    put_be64(b, word);
    if (name) {
        put_name(b, name);
    }
}

/* A page full of @fill; the same block as before without a @name */
static inline void put_page(GByteArray *b, const char *name, uint64_t offset,
                            uint8_t fill)
{
    uint8_t page[PAGE];

    memset(page, fill, sizeof(page));
    put_record(b, offset | RAM_SAVE_FLAG_PAGE |
               (name ? 0 : RAM_SAVE_FLAG_CONTINUE), name);
    put_bytes(b, page, sizeof(page));
}

static inline void put_zero_page(GByteArray *b, const char *name,
                                 uint64_t offset)
{
    put_record(b, offset | RAM_SAVE_FLAG_ZERO |
               (name ? 0 : RAM_SAVE_FLAG_CONTINUE), name);
    put_u8(b, 0);
}

static inline void put_devices(GByteArray *b)
{
    put_full(b, 4, "timer", "\0\0\0\1", 4);
    put_full(b, 5, "cpu", "abcdefgh", 8);
}

static inline void put_end(GByteArray *b)
{
    put_u8(b, QEMU_VM_EOF);
    put_u8(b, QEMU_VM_VMDESCRIPTION);
    put_be32(b, strlen(VMDESC));
    put_bytes(b, VMDESC, strlen(VMDESC));
}

/* Two parts of RAM; the second one goes on with the block of the first. */
static inline void put_parts(GByteArray *b)
{
    put_part(b);
    put_page(b, "pc.ram", 0, 0xaa);
    put_zero_page(b, NULL, 2 * PAGE);
    put_eos(b);
    put_part(b);
    put_page(b, NULL, PAGE, 0xbb);
    put_page(b, "vga.vram", PAGE, 0xcc);
    put_zero_page(b, "pc.ram", 3 * PAGE);
    put_eos(b);
}

#define LOG_PARTS "page 0+0=aa zero 0+800 eos " \
    "page 0+400=bb page 1+400=cc zero 0+c00 eos "
#define LOG_DEVICES "devices complete 58+18 end"

/* As background-snapshot makes it */
static inline GByteArray *background_stream(void)
{
    GByteArray *b = g_byte_array_new();

    put_header(b);
    put_ram_start(b);
    put_parts(b);
    put_devices(b);
    put_end(b);
    return b;
}

/* As a precopy migration makes it */
static inline GByteArray *precopy_stream(void)
{
    GByteArray *b = g_byte_array_new();

    put_header(b);
    put_ram_start(b);
    put_parts(b);
    put_command(b, SNAP_CMD_SWITCHOVER_START, NULL, 0);
    put_final(b);
    put_zero_page(b, "pc.ram", 0);
    put_eos(b);
    put_devices(b);
    put_end(b);
    return b;
}

static const char dirty_bitmap[] = "\1bitmap\0";

static inline void put_bitmap_part(GByteArray *b, uint8_t type)
{
    put_short_head(b, type, 1);
    put_bytes(b, dirty_bitmap, sizeof(dirty_bitmap));
    put_footer(b, 1);
}

/* With an iterable section beside RAM, as QEMU orders them */
static inline GByteArray *bitmap_stream(void)
{
    GByteArray *b = g_byte_array_new();

    put_header(b);
    put_ram_start(b);
    put_head(b, QEMU_VM_SECTION_START, 1, "dirty-bitmap", 1);
    put_bytes(b, dirty_bitmap, sizeof(dirty_bitmap));
    put_footer(b, 1);
    put_parts(b);
    put_bitmap_part(b, QEMU_VM_SECTION_PART);
    put_final(b);
    put_eos(b);
    put_bitmap_part(b, QEMU_VM_SECTION_END);
    put_devices(b);
    put_end(b);
    return b;
}

/* Header and RAM's list of blocks; the caller goes on from there. */
static inline GByteArray *started_stream(void)
{
    GByteArray *b = g_byte_array_new();

    put_header(b);
    put_ram_start(b);
    return b;
}

static inline void put_flush(GByteArray *b)
{
    put_be64(b, RAM_SAVE_FLAG_MULTIFD_FLUSH);
}

/* RAM whose pages come over other channels, but for one that is zero */
static inline GByteArray *multifd_stream(void)
{
    GByteArray *b = g_byte_array_new();

    put_header(b);
    put_ram_head(b, RAM_LENGTH);
    put_block(b, "pc.ram", RAM_LENGTH);
    put_flush(b);
    put_eos(b);
    put_part(b);
    put_zero_page(b, "pc.ram", PAGE);
    put_flush(b);
    put_eos(b);
    put_final(b);
    put_flush(b);
    put_eos(b);
    put_devices(b);
    put_end(b);
    return b;
}

#endif /* SNAP_TESTS_STREAM_BUILDER_H */
