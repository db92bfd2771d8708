/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of the image's own structures
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "snap/image/format.h"
#include "snap/image/table.h"
#include "snap/ram/source.h"
#include "stream-bytes.h"
#include "test-table.h"

#define PAGE_BITS   12
#define PAGE        (UINT64_C(1) << PAGE_BITS)
#define NB_PAGES    UINT64_C(20000)
#define IMAGE_SIZE  (1 * GiB)

/* A header with all parts, one after the other. */
static SnapHeader valid_header(void)
{
    SnapHeader header = {
        .created = 1767225600,
        .compatible = SNAP_COMPATIBLE_WORKING_SET,
        .flags = SNAP_FLAG_FOOTERS | SNAP_FLAG_ARRIVALS_TRUNCATED,
        .page_bits = PAGE_BITS,
        .nb_blocks = 3,
        .nb_pages = NB_PAGES,
        .nb_arrivals = 1000,
        .before_ram = 30,
        .section = { .id = 2, .instance = 4, .footers = true },
    };
    static const uint64_t lengths[SNAP_PART__MAX] = {
        [SNAP_PART_BLOCK_TABLE]   = 150,
        [SNAP_PART_CONFIGURATION] = 40,
        [SNAP_PART_SETUP]         = 100,
        [SNAP_PART_METADATA]      = 2,
        [SNAP_PART_DEVICES]       = 70001,
        [SNAP_PART_VMDESC]        = 3008,
        [SNAP_PART_WORKING_SET]   = 848,
    };
    uint64_t offset = 512 * MiB;

    for (unsigned i = 0; i < sizeof(header.uuid.data); i++) {
        header.uuid.data[i] = 0xa0 + i;
    }
    for (unsigned i = 0; i < SNAP_PART__MAX; i++) {
        header.parts[i] = (SnapPartInfo) {
            .offset = offset,
            .length = lengths[i],
            .checksum = 1000 + i,
        };
        offset += 20 * MiB;
    }
    header.parts[SNAP_PART_PAGE_TABLE].length = snap_table_bytes(NB_PAGES);
    header.parts[SNAP_PART_ARRIVALS].length = snap_table_bytes(1000);
    return header;
}

static int decode(const SnapHeader *header, SnapHeader *decoded, Error **errp)
{
    uint8_t buf[SNAP_HEADER_SIZE];

    snap_header_encode(header, buf);
    return snap_header_decode(decoded, buf, IMAGE_SIZE, errp);
}

static void assert_accepted(const SnapHeader *header)
{
    SnapHeader decoded;
    Error *err = NULL;

    g_assert_cmpint(decode(header, &decoded, &err), ==, 0);
    g_assert_null(err);
    error_free(err);
}

/* That a header with a valid checksum is refused. */
static void assert_refused(const SnapHeader *header, int code)
{
    SnapHeader decoded;
    Error *err = NULL;

    g_assert_cmpint(decode(header, &decoded, &err), ==, code);
    g_assert_nonnull(err);
    error_free(err);
}

static void test_part_names(void)
{
    for (unsigned i = 0; i < SNAP_PART__MAX; i++) {
        g_assert_cmpuint(strlen(snap_part_name(i)), >, 0);
        for (unsigned j = 0; j < i; j++) {
            g_assert_cmpstr(snap_part_name(i), !=, snap_part_name(j));
        }
    }
}

static void test_page_entry(void)
{
    g_autofree uint8_t *page = g_malloc0(4096);
    uint64_t entry;

    page[17] = 1;
    entry = snap_page_entry(page, 4096);
    g_assert_cmpuint(entry, !=, SNAP_PAGE_UNSENT);
    g_assert_cmpuint(entry, !=, SNAP_PAGE_ZERO);
    g_assert_cmpuint(snap_page_entry(page, 4096), ==, entry);
    page[4095] = 1;
    g_assert_cmpuint(snap_page_entry(page, 4096), !=, entry);
}

static void test_checksum(void)
{
    /* XXH3-64 of nothing, seed 0: as its specification says */
    g_assert_cmphex(snap_checksum("", 0), ==, UINT64_C(0x2d06800538d394c2));
    g_assert_cmphex(snap_checksum("a", 1), !=, snap_checksum("b", 1));
}

static void test_seed_is_of_uuid(void)
{
    static const SnapPart tables[] = {
        SNAP_PART_PAGE_TABLE, SNAP_PART_ARRIVALS,
    };

    for (unsigned i = 0; i < ARRAY_SIZE(tables); i++) {
        SnapHeader header = valid_header();
        uint64_t seed = snap_header_seed(&header, tables[i]);

        memset(header.uuid.data, 0x55, sizeof(header.uuid.data));
        g_assert_cmphex(snap_header_seed(&header, tables[i]), !=, seed);
    }
}

static void test_seed_of_each_table(void)
{
    SnapHeader header = valid_header();

    g_assert_cmphex(snap_header_seed(&header, SNAP_PART_PAGE_TABLE), !=,
                    snap_header_seed(&header, SNAP_PART_ARRIVALS));
}

static void test_header_round_trip(void)
{
    SnapHeader header = valid_header();
    SnapHeader decoded;

    g_assert_cmpint(decode(&header, &decoded, &error_abort), ==, 0);
    g_assert_cmpuint(decoded.incompatible, ==, 0);
    g_assert_cmpuint(decoded.compatible, ==, header.compatible);
    g_assert_cmpmem(&decoded.uuid, sizeof(QemuUUID),
                    &header.uuid, sizeof(QemuUUID));
    g_assert_cmpuint(decoded.created, ==, header.created);
    g_assert_cmpuint(decoded.flags, ==, header.flags);
    g_assert_cmpuint(decoded.page_bits, ==, header.page_bits);
    g_assert_cmpuint(decoded.nb_blocks, ==, header.nb_blocks);
    g_assert_cmpuint(decoded.nb_pages, ==, header.nb_pages);
    g_assert_cmpuint(decoded.nb_arrivals, ==, header.nb_arrivals);
    g_assert_cmpuint(decoded.before_ram, ==, header.before_ram);
    g_assert_cmpuint(decoded.section.id, ==, header.section.id);
    g_assert_cmpuint(decoded.section.instance, ==, header.section.instance);
    g_assert_true(decoded.section.footers);
}

static void test_claim_is_no_header(void)
{
    SnapHeader header = valid_header(), decoded;
    QemuUUID other = header.uuid;
    uint8_t buf[SNAP_HEADER_SIZE];
    Error *err = NULL;

    other.data[15] ^= 1;
    snap_header_encode(&header, buf);
    g_assert_true(snap_header_present(buf));
    g_assert_true(snap_header_is_of(buf, &header.uuid));
    g_assert_false(snap_header_is_of(buf, &other));

    snap_header_encode_claim(&header.uuid, buf);
    g_assert_false(snap_header_present(buf));
    g_assert_true(snap_header_is_of(buf, &header.uuid));
    g_assert_false(snap_header_is_of(buf, &other));
    g_assert_cmpint(snap_header_decode(&decoded, buf, IMAGE_SIZE, &err), ==,
                    -EINVAL);
    error_free(err);
}

static void test_header_parts_round_trip(void)
{
    SnapHeader header = valid_header();
    SnapHeader decoded;

    g_assert_cmpint(decode(&header, &decoded, &error_abort), ==, 0);
    for (unsigned i = 0; i < SNAP_PART__MAX; i++) {
        g_assert_cmpuint(decoded.parts[i].offset, ==, header.parts[i].offset);
        g_assert_cmpuint(decoded.parts[i].length, ==, header.parts[i].length);
        g_assert_cmpuint(decoded.parts[i].checksum, ==,
                         header.parts[i].checksum);
    }
}

static void test_header_without_footers(void)
{
    SnapHeader header = valid_header();
    SnapHeader decoded;

    header.section.footers = false;
    header.flags = SNAP_FLAG_RAM_END;
    g_assert_cmpint(decode(&header, &decoded, &error_abort), ==, 0);
    g_assert_false(decoded.section.footers);
    g_assert_cmpuint(decoded.flags, ==, SNAP_FLAG_RAM_END);
}

static void test_header_without_optional_parts(void)
{
    static const SnapPart optional[] = {
        SNAP_PART_ARRIVALS, SNAP_PART_SETUP, SNAP_PART_METADATA,
        SNAP_PART_DEVICES, SNAP_PART_VMDESC,
    };
    SnapHeader header = valid_header();

    header.nb_arrivals = 0;
    header.before_ram = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(optional); i++) {
        header.parts[optional[i]] = (SnapPartInfo) { };
    }
    assert_accepted(&header);
}

static void test_every_flipped_bit(void)
{
    SnapHeader header = valid_header();
    uint8_t buf[SNAP_HEADER_SIZE];

    snap_header_encode(&header, buf);
    for (unsigned bit = 0; bit < SNAP_HEADER_SIZE * 8; bit++) {
        SnapHeader decoded;
        Error *err = NULL;

        buf[bit / 8] ^= 1 << bit % 8;
        g_assert_cmpint(snap_header_decode(&decoded, buf, IMAGE_SIZE, &err),
                        <, 0);
        g_assert_nonnull(err);
        error_free(err);
        buf[bit / 8] ^= 1 << bit % 8;
    }
}

static void test_no_snapshot(void)
{
    uint8_t buf[SNAP_HEADER_SIZE] = { };
    SnapHeader decoded;
    Error *err = NULL;

    g_assert_cmpint(snap_header_decode(&decoded, buf, IMAGE_SIZE, &err), ==,
                    -EINVAL);
    g_assert_nonnull(err);
    error_free(err);
}

static void test_damaged(void)
{
    SnapHeader header = valid_header();
    uint8_t buf[SNAP_HEADER_SIZE];
    SnapHeader decoded;
    Error *err = NULL;

    snap_header_encode(&header, buf);
    buf[SNAP_HEADER_SIZE - 1] ^= 1;
    g_assert_cmpint(snap_header_decode(&decoded, buf, IMAGE_SIZE, &err), ==,
                    -EBADMSG);
    g_assert_nonnull(err);
    error_free(err);
}

static void test_unknown_incompatible(void)
{
    for (unsigned bit = 0; bit < 64; bit++) {
        SnapHeader header = valid_header();

        header.incompatible = UINT64_C(1) << bit;
        assert_refused(&header, -ENOTSUP);
    }
}

static void test_unknown_compatible(void)
{
    SnapHeader header = valid_header();

    header.compatible = UINT64_MAX;
    assert_accepted(&header);
}

static void test_page_bits(void)
{
    static const uint32_t values[] = {
        0, SNAP_MIN_PAGE_BITS - 1, SNAP_MAX_PAGE_BITS + 1, 64, UINT32_MAX,
    };

    for (unsigned i = 0; i < ARRAY_SIZE(values); i++) {
        SnapHeader header = valid_header();

        header.page_bits = values[i];
        assert_refused(&header, -EBADMSG);
    }
}

static void test_nb_blocks(void)
{
    static const uint32_t values[] = { 0, SNAP_MAX_BLOCKS + 1, UINT32_MAX };

    for (unsigned i = 0; i < ARRAY_SIZE(values); i++) {
        SnapHeader header = valid_header();

        header.nb_blocks = values[i];
        assert_refused(&header, -EBADMSG);
    }
}

static void test_nb_pages(void)
{
    static const uint64_t values[] = {
        (SNAP_MAX_RAM >> PAGE_BITS) + 1, UINT64_MAX,
        UINT64_MAX / SNAP_CHUNK_SIZE * SNAP_CHUNK_ENTRIES,
        UINT64_C(1) << 63, UINT64_C(1) << 52,
    };

    for (unsigned i = 0; i < ARRAY_SIZE(values); i++) {
        SnapHeader header = valid_header();

        header.nb_pages = values[i];
        header.parts[SNAP_PART_PAGE_TABLE].length =
            snap_table_bytes(values[i]);
        assert_refused(&header, -EBADMSG);
    }
}

/* The table of so much RAM is larger than the image. */
static void test_nb_pages_beyond_image(void)
{
    SnapHeader header = valid_header();

    header.nb_pages = SNAP_MAX_RAM >> PAGE_BITS;
    header.parts[SNAP_PART_PAGE_TABLE].length =
        snap_table_bytes(header.nb_pages);
    assert_refused(&header, -EBADMSG);
}

static void test_nb_arrivals(void)
{
    static const uint64_t values[] = { SNAP_MAX_ARRIVALS + 1, UINT64_MAX };

    for (unsigned i = 0; i < ARRAY_SIZE(values); i++) {
        SnapHeader header = valid_header();

        header.nb_arrivals = values[i];
        header.parts[SNAP_PART_ARRIVALS].length = snap_table_bytes(values[i]);
        assert_refused(&header, -EBADMSG);
    }
}

static void test_table_lengths(void)
{
    SnapHeader header = valid_header();

    header.parts[SNAP_PART_PAGE_TABLE].length -= SNAP_CHUNK_SIZE;
    assert_refused(&header, -EBADMSG);

    header = valid_header();
    header.parts[SNAP_PART_ARRIVALS].length += SNAP_CHUNK_SIZE;
    assert_refused(&header, -EBADMSG);

    header = valid_header();
    header.parts[SNAP_PART_PAGE_TABLE] = (SnapPartInfo) { };
    assert_refused(&header, -EBADMSG);
}

static void test_before_ram(void)
{
    SnapHeader header = valid_header();

    header.before_ram = header.parts[SNAP_PART_SETUP].length;
    assert_accepted(&header);
    header.before_ram++;
    assert_refused(&header, -EBADMSG);
    header.before_ram = UINT64_MAX;
    assert_refused(&header, -EBADMSG);
}

static void test_part_outside(void)
{
    static const uint64_t offsets[] = {
        IMAGE_SIZE, IMAGE_SIZE + SNAP_PART_ALIGN, UINT64_C(1) << 63,
        -(uint64_t)SNAP_PART_ALIGN,
    };

    for (unsigned part = 0; part < SNAP_PART__MAX; part++) {
        for (unsigned i = 0; i < ARRAY_SIZE(offsets); i++) {
            SnapHeader header = valid_header();

            header.parts[part].offset = offsets[i];
            assert_refused(&header, -EBADMSG);
        }
    }
}

static void test_part_ends_outside(void)
{
    for (unsigned part = 0; part < SNAP_PART__MAX; part++) {
        uint8_t buf[SNAP_HEADER_SIZE];
        SnapHeader header = valid_header();
        SnapPartInfo *info = &header.parts[part];
        SnapHeader decoded;
        Error *err = NULL;

        info->offset = 700 * MiB;
        snap_header_encode(&header, buf);
        g_assert_cmpint(snap_header_decode(&decoded, buf,
                                           info->offset + info->length,
                                           &error_abort), ==, 0);
        g_assert_cmpint(snap_header_decode(&decoded, buf,
                                           info->offset + info->length - 1,
                                           &err), ==, -EBADMSG);
        g_assert_nonnull(err);
        error_free(err);
    }
}

static void test_part_unaligned(void)
{
    for (unsigned part = 0; part < SNAP_PART__MAX; part++) {
        SnapHeader header = valid_header();

        header.parts[part].offset += 512;
        assert_refused(&header, -EBADMSG);
    }
}

static void test_part_in_header(void)
{
    for (unsigned part = 0; part < SNAP_PART__MAX; part++) {
        SnapHeader header = valid_header();

        header.parts[part].offset = 0;
        assert_refused(&header, -EBADMSG);
    }
}

static void test_giant_parts(void)
{
    for (unsigned part = 0; part < SNAP_PART__MAX; part++) {
        SnapHeader header = valid_header();

        header.parts[part].length = UINT64_MAX;
        assert_refused(&header, -EBADMSG);
        header.parts[part].length = -header.parts[part].offset;
        assert_refused(&header, -EBADMSG);
        header.parts[part].length = IMAGE_SIZE;
        assert_refused(&header, -EBADMSG);
    }
}

/* Parts that are held in memory have bounds of their own. */
static void test_part_bounds(void)
{
    static const struct {
        SnapPart part;
        uint64_t bound;
    } parts[] = {
        { SNAP_PART_CONFIGURATION, SNAP_MAX_CONFIGURATION },
        { SNAP_PART_SETUP, SNAP_MAX_SETUP },
        { SNAP_PART_METADATA, SNAP_MAX_METADATA },
        { SNAP_PART_VMDESC, SNAP_MAX_VMDESC + SNAP_VMDESC_TRAILER },
    };

    for (unsigned i = 0; i < ARRAY_SIZE(parts); i++) {
        SnapHeader header = valid_header();

        header.parts[parts[i].part].length = parts[i].bound;
        assert_accepted(&header);
        header.parts[parts[i].part].length++;
        assert_refused(&header, -EBADMSG);
    }
}

static void test_parts_do_not_overlap(void)
{
    SnapHeader header = valid_header();
    SnapPartInfo *devices = &header.parts[SNAP_PART_DEVICES];

    header.parts[SNAP_PART_VMDESC].offset = ROUND_UP(devices->offset +
                                                     devices->length,
                                                     SNAP_PART_ALIGN);
    assert_accepted(&header);
    header.parts[SNAP_PART_VMDESC].offset -= SNAP_PART_ALIGN;
    assert_refused(&header, -EBADMSG);
}

/* What there is of each block of fill_blocks() */
static const SnapPageCounts some_counts[3] = {
    { .stored = 600, .zero = 399 },
};

static void fill_blocks(SnapRAMBlocks *ram)
{
    snap_ram_blocks_init(ram, PAGE_BITS);
    snap_ram_blocks_add(ram, "pc.ram", 1000 * PAGE, 0, &error_abort);
    snap_ram_blocks_add(ram, "x", PAGE, 2 * MiB, &error_abort);
    snap_ram_blocks_add(ram, "/rom@etc/acpi/tables", 32 * PAGE, PAGE,
                        &error_abort);
}

/* Header that goes with some RAM. */
static SnapHeader header_for(const SnapRAMBlocks *ram)
{
    return (SnapHeader) {
        .page_bits = ram->page_bits,
        .nb_blocks = ram->nb_blocks,
        .nb_pages = ram->nb_pages,
    };
}

static void assert_table_refused(const SnapHeader *header, const uint8_t *data,
                                 size_t length)
{
    /* In memory of its own: reading beyond shows with a sanitizer. */
    g_autofree uint8_t *copy = g_memdup2(data, length);
    SnapRAMBlocks ram;
    SnapPageCounts *counts = NULL;
    Error *err = NULL;

    g_assert_cmpint(snap_block_table_decode(&ram, &counts, header, copy,
                                            length, &err), ==, -EBADMSG);
    g_assert_null(counts);
    g_assert_nonnull(err);
    error_free(err);
}

static void test_table_round_trip(void)
{
    g_autoptr(GByteArray) table = g_byte_array_new();
    g_autofree SnapPageCounts *counts = NULL;
    SnapRAMBlocks ram, decoded;
    SnapHeader header;

    fill_blocks(&ram);
    header = header_for(&ram);
    snap_block_table_encode(&ram, some_counts, table);
    g_assert_cmpint(snap_block_table_decode(&decoded, &counts, &header,
                                            table->data, table->len,
                                            &error_abort), ==, 0);
    g_assert_cmpuint(decoded.page_bits, ==, ram.page_bits);
    g_assert_cmpuint(decoded.nb_blocks, ==, ram.nb_blocks);
    g_assert_cmpuint(decoded.nb_pages, ==, ram.nb_pages);
    for (unsigned i = 0; i < ram.nb_blocks; i++) {
        const SnapRAMBlock *a = &ram.blocks[i], *b = &decoded.blocks[i];

        g_assert_cmpstr(a->name, ==, b->name);
        g_assert_cmpuint(a->length, ==, b->length);
        g_assert_cmpuint(a->page_size, ==, b->page_size);
        g_assert_cmpuint(a->first_page, ==, b->first_page);
        g_assert_cmpuint(counts[i].stored, ==, some_counts[i].stored);
        g_assert_cmpuint(counts[i].zero, ==, some_counts[i].zero);
    }
    snap_ram_blocks_destroy(&decoded);
    snap_ram_blocks_destroy(&ram);
}

static void test_table_appends(void)
{
    g_autoptr(GByteArray) table = g_byte_array_new();
    SnapRAMBlocks ram;

    fill_blocks(&ram);
    put_bytes(table, "abc", 3);
    snap_block_table_encode(&ram, some_counts, table);
    g_assert_cmpuint(table->len, >, 3);
    g_assert_cmpmem(table->data, 3, "abc", 3);
    snap_ram_blocks_destroy(&ram);
}

/* Returns: a table that is right, and its header */
static GByteArray *make_table(SnapHeader *header)
{
    GByteArray *table = g_byte_array_new();
    SnapRAMBlocks ram;

    fill_blocks(&ram);
    *header = header_for(&ram);
    snap_block_table_encode(&ram, some_counts, table);
    snap_ram_blocks_destroy(&ram);
    return table;
}

static void test_table_truncated(void)
{
    SnapHeader header;
    g_autoptr(GByteArray) table = make_table(&header);

    for (size_t length = 0; length < table->len; length++) {
        assert_table_refused(&header, table->data, length);
    }
}

/**
 * MismatchCase: a table that is not what the header announces
 * @bytes: added to the table
 * @blocks, @pages: added to what the header announces
 */
typedef struct MismatchCase {
    const char *path;
    unsigned bytes;
    int blocks;
    int pages;
} MismatchCase;

static const MismatchCase mismatch_cases[] = {
    { "bytes-after-the-last-block", .bytes = 1 },
    { "fewer-blocks-than-announced", .blocks = 1 },
    { "more-blocks-than-announced", .blocks = -1 },
    { "fewer-pages-than-announced", .pages = 1 },
    { "more-pages-than-announced", .pages = -1 },
};

static void test_table_mismatch(gconstpointer data)
{
    const MismatchCase *c = data;
    SnapHeader header;
    g_autoptr(GByteArray) table = make_table(&header);

    put_zeroes(table, c->bytes);
    header.nb_blocks += c->blocks;
    header.nb_pages += c->pages;
    assert_table_refused(&header, table->data, table->len);
}

/* An entry of the block table, the name given with its length */
static void put_entry(GByteArray *table, const char *name, uint8_t name_length,
                      uint64_t length, uint64_t stored, uint64_t zero)
{
    put_u8(table, name_length);
    put_bytes(table, name, name_length);
    put_be64(table, length);
    put_be64(table, 0);
    put_be64(table, stored);
    put_be64(table, zero);
}

static const SnapHeader two_pages = {
    .page_bits = PAGE_BITS, .nb_blocks = 2, .nb_pages = 2,
};

static void test_table_by_hand(void)
{
    g_autoptr(GByteArray) table = g_byte_array_new();
    g_autofree SnapPageCounts *counts = NULL;
    SnapRAMBlocks ram;

    put_entry(table, "a", 1, PAGE, 1, 0);
    put_entry(table, "b", 1, PAGE, 0, 1);
    g_assert_cmpint(snap_block_table_decode(&ram, &counts, &two_pages,
                                            table->data, table->len,
                                            &error_abort), ==, 0);
    g_assert_cmpuint(counts[0].stored, ==, 1);
    g_assert_cmpuint(counts[1].zero, ==, 1);
    snap_ram_blocks_destroy(&ram);
}

/* An entry that is refused after a good one; as for put_entry() */
typedef struct EntryCase {
    const char *path;
    const char *name;
    uint8_t name_length;
    uint64_t length;
    uint64_t stored;
    uint64_t zero;
} EntryCase;

static const EntryCase entry_cases[] = {
    { "name-of-another-block", "a", 1, PAGE },
    { "empty-name", "", 0, PAGE },
    { "name-with-nul", "b\0c", 3, PAGE },
    { "length/some-bytes-more-than-pages", "b", 1, PAGE + 1 },
    { "length/some-bytes-less-than-pages", "b", 1, PAGE - 1 },
    { "length/most", "b", 1, UINT64_MAX },
    { "length/negative", "b", 1, -PAGE },
    { "length/more-than-any-ram", "b", 1, SNAP_MAX_RAM + PAGE },
    { "pages/too-many-stored", "b", 1, PAGE, 2, 0 },
    { "pages/too-many-zero", "b", 1, PAGE, 0, 2 },
    { "pages/too-many-together", "b", 1, PAGE, 1, 1 },
    { "pages/sum-overflows-to-zero", "b", 1, PAGE, UINT64_MAX, 1 },
    { "pages/sum-overflows-to-one", "b", 1, PAGE, UINT64_MAX, 2 },
};

static void test_table_entry(gconstpointer data)
{
    const EntryCase *c = data;
    g_autoptr(GByteArray) table = g_byte_array_new();

    put_entry(table, "a", 1, PAGE, 0, 0);
    put_entry(table, c->name, c->name_length, c->length, c->stored, c->zero);
    assert_table_refused(&two_pages, table->data, table->len);
}

static const Test tests[] = {
    { "part-names-differ", test_part_names },
    { "page-entry/is-no-reserved-value", test_page_entry },
    { "checksum-is-xxh3", test_checksum },
    { "seed/depends-on-the-uuid", test_seed_is_of_uuid },
    { "seed/differs-between-tables", test_seed_of_each_table },
    { "header/is-read-back", test_header_round_trip },
    { "header/claim-is-no-header", test_claim_is_no_header },
    { "header/parts-are-read-back", test_header_parts_round_trip },
    { "header/may-be-without-footers", test_header_without_footers },
    { "header/may-be-without-optional-parts",
      test_header_without_optional_parts },
    { "header/any-flipped-bit-is-found", test_every_flipped_bit },
    { "header/bytes-that-are-none-are-refused", test_no_snapshot },
    { "header/damaged-one-is-refused", test_damaged },
    { "header/unknown-incompatible-feature-is-refused",
      test_unknown_incompatible },
    { "header/unknown-compatible-feature-is-accepted",
      test_unknown_compatible },
    { "header/refused/page-size-out-of-bounds", test_page_bits },
    { "header/refused/number-of-blocks-out-of-bounds", test_nb_blocks },
    { "header/refused/number-of-pages-out-of-bounds", test_nb_pages },
    { "header/refused/more-pages-than-the-image-holds",
      test_nb_pages_beyond_image },
    { "header/refused/too-many-arrivals", test_nb_arrivals },
    { "header/refused/tables-of-another-length", test_table_lengths },
    { "header/refused/more-setup-before-ram-than-setup", test_before_ram },
    { "header/refused/part-outside-the-image", test_part_outside },
    { "header/refused/part-that-ends-outside-the-image",
      test_part_ends_outside },
    { "header/refused/part-that-is-not-aligned", test_part_unaligned },
    { "header/refused/part-within-the-header", test_part_in_header },
    { "header/refused/giant-part", test_giant_parts },
    { "header/refused/part-above-its-bound", test_part_bounds },
    { "header/refused/parts-that-overlap", test_parts_do_not_overlap },
    { "block-table/is-read-back", test_table_round_trip },
    { "block-table/is-appended", test_table_appends },
    { "block-table/refused/truncated-table", test_table_truncated },
    { "block-table/is-as-documented", test_table_by_hand },
};

int main(int argc, char **argv)
{
    tests_init(&argc, &argv);
    ADD_TESTS("/snap/format/", tests, call_test);
    ADD_TESTS("/snap/format/block-table/refused/", mismatch_cases,
              test_table_mismatch);
    ADD_TESTS("/snap/format/block-table/refused/", entry_cases,
              test_table_entry);
    return g_test_run();
}
