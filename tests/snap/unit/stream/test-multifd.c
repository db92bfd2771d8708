/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of what goes over the channels of multifd
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qapi/error.h"
#include "snap/stream/multifd.h"

/* As migration/multifd.h has it, by hand */
#define INIT_SIZE       64
#define HEAD_SIZE       320
#define PACKET_SIZE     (512 * 1024)

/* Where the fields of a packet are */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_FLAGS = 8,
    AT_ALLOC = 12,
    AT_NORMAL = 16,
    AT_DATA_SIZE = 20,
    AT_NUMBER = 24,
    AT_ZERO = 32,
    AT_UNUSED = 36,
    AT_BLOCK = 64,
    AT_OFFSETS = 320,
};

/* Pages of block pc.ram, which block vga.vram follows */
#define NB_RAM          1000

static const unsigned page_bits[] = { 10, 12, 16 };

static const QemuUUID uuid = {
    .data = "\x01\x23\x45\x67\x89\xab\xcd\xef\xfe\xdc\xba\x98\x76\x54\x32\x10",
};

/**
 * Fixture: RAM of two blocks, and a good packet of block 1
 * @max: pages that a packet may have
 */
typedef struct Fixture {
    SnapRAMBlocks ram;
    uint64_t page;
    unsigned max;
    uint8_t *buf;
    size_t size;
    SnapMultifdPacket packet;
} Fixture;

static void put_be32(Fixture *f, size_t at, uint32_t value)
{
    stl_be_p(f->buf + at, value);
}

static void put_offset(Fixture *f, unsigned i, uint64_t value)
{
    stq_be_p(f->buf + AT_OFFSETS + 8 * i, value);
}

/* Two pages and a zero page, as a QEMU would write it */
static void put_packet(Fixture *f)
{
    memset(f->buf, 0, f->size);
    put_be32(f, AT_MAGIC, 0x11223344);
    put_be32(f, AT_VERSION, 1);
    put_be32(f, AT_ALLOC, f->max);
    put_be32(f, AT_NORMAL, 2);
    put_be32(f, AT_DATA_SIZE, 2 * f->page);
    stq_be_p(f->buf + AT_NUMBER, 0x0102030405060708);
    put_be32(f, AT_ZERO, 1);
    memcpy(f->buf + AT_BLOCK, "vga.vram", strlen("vga.vram"));
    put_offset(f, 0, 2 * f->page);
    put_offset(f, 1, 0);
    put_offset(f, 2, 3 * f->page);
}

static void set_up(Fixture *f, gconstpointer data)
{
    unsigned bits = GPOINTER_TO_UINT(data);

    f->page = UINT64_C(1) << bits;
    f->max = PACKET_SIZE >> bits;
    f->size = HEAD_SIZE + 8 * f->max;
    f->buf = g_malloc(f->size);
    snap_ram_blocks_init(&f->ram, bits);
    snap_ram_blocks_add(&f->ram, "pc.ram", NB_RAM * f->page, 0, &error_abort);
    snap_ram_blocks_add(&f->ram, "vga.vram", 4 * f->page, 0, &error_abort);
    put_packet(f);
}

static void tear_down(Fixture *f, gconstpointer data)
{
    snap_ram_blocks_destroy(&f->ram);
    g_free(f->buf);
}

static void decode(Fixture *f)
{
    g_assert_cmpint(snap_multifd_decode(f->buf, &f->packet, &f->ram,
                                        &error_abort), ==, 0);
}

/* That the packet is refused, with @why in the message, then mend it. */
static void assert_refused(Fixture *f, int code, const char *why)
{
    Error *err = NULL;

    g_assert_cmpint(snap_multifd_decode(f->buf, &f->packet, &f->ram, &err),
                    ==, code);
    g_assert_nonnull(err);
    if (err && !strstr(error_get_pretty(err), why)) {
        g_test_message("'%s' does not name '%s'", error_get_pretty(err), why);
        g_test_fail();
    }
    error_free(err);
    put_packet(f);
    decode(f);
}

/* --- what a channel begins with --- */

static void make_init(uint8_t buf[INIT_SIZE], uint8_t channel)
{
    memset(buf, 0, INIT_SIZE);
    stl_be_p(buf, 0x11223344);
    stl_be_p(buf + 4, 1);
    memcpy(buf + 8, uuid.data, 16);
    buf[24] = channel;
}

static void test_encode_init(void)
{
    uint8_t buf[INIT_SIZE], expected[INIT_SIZE];

    QEMU_BUILD_BUG_ON(SNAP_MULTIFD_INIT_SIZE != INIT_SIZE);
    memset(buf, 0xff, sizeof(buf));
    make_init(expected, 254);
    snap_multifd_encode_init(buf, &uuid, 254);
    g_assert_cmpmem(buf, sizeof(buf), expected, sizeof(expected));
}

static void test_init_round_trip(void)
{
    uint8_t buf[INIT_SIZE];

    for (int channel = 0; channel < 256; channel++) {
        snap_multifd_encode_init(buf, &uuid, channel);
        g_assert_cmpint(snap_multifd_decode_init(buf, &error_abort), ==,
                        channel);
    }
}

static void assert_init_refused(const uint8_t buf[INIT_SIZE], int code,
                                const char *why)
{
    Error *err = NULL;

    g_assert_cmpint(snap_multifd_decode_init(buf, &err), ==, code);
    g_assert_nonnull(err);
    g_assert_nonnull(strstr(error_get_pretty(err), why));
    error_free(err);
}

static void test_bad_init(void)
{
    uint8_t buf[INIT_SIZE];

    memset(buf, 0, sizeof(buf));
    assert_init_refused(buf, -EINVAL, "multifd");
    make_init(buf, 1);
    stl_le_p(buf, 0x11223344);
    assert_init_refused(buf, -EINVAL, "multifd");
    make_init(buf, 1);
    stl_be_p(buf, 0x5145564d);      /* a main channel */
    assert_init_refused(buf, -EINVAL, "multifd");
    make_init(buf, 1);
    stl_be_p(buf + 4, 2);
    assert_init_refused(buf, -ENOTSUP, "version 2");
    make_init(buf, 1);
    stl_be_p(buf + 4, 0);
    assert_init_refused(buf, -ENOTSUP, "version 0");
    make_init(buf, 1);
    stl_le_p(buf + 4, 1);
    assert_init_refused(buf, -ENOTSUP, "version 16777216");
}

/* Nobody minds what is not used. */
static void test_init_unused(void)
{
    uint8_t buf[INIT_SIZE];

    make_init(buf, 7);
    memset(buf + 25, 0xff, INIT_SIZE - 25);
    g_assert_cmpint(snap_multifd_decode_init(buf, &error_abort), ==, 7);
}

/* --- packets --- */

static void test_size(Fixture *f, gconstpointer data)
{
    g_assert_cmpuint(snap_multifd_packet_pages(&f->ram), ==, f->max);
    g_assert_cmpuint(snap_multifd_head_size(&f->ram), ==, f->size);
    g_assert_cmpuint(f->max, <=, SNAP_MULTIFD_MAX_PAGES);
}

static void test_decode(Fixture *f, gconstpointer data)
{
    decode(f);
    g_assert_false(f->packet.sync);
    g_assert_cmphex(f->packet.number, ==, 0x0102030405060708);
    g_assert_cmpuint(f->packet.nb_normal, ==, 2);
    g_assert_cmpuint(f->packet.nb_zero, ==, 1);
    g_assert_cmpuint(f->packet.pages[0], ==, NB_RAM + 2);
    g_assert_cmpuint(f->packet.pages[1], ==, NB_RAM);
    g_assert_cmpuint(f->packet.pages[2], ==, NB_RAM + 3);
}

static void test_encode(Fixture *f, gconstpointer data)
{
    g_autofree uint8_t *buf = g_malloc(f->size);

    f->packet = (SnapMultifdPacket) {
        .number = 0x0102030405060708, .nb_normal = 2, .nb_zero = 1,
        .pages = { NB_RAM + 2, NB_RAM, NB_RAM + 3, 0x1234 },
    };
    memset(buf, 0xff, f->size);
    snap_multifd_encode(buf, &f->packet, &f->ram);
    g_assert_cmpmem(buf, f->size, f->buf, f->size);

    f->packet.sync = true;
    put_be32(f, AT_FLAGS, 1);
    snap_multifd_encode(buf, &f->packet, &f->ram);
    g_assert_cmpmem(buf, f->size, f->buf, f->size);
}

static void test_encode_sync(Fixture *f, gconstpointer data)
{
    g_autofree uint8_t *buf = g_malloc(f->size);

    f->packet = (SnapMultifdPacket) { .sync = true };
    memset(f->buf, 0, f->size);
    put_be32(f, AT_MAGIC, 0x11223344);
    put_be32(f, AT_VERSION, 1);
    put_be32(f, AT_FLAGS, 1);
    put_be32(f, AT_ALLOC, f->max);
    snap_multifd_encode(buf, &f->packet, &f->ram);
    g_assert_cmpmem(buf, f->size, f->buf, f->size);
}

/* A packet with as many pages as there can be, of which some are zero */
static void check_round_trip(Fixture *f, unsigned nb_normal, unsigned nb_zero)
{
    SnapMultifdPacket in = {
        .sync = nb_zero % 2, .number = nb_normal,
        .nb_normal = nb_normal, .nb_zero = nb_zero,
    };

    for (unsigned i = 0; i < nb_normal + nb_zero; i++) {
        in.pages[i] = i * 331 % NB_RAM;
    }
    snap_multifd_encode(f->buf, &in, &f->ram);
    decode(f);
    g_assert_cmpint(f->packet.sync, ==, in.sync);
    g_assert_cmpuint(f->packet.number, ==, in.number);
    g_assert_cmpuint(f->packet.nb_normal, ==, nb_normal);
    g_assert_cmpuint(f->packet.nb_zero, ==, nb_zero);
    g_assert_cmpmem(f->packet.pages, 8 * (nb_normal + nb_zero),
                    in.pages, 8 * (nb_normal + nb_zero));
}

static void test_round_trip(Fixture *f, gconstpointer data)
{
    check_round_trip(f, 0, 0);
    check_round_trip(f, 1, 0);
    check_round_trip(f, 0, 1);
    check_round_trip(f, f->max, 0);
    check_round_trip(f, 0, f->max);
    check_round_trip(f, f->max - 1, 1);
    check_round_trip(f, f->max / 2, f->max / 2);
}

/* QEMU 7.2 says again what the packet before had, and counts no zero pages. */
static void test_old_sync(Fixture *f, gconstpointer data)
{
    put_be32(f, AT_FLAGS, 1);
    put_be32(f, AT_NORMAL, 0);
    put_be32(f, AT_ZERO, 0);
    put_be32(f, AT_DATA_SIZE, PACKET_SIZE);
    put_offset(f, 0, UINT64_MAX);
    decode(f);
    g_assert_true(f->packet.sync);
    g_assert_cmpuint(f->packet.nb_normal, ==, 0);
    g_assert_cmpuint(f->packet.nb_zero, ==, 0);

    memset(f->buf + AT_BLOCK, 'x', 256);
    decode(f);
    g_assert_cmpuint(f->packet.nb_normal, ==, 0);
    g_assert_cmpuint(f->packet.nb_zero, ==, 0);
}

static void test_sync_with_pages(Fixture *f, gconstpointer data)
{
    put_be32(f, AT_FLAGS, 1);
    decode(f);
    g_assert_true(f->packet.sync);
    g_assert_cmpuint(f->packet.nb_normal, ==, 2);
    g_assert_cmpuint(f->packet.pages[0], ==, NB_RAM + 2);
}

/* Bytes that are unused, and those after the pages */
static void test_unused(Fixture *f, gconstpointer data)
{
    memset(f->buf + AT_UNUSED, 0xff, AT_BLOCK - AT_UNUSED);
    memset(f->buf + AT_BLOCK + strlen("vga.vram") + 1, 0xff,
           256 - strlen("vga.vram") - 1);
    memset(f->buf + AT_OFFSETS + 3 * 8, 0xff, f->size - AT_OFFSETS - 3 * 8);
    test_decode(f, data);
}

static void test_magic(Fixture *f, gconstpointer data)
{
    put_be32(f, AT_MAGIC, 0x44332211);
    assert_refused(f, -EINVAL, "multifd");
    put_be32(f, AT_MAGIC, 0);
    assert_refused(f, -EINVAL, "multifd");
    put_be32(f, AT_MAGIC, 0x11223345);
    assert_refused(f, -EINVAL, "multifd");
}

static void test_version(Fixture *f, gconstpointer data)
{
    put_be32(f, AT_VERSION, 0);
    assert_refused(f, -ENOTSUP, "version 0");
    put_be32(f, AT_VERSION, 2);
    assert_refused(f, -ENOTSUP, "version 2");
}

static void check_counts(Fixture *f, uint32_t nb_normal, uint32_t nb_zero)
{
    put_be32(f, AT_NORMAL, nb_normal);
    put_be32(f, AT_DATA_SIZE, nb_normal << f->ram.page_bits);
    put_be32(f, AT_ZERO, nb_zero);
    assert_refused(f, -EINVAL, "multifd packet has");
}

static void test_counts(Fixture *f, gconstpointer data)
{
    check_counts(f, f->max + 1, 0);
    check_counts(f, 0, f->max + 1);
    check_counts(f, f->max, 1);
    check_counts(f, 1, f->max);
    check_counts(f, UINT32_MAX, 0);
    check_counts(f, 0, UINT32_MAX);
    check_counts(f, 1, UINT32_MAX);
    check_counts(f, 2, UINT32_MAX);
    check_counts(f, UINT32_MAX, 1);
    check_counts(f, UINT32_MAX, UINT32_MAX);
    check_counts(f, 0x80000000, 0x80000000);
    check_counts(f, 1, 0x80000000);
    check_counts(f, 0x80000001, 0x7fffffff);
}

static void check_data_size(Fixture *f, uint32_t nb_normal, uint32_t bytes)
{
    put_be32(f, AT_NORMAL, nb_normal);
    put_be32(f, AT_DATA_SIZE, bytes);
    put_be32(f, AT_ZERO, 0);
    assert_refused(f, -EINVAL, "bytes of data");
}

static void test_data_size(Fixture *f, gconstpointer data)
{
    check_data_size(f, 2, 0);
    check_data_size(f, 2, f->page);
    check_data_size(f, 2, 2 * f->page - 1);
    check_data_size(f, 2, 2 * f->page + 1);
    check_data_size(f, 2, 3 * f->page);
    check_data_size(f, 2, UINT32_MAX);
    check_data_size(f, 1, 0);
}

static void check_block(Fixture *f, const void *name, size_t length)
{
    memset(f->buf + AT_BLOCK, 0, 256);
    memcpy(f->buf + AT_BLOCK, name, length);
    assert_refused(f, -EINVAL, "block");
}

static void test_block(Fixture *f, gconstpointer data)
{
    g_autofree char *longest = g_strnfill(256, 'x');

    check_block(f, "", 0);
    check_block(f, "vga", 3);
    check_block(f, "vga.vram2", 9);
    check_block(f, "VGA.VRAM", 8);
    check_block(f, "\0vga.vram", 9);
    check_block(f, longest, 255);
    check_block(f, longest, 256);

    /* Without a NUL it is another one than the longest that there is. */
    longest[255] = 0;
    snap_ram_blocks_add(&f->ram, longest, 4 * f->page, 0, &error_abort);
    check_block(f, "x", 1);
    longest[255] = 'x';
    check_block(f, longest, 256);
    memset(f->buf + AT_BLOCK, 'x', 255);
    decode(f);
    g_assert_cmpuint(f->packet.pages[1], ==, NB_RAM + 4);
}

static void test_longest_name_round_trip(Fixture *f, gconstpointer data)
{
    g_autofree char *longest = g_strnfill(255, 'x');

    snap_ram_blocks_add(&f->ram, longest, f->page, 0, &error_abort);
    f->packet = (SnapMultifdPacket) {
        .nb_zero = 1, .pages = { NB_RAM + 4 },
    };
    snap_multifd_encode(f->buf, &f->packet, &f->ram);
    g_assert_cmpmem(f->buf + AT_BLOCK, 256, longest, 256);
    decode(f);
    g_assert_cmpuint(f->packet.pages[0], ==, NB_RAM + 4);
}

static void check_offset(Fixture *f, uint64_t offset)
{
    for (unsigned i = 0; i < 3; i++) {
        put_offset(f, i, offset);
        assert_refused(f, -EINVAL, "vga.vram");
    }
}

static void test_offset_unaligned(Fixture *f, gconstpointer data)
{
    check_offset(f, 1);
    check_offset(f, f->page / 2);
    check_offset(f, f->page - 1);
    check_offset(f, 3 * f->page + 512);
}

static void test_offset_outside(Fixture *f, gconstpointer data)
{
    check_offset(f, 4 * f->page);
    check_offset(f, 5 * f->page);
    check_offset(f, UINT64_C(1) << 32);
    check_offset(f, UINT64_C(1) << 63);
    check_offset(f, -f->page);
    check_offset(f, UINT64_MAX);
}

static void test_last_offset(Fixture *f, gconstpointer data)
{
    f->packet = (SnapMultifdPacket) {
        .nb_normal = 1, .pages = { NB_RAM - 1 },
    };
    snap_multifd_encode(f->buf, &f->packet, &f->ram);
    decode(f);
    g_assert_cmpuint(f->packet.pages[0], ==, NB_RAM - 1);
}

static void test_compression(Fixture *f, gconstpointer data)
{
    for (unsigned flag = 2; flag <= 32; flag *= 2) {
        put_be32(f, AT_FLAGS, flag);
        assert_refused(f, -ENOTSUP, "multifd-compression");
        put_be32(f, AT_FLAGS, flag | 1);
        assert_refused(f, -ENOTSUP, "multifd-compression");
    }
}

static void test_device_state(Fixture *f, gconstpointer data)
{
    put_be32(f, AT_FLAGS, 0x40);
    assert_refused(f, -ENOTSUP, "Device state");
    put_be32(f, AT_FLAGS, 0x41);
    assert_refused(f, -ENOTSUP, "Device state");
}

static void test_unknown_flags(Fixture *f, gconstpointer data)
{
    for (unsigned bit = 7; bit < 32; bit++) {
        put_be32(f, AT_FLAGS, UINT32_C(1) << bit);
        assert_refused(f, -ENOTSUP, "Unknown");
    }
}

/* Whatever the bytes are, what is taken is within the bounds. */
static void test_random(Fixture *f, gconstpointer data)
{
    GRand *rand = g_rand_new_with_seed(20261124);

    for (unsigned i = 0; i < 20000; i++) {
        put_packet(f);
        for (unsigned j = 0; j < 1 + i % 3; j++) {
            f->buf[g_rand_int_range(rand, 0, AT_OFFSETS + 24)] =
                g_rand_int_range(rand, 0, 256);
        }
        memset(&f->packet, 0xff, sizeof(f->packet));
        if (snap_multifd_decode(f->buf, &f->packet, &f->ram, NULL) < 0) {
            continue;
        }
        g_assert_cmpuint(f->packet.nb_normal, <=, f->max);
        g_assert_cmpuint(f->packet.nb_zero, <=, f->max - f->packet.nb_normal);
        for (unsigned j = 0; j < f->packet.nb_normal + f->packet.nb_zero;
             j++) {
            g_assert_cmpuint(f->packet.pages[j], <, f->ram.nb_pages);
            g_assert_cmpint(f->packet.pages[j] < NB_RAM, ==,
                            f->packet.pages[0] < NB_RAM);
        }
    }
    g_rand_free(rand);
}

typedef struct Test {
    const char *path;
    void (*fn)(Fixture *f, gconstpointer data);
} Test;

static const Test tests[] = {
    { "packet-has-room-for-its-pages", test_size },
    { "decode/gives-block-offsets-and-flags", test_decode },
    { "encode/bytes-are-those-of-qemu", test_encode },
    { "encode/sync-has-no-pages", test_encode_sync },
    { "round-trip/keeps-a-packet", test_round_trip },
    { "round-trip/keeps-the-longest-name", test_longest_name_round_trip },
    { "sync/of-qemu-7.2-has-no-pages", test_old_sync },
    { "sync/may-have-pages", test_sync_with_pages },
    { "decode/unused-bytes-do-not-matter", test_unused },
    { "decode/last-page-of-a-block-is-within-it", test_last_offset },
    { "refused/other-magic", test_magic },
    { "refused/other-version", test_version },
    { "refused/too-many-pages", test_counts },
    { "refused/data-of-another-size", test_data_size },
    { "refused/unknown-block", test_block },
    { "refused/unaligned-offset", test_offset_unaligned },
    { "refused/offset-outside-the-block", test_offset_outside },
    { "refused/compression", test_compression },
    { "refused/device-state", test_device_state },
    { "refused/unknown-flags", test_unknown_flags },
    { "random-bytes-stay-within-bounds", test_random },
};

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_set_nonfatal_assertions();

    g_test_add_func("/snap/multifd/init/bytes-are-those-of-qemu",
                    test_encode_init);
    g_test_add_func("/snap/multifd/init/is-read-back", test_init_round_trip);
    g_test_add_func("/snap/multifd/init/bad-one-is-refused", test_bad_init);
    g_test_add_func("/snap/multifd/init/unused-bytes-do-not-matter",
                    test_init_unused);
    for (size_t i = 0; i < ARRAY_SIZE(page_bits); i++) {
        for (size_t j = 0; j < ARRAY_SIZE(tests); j++) {
            g_autofree char *path =
                g_strdup_printf("/snap/multifd/%ub/%s",
                                1 << page_bits[i], tests[j].path);

            g_test_add(path, Fixture, GUINT_TO_POINTER(page_bits[i]), set_up,
                       tests[j].fn, tear_down);
        }
    }
    return g_test_run();
}
