/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of the reader of the return path
 */

#include "qemu/osdep.h"
#include "io/channel-file.h"
#include "qapi/error.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "snap/stream/return-path.h"
#include "snap-coroutine.h"
#include "some-ram.h"
#include "stream-bytes.h"
#include "test-table.h"

#define HUGE            (UINT64_C(1) << HUGE_BITS)
#define BITMAP_ENDING   UINT64_C(0x0123456789abcdef)
#define NB_RANDOM       300

/*
 * What a return path said: messages as text, such as "pages 1+2000:1000 ", and
 * how it ended
 */
typedef struct Result {
    GString *log;
    unsigned nb_events;
    int ret;
    Error *err;
} Result;

static Result *result_new(void)
{
    Result *res = g_new0(Result, 1);

    res->log = g_string_new("");
    return res;
}

static void result_free(Result *res)
{
    g_string_free(res->log, true);
    error_free(res->err);
    g_free(res);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Result, result_free)

/* A destination with 4 KiB pages, and one with 2 MiB pages in block RAM */
typedef struct Fixture {
    SnapRAMBlocks ram;
    SnapHostPages host_pages;
    Result *res;
    SnapInput *input;
    bool done;
} Fixture;

static void fixture_init(Fixture *f, unsigned host_bits)
{
    *f = (Fixture) { };
    some_ram_blocks_init(&f->ram);
    some_ram_host_pages_init(&f->host_pages, &f->ram, host_bits);
}

static void fixture_destroy(Fixture *f)
{
    snap_input_free(f->input);
    snap_host_pages_destroy(&f->host_pages);
    snap_ram_blocks_destroy(&f->ram);
}

static void note_bitmap(Fixture *f, const SnapReturnEvent *event)
{
    const SnapRAMBlocks *ram = &f->ram;
    uint64_t nb_pages = snap_ram_block_pages(ram,
                                             &ram->blocks[event->block]);

    g_assert_nonnull(event->bitmap);
    g_string_append_printf(f->res->log, "bitmap %d:", event->block);
    for (uint64_t i = 0; i < nb_pages; i++) {
        if (event->bitmap[i / 8] >> i % 8 & 1) {
            g_string_append_printf(f->res->log, "%" PRIu64 ",", i);
        }
    }
    g_string_append_c(f->res->log, ' ');
}

/* A request is within its block, and has whole host pages. */
static void note_request(Fixture *f, const SnapReturnEvent *event)
{
    const SnapRAMBlocks *ram = &f->ram;
    SnapPageRange pages = event->pages;
    const SnapRAMBlock *block;
    uint64_t targets;
    int index;

    g_assert_cmpuint(pages.first, <, NB_PAGES);
    block = snap_ram_block_of(ram, pages.first);
    index = block - ram->blocks;
    targets = snap_host_pages_count(&f->host_pages, index);
    g_assert_cmpuint(pages.count, >, 0);
    g_assert_cmpuint(pages.count, <=,
                     snap_ram_block_end(ram, block) - pages.first);
    g_assert_cmpuint((pages.first - block->first_page) % targets, ==, 0);
    g_assert_cmpuint(pages.count % targets, ==, 0);
    g_string_append_printf(f->res->log, "pages %d+%" PRIx64 ":%" PRIx64 " ",
                           index, snap_ram_page_offset(ram, block, pages.first),
                           pages.count << PAGE_BITS);
}

static void note_event(Fixture *f, SnapReturnEvent *event)
{
    GString *log = f->res->log;

    f->res->nb_events++;
    switch (event->type) {
    case SNAP_RP_SHUT:
        g_string_append_printf(log, "shut %" PRIu32 " ", event->value);
        break;
    case SNAP_RP_PONG:
        g_string_append_printf(log, "pong %" PRIu32 " ", event->value);
        break;
    case SNAP_RP_RESUME_ACK:
        g_string_append_printf(log, "resume %" PRIu32 " ", event->value);
        break;
    case SNAP_RP_SWITCHOVER_ACK:
        g_string_append(log, "switchover ");
        break;
    case SNAP_RP_REQ_PAGES:
        note_request(f, event);
        break;
    case SNAP_RP_RECV_BITMAP:
        note_bitmap(f, event);
        g_free(event->bitmap);
        break;
    default:
        g_assert_not_reached();
    }
}

static void coroutine_fn read_all(void *opaque)
{
    Fixture *f = opaque;
    g_autoptr(SnapReturnPath) rp = snap_return_path_new(f->input, &f->ram,
                                                        &f->host_pages);
    SnapReturnEvent event = { };
    int ret;

    while ((ret = snap_return_path_next(rp, &event, &f->res->err)) > 0) {
        g_assert_cmpint(ret, ==, 1);
        g_assert_null(f->res->err);
        note_event(f, &event);
        event = (SnapReturnEvent) { };
    }
    g_assert((ret < 0) == (f->res->err != NULL));
    f->res->ret = ret;
    f->done = true;
}

/* An input from @fd, which it owns */
static SnapInput *open_input(int fd)
{
    QIOChannel *ioc = QIO_CHANNEL(qio_channel_file_new_fd(fd));
    SnapInput *input = snap_input_new(ioc);

    object_unref(OBJECT(ioc));
    return input;
}

/* Read @length bytes as a destination with such host pages sends them. */
static Result *read_bytes(const uint8_t *data, size_t length,
                          unsigned host_bits)
{
    char path[] = "/tmp/test-snap-return-path-XXXXXX";
    int fd = g_mkstemp_full(path, O_RDWR | O_CLOEXEC, 0600);
    Fixture f;

    g_assert_cmpint(fd, >=, 0);
    unlink(path);
    g_assert_cmpint(pwrite(fd, data, length, 0), ==, length);
    fixture_init(&f, host_bits);
    f.res = result_new();
    f.input = open_input(fd);
    run_in_coroutine(read_all, &f);
    fixture_destroy(&f);
    return f.res;
}

static void check_huge_log(const GByteArray *b, unsigned host_bits,
                           const char *log)
{
    g_autoptr(Result) res = read_bytes(b->data, b->len, host_bits);

    g_assert_cmpstr(res->err ? error_get_pretty(res->err) : NULL, ==, NULL);
    g_assert_cmpstr(res->log->str, ==, log);
    g_assert_cmpint(res->ret, ==, 0);
}

/* The messages are understood, and say @log. */
static void check_log(const GByteArray *b, const char *log)
{
    check_huge_log(b, PAGE_BITS, log);
}

/* What follows @log is refused, with @why in the message. */
static void check_refused_after(const GByteArray *b, unsigned host_bits,
                                const char *log, const char *why)
{
    g_autoptr(Result) res = read_bytes(b->data, b->len, host_bits);

    g_assert_cmpstr(res->log->str, ==, log);
    g_assert_cmpint(res->ret, <, 0);
    if (res->err && !strstr(error_get_pretty(res->err), why)) {
        g_test_message("'%s' does not name '%s'", error_get_pretty(res->err),
                       why);
        g_test_fail();
    }
}

static void check_refused(const GByteArray *b, const char *why)
{
    check_refused_after(b, PAGE_BITS, "", why);
}

/* --- messages --- */

static void put_message(GByteArray *b, unsigned type, const void *data,
                        size_t length)
{
    put_be16(b, type);
    put_be16(b, length);
    put_bytes(b, data, length);
}

static void put_value(GByteArray *b, unsigned type, uint32_t value)
{
    put_be16(b, type);
    put_be16(b, 4);
    put_be32(b, value);
}

/* A request; of the block of the one before without a @name */
static void put_request(GByteArray *b, const char *name, uint64_t offset,
                        uint32_t length)
{
    put_be16(b, name ? SNAP_RP_REQ_PAGES_ID : SNAP_RP_REQ_PAGES);
    put_be16(b, 12 + (name ? 1 + strlen(name) : 0));
    put_be64(b, offset);
    put_be32(b, length);
    if (name) {
        put_name(b, name);
    }
}

/* Head of a bitmap, and the size that it claims */
static void put_bitmap_head(GByteArray *b, const char *name, uint64_t size)
{
    put_be16(b, SNAP_RP_RECV_BITMAP);
    put_be16(b, 1 + strlen(name));
    put_name(b, name);
    put_be64(b, size);
}

static uint64_t bitmap_size(uint64_t nb_pages)
{
    return DIV_ROUND_UP(nb_pages, 64) * 8;
}

/* A bitmap full of @fill for a block of @nb_pages */
static void put_bitmap(GByteArray *b, const char *name, uint64_t nb_pages,
                       uint8_t fill)
{
    put_bitmap_head(b, name, bitmap_size(nb_pages));
    for (uint64_t i = 0; i < bitmap_size(nb_pages); i++) {
        put_u8(b, fill);
    }
    put_be64(b, BITMAP_ENDING);
}

static void put_one_of_each(GByteArray *b)
{
    put_value(b, SNAP_RP_PONG, 3);
    put_request(b, "vga.vram", PAGE, PAGE);
    put_request(b, NULL, 0, PAGE);
    put_bitmap(b, "/rom@etc/acpi/tables", ROM_PAGES, 0x05);
    put_value(b, SNAP_RP_RESUME_ACK, 1);
    put_message(b, SNAP_RP_SWITCHOVER_ACK, NULL, 0);
    put_value(b, SNAP_RP_SHUT, 0);
}

static const char one_of_each[] =
    "pong 3 pages 0+1000:1000 pages 0+0:1000 bitmap 2:0,2, resume 1 "
    "switchover shut 0 ";

static void test_nothing(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    check_log(b, "");
}

static void test_values(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_value(b, SNAP_RP_SHUT, 1);
    put_value(b, SNAP_RP_PONG, UINT32_MAX);
    put_value(b, SNAP_RP_RESUME_ACK, 0x01020304);
    check_log(b, "shut 1 pong 4294967295 resume 16909060 ");
}

static void test_one_of_each(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_one_of_each(b);
    check_log(b, one_of_each);
}

/* As migration/migration.c:migrate_send_rp_message sends it */
static void test_bytes_of_request(void)
{
    static const uint8_t bytes[] = {
        0, 3, 0, 19,                        /* REQ_PAGES_ID, length */
        0, 0, 0, 0, 0, 0, 0x20, 0,          /* offset */
        0, 0, 0x10, 0,                      /* length */
        6, 'p', 'c', '.', 'r', 'a', 'm',
        0, 4, 0, 12,                        /* REQ_PAGES, length */
        0, 0, 0, 0, 0, 0, 0x50, 0,
        0, 0, 0x30, 0,
    };
    g_autoptr(Result) res = read_bytes(bytes, sizeof(bytes), PAGE_BITS);

    g_assert_cmpstr(res->log->str, ==, "pages 1+2000:1000 pages 1+5000:3000 ");
    g_assert_cmpint(res->ret, ==, 0);
}

/* --- requests --- */

static void test_block_continues(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_request(b, "pc.ram", 0, PAGE);
    put_request(b, NULL, PAGE, PAGE);
    put_value(b, SNAP_RP_PONG, 1);
    put_request(b, NULL, 2 * PAGE, PAGE);
    put_request(b, "vga.vram", 0, PAGE);
    put_request(b, NULL, 3 * PAGE, PAGE);
    check_log(b, "pages 1+0:1000 pages 1+1000:1000 pong 1 pages 1+2000:1000 "
                 "pages 0+0:1000 pages 0+3000:1000 ");
}

/* A bitmap is no request: it does not change the block. */
static void test_block_continues_after_bitmap(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_request(b, "vga.vram", 0, PAGE);
    put_bitmap(b, "pc.ram", RAM_PAGES, 0);
    put_request(b, NULL, PAGE, PAGE);
    check_log(b, "pages 0+0:1000 bitmap 1: pages 0+1000:1000 ");
}

static void test_last_page(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_request(b, "vga.vram", (VGA_PAGES - 1) * PAGE, PAGE);
    put_request(b, "/rom@etc/acpi/tables", 0, ROM_PAGES * PAGE);
    check_log(b, "pages 0+4c000:1000 pages 2+0:3000 ");
}

/* That one request is refused, with 4 KiB and with 2 MiB pages. */
static void check_request(const char *name, uint64_t offset, uint32_t length,
                          const char *why)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_request(b, name, offset, length);
    check_refused_after(b, PAGE_BITS, "", why);
    check_refused_after(b, HUGE_BITS, "", why);
}

static void test_beyond_block(void)
{
    check_request("vga.vram", VGA_PAGES * PAGE, PAGE, "not in RAM");
    check_request("vga.vram", (VGA_PAGES - 1) * PAGE, 2 * PAGE, "not in RAM");
    check_request("vga.vram", 0, (VGA_PAGES + 1) * PAGE, "not in RAM");
    check_request("pc.ram", RAM_PAGES * PAGE, HUGE, "not in RAM");
    check_request("pc.ram", HUGE, RAM_PAGES * PAGE, "not in RAM");
}

/* Offset and length that add up to something small */
static void test_offset_overflows(void)
{
    check_request("pc.ram", UINT64_MAX - PAGE + 1, PAGE, "not in RAM");
    check_request("pc.ram", UINT64_MAX - HUGE + 1, 2 * HUGE, "not in RAM");
    check_request("pc.ram", UINT64_MAX, 1, "not in RAM");
    check_request("pc.ram", INT64_MAX - PAGE + 1, PAGE, "not in RAM");
    check_request("pc.ram", 0, UINT32_MAX, "not in RAM");
}

static void test_no_length(void)
{
    check_request("pc.ram", 0, 0, "0 bytes");
}

static void test_unaligned(void)
{
    check_request("pc.ram", 1, PAGE, "whole host pages");
    check_request("pc.ram", PAGE / 2, PAGE, "whole host pages");
    check_request("pc.ram", 0, PAGE + 1, "whole host pages");
    check_request("pc.ram", 0, 1, "whole host pages");
}

static void test_huge_pages(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_request(b, "pc.ram", 0, HUGE);
    put_request(b, NULL, 2 * HUGE, 2 * HUGE);
    put_request(b, "vga.vram", PAGE, PAGE);
    check_huge_log(b, HUGE_BITS, "pages 1+0:200000 pages 1+400000:400000 "
                                 "pages 0+1000:1000 ");
}

/* A request for a target page of a larger host page */
static void check_unaligned_huge(uint64_t offset, uint32_t length)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_request(b, "pc.ram", offset, length);
    check_refused_after(b, HUGE_BITS, "", "whole host pages");
}

static void test_unaligned_huge(void)
{
    check_unaligned_huge(0, PAGE);
    check_unaligned_huge(PAGE, HUGE);
    check_unaligned_huge(HUGE, HUGE + PAGE);
    check_unaligned_huge(HUGE / 2, HUGE);
}

static void test_unknown_block(void)
{
    check_request("nvram", 0, PAGE, "nvram");
    check_request("pc.ra", 0, PAGE, "pc.ra");
    check_request("pc.ram2", 0, PAGE, "pc.ram2");
    check_request("", 0, PAGE, "''");
}

/* Names are not trusted to be text. */
static void test_block_name_is_escaped(void)
{
    check_request("a\nb\033", 0, PAGE, "a\\nb\\033");
}

static void test_no_block_before(void)
{
    check_request(NULL, 0, PAGE, "none was named");
}

/* A request with a name of @length bytes, which says that it has @count */
static void put_named(GByteArray *b, const void *name, size_t length,
                      uint8_t count)
{
    put_be16(b, SNAP_RP_REQ_PAGES_ID);
    put_be16(b, 12 + 1 + length);
    put_be64(b, 0);
    put_be32(b, PAGE);
    put_u8(b, count);
    put_bytes(b, name, length);
}

/* The name's own length and that of the message have to agree. */
static void test_name_length(void)
{
    for (unsigned count = 0; count < 256; count++) {
        g_autoptr(GByteArray) b = g_byte_array_new();

        put_named(b, "pc.ram", 6, count);
        if (count != 6) {
            check_refused(b, "name");
        }
    }
}

static void test_name_with_zero(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_named(b, "pc.ram\0x", 8, 8);
    check_refused(b, "");
}

static void test_longest_name(void)
{
    g_autofree char *name = g_strnfill(SNAP_BLOCK_NAME_MAX, 'x');

    check_request(name, 0, PAGE, "unknown");
}

/* --- bad heads --- */

static void test_unknown_type(void)
{
    static const unsigned types[] = { 0, 8, 9, 0x100, UINT16_MAX };

    for (unsigned i = 0; i < ARRAY_SIZE(types); i++) {
        g_autoptr(GByteArray) b = g_byte_array_new();

        put_message(b, types[i], "\0\0\0\1", 4);
        check_refused(b, "unknown");
    }
}

/* Each message of a fixed length, with every other length */
static void check_length(unsigned type, unsigned good)
{
    g_autofree char *data = g_malloc0(UINT16_MAX);

    for (unsigned length = 0; length < 300; length++) {
        g_autoptr(GByteArray) b = g_byte_array_new();

        put_request(b, "pc.ram", 0, PAGE);
        put_message(b, type, data, length);
        if (length != good) {
            check_refused_after(b, PAGE_BITS, "pages 1+0:1000 ", "length");
        }
    }
}

static void test_bad_length(void)
{
    check_length(SNAP_RP_SHUT, 4);
    check_length(SNAP_RP_PONG, 4);
    check_length(SNAP_RP_RESUME_ACK, 4);
    check_length(SNAP_RP_SWITCHOVER_ACK, 0);
    check_length(SNAP_RP_REQ_PAGES, 12);
}

static void test_giant_length(void)
{
    g_autofree char *data = g_malloc0(UINT16_MAX);

    for (unsigned type = SNAP_RP_SHUT; type <= SNAP_RP_SWITCHOVER_ACK; type++) {
        g_autoptr(GByteArray) b = g_byte_array_new();

        put_message(b, type, data, UINT16_MAX);
        check_refused(b, "length");
    }
}

/* A request with a name that has none: 12 bytes are there, or fewer. */
static void test_request_without_name(void)
{
    uint8_t data[12] = { [10] = PAGE >> 8 };

    for (unsigned length = 0; length <= sizeof(data); length++) {
        g_autoptr(GByteArray) b = g_byte_array_new();

        put_request(b, "pc.ram", 0, PAGE);
        put_message(b, SNAP_RP_REQ_PAGES_ID, data, length);
        check_refused_after(b, PAGE_BITS, "pages 1+0:1000 ", "");
    }
}

/* --- bitmaps --- */

static void test_bitmaps(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_bitmap_head(b, "vga.vram", 16);
    put_bytes(b, "\x01\0\0\0\0\0\0\x80\x01\x10\0\0\0\0\0\0", 16);
    put_be64(b, BITMAP_ENDING);
    put_bitmap(b, "pc.ram", RAM_PAGES, 0);
    put_bitmap(b, "/rom@etc/acpi/tables", ROM_PAGES, 0xff);
    check_log(b, "bitmap 0:0,63,64,76, bitmap 1: bitmap 2:0,1,2, ");
}

static void test_bitmap_of_unknown_block(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_bitmap(b, "nvram", 64, 0);
    check_refused(b, "nvram");
}

static void test_bitmap_without_name(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_message(b, SNAP_RP_RECV_BITMAP, NULL, 0);
    check_refused(b, "name");
}

static void test_bitmap_size(void)
{
    static const uint64_t sizes[] = {
        0, 8, 15, 17, 24, 128, UINT32_MAX, INT64_MAX, UINT64_MAX,
    };

    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        g_autoptr(GByteArray) b = g_byte_array_new();

        put_bitmap_head(b, "vga.vram", sizes[i]);
        put_zeroes(b, MIN(sizes[i], 200));
        put_be64(b, BITMAP_ENDING);
        check_refused(b, "vga.vram");
    }
}

static void test_bitmap_ending(void)
{
    for (unsigned bit = 0; bit < 64; bit++) {
        g_autoptr(GByteArray) b = g_byte_array_new();

        put_bitmap_head(b, "vga.vram", 16);
        put_zeroes(b, 16);
        put_be64(b, BITMAP_ENDING ^ UINT64_C(1) << bit);
        check_refused(b, "vga.vram");
    }
}

/* --- all of it --- */

/* Whether a message ends at @length, and what is said up to there */
static bool ends_at(const GByteArray *b, size_t length, unsigned *nb_events)
{
    g_autoptr(Result) res = read_bytes(b->data, length, PAGE_BITS);

    *nb_events = res->nb_events;
    if (res->ret < 0) {
        g_assert_nonnull(strstr(error_get_pretty(res->err), "ends within"));
    }
    g_assert_true(g_str_has_prefix(one_of_each, res->log->str));
    return !res->ret;
}

static void test_truncated(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    unsigned nb_ends = 0;

    put_one_of_each(b);
    for (size_t length = 0; length <= b->len; length++) {
        unsigned nb_events;

        if (ends_at(b, length, &nb_events)) {
            g_assert_cmpuint(nb_events, ==, nb_ends);
            nb_ends++;
        } else {
            g_assert_cmpuint(nb_events, ==, nb_ends - 1);
        }
    }
    g_assert_cmpuint(nb_ends, ==, 7 + 1);
}

/* Random bytes: it ends, and note_request() has looked at each request. */
static void test_random_bytes(void)
{
    GRand *rand = g_rand_new_with_seed(20260205);
    uint8_t data[4096];

    for (unsigned round = 0; round < NB_RANDOM; round++) {
        g_autoptr(Result) res = NULL;

        for (size_t i = 0; i < sizeof(data); i++) {
            data[i] = g_rand_int_range(rand, 0, 256);
        }
        res = read_bytes(data, sizeof(data), PAGE_BITS);
        g_assert_cmpint(res->ret, <, 0);
    }
    g_rand_free(rand);
}

/* A number that is one of those near the bounds, or any */
static uint64_t random_number(GRand *rand)
{
    static const uint64_t numbers[] = {
        0, 1, PAGE - 1, PAGE, PAGE + 1, HUGE, VGA_PAGES * PAGE,
        (VGA_PAGES - 1) * PAGE, RAM_PAGES * PAGE, RAM_PAGES * PAGE - HUGE,
        ROM_PAGES * PAGE, UINT32_MAX, INT64_MAX, UINT64_MAX,
        UINT64_MAX - PAGE + 1,
    };

    return numbers[g_rand_int_range(rand, 0, ARRAY_SIZE(numbers))];
}

static const char *random_name(GRand *rand)
{
    static const char *const names[] = {
        NULL, "vga.vram", "pc.ram", "/rom@etc/acpi/tables", "", "nvram",
    };
    /* mostly good ones */
    unsigned nb = g_rand_int_range(rand, 0, 20) ? 4 : ARRAY_SIZE(names);

    return names[g_rand_int_range(rand, 0, nb)];
}

static void put_random_message(GByteArray *b, GRand *rand)
{
    const char *name = random_name(rand);

    switch (g_rand_int_range(rand, 0, 4)) {
    case 0:
        put_value(b, SNAP_RP_PONG, g_rand_int(rand));
        break;
    case 1:
        put_bitmap(b, name ?: "vga.vram", name ? RAM_PAGES : VGA_PAGES,
                   g_rand_int(rand));
        break;
    default:
        put_request(b, name, random_number(rand), random_number(rand));
    }
}

/* Messages with random numbers, some bytes of which are spoiled */
static unsigned check_random_messages(GRand *rand, unsigned host_bits)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    g_autoptr(Result) res = NULL;

    put_request(b, "pc.ram", 0, HUGE);
    for (unsigned i = 0; i < 20; i++) {
        put_random_message(b, rand);
    }
    if (g_rand_boolean(rand)) {
        b->data[g_rand_int_range(rand, 0, b->len)] = g_rand_int(rand);
    }
    res = read_bytes(b->data, b->len, host_bits);
    return res->nb_events;
}

static void test_random_messages(void)
{
    GRand *rand = g_rand_new_with_seed(20260206);
    unsigned nb_events = 0;

    for (unsigned round = 0; round < NB_RANDOM; round++) {
        nb_events += check_random_messages(rand, PAGE_BITS);
        nb_events += check_random_messages(rand, HUGE_BITS);
    }
    /* Not all of them end at once. */
    g_assert_cmpuint(nb_events, >, 2 * NB_RANDOM);
    g_rand_free(rand);
}

/* Messages that come a byte at a time, and are waited for */
static void test_wait(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    g_autoptr(Result) res = result_new();
    Fixture f;
    int fds[2];

    put_one_of_each(b);
    g_assert_true(g_unix_open_pipe(fds, FD_CLOEXEC, NULL));
    g_assert_true(g_unix_set_fd_nonblocking(fds[0], true, NULL));
    fixture_init(&f, PAGE_BITS);
    f.res = res;
    f.input = open_input(fds[0]);
    qemu_coroutine_enter(qemu_coroutine_create(read_all, &f));
    for (size_t i = 0; i < b->len; i++) {
        g_assert_false(f.done);
        g_assert_cmpint(write(fds[1], b->data + i, 1), ==, 1);
        main_loop_wait(true);
    }
    close(fds[1]);
    while (!f.done) {
        main_loop_wait(false);
    }
    g_assert_cmpstr(res->log->str, ==, one_of_each);
    g_assert_cmpint(res->ret, ==, 0);
    fixture_destroy(&f);
}

static const Test tests[] = {
    { "end-may-come-at-once", test_nothing },
    { "values-are-big-endian", test_values },
    { "each-message-is-an-event", test_one_of_each },
    { "messages-are-waited-for", test_wait },
    { "request/bytes-are-those-of-qemu", test_bytes_of_request },
    { "request/without-a-name-continues-the-block", test_block_continues },
    { "request/continues-the-block-after-a-bitmap",
      test_block_continues_after_bitmap },
    { "request/may-be-for-the-last-page", test_last_page },
    { "request/beyond-its-block-is-refused", test_beyond_block },
    { "request/with-an-offset-that-overflows-is-refused",
      test_offset_overflows },
    { "request/without-a-length-is-refused", test_no_length },
    { "request/that-is-not-aligned-is-refused", test_unaligned },
    { "request/may-be-for-huge-pages", test_huge_pages },
    { "request/not-aligned-to-huge-pages-is-refused", test_unaligned_huge },
    { "request/for-an-unknown-block-is-refused", test_unknown_block },
    { "request/name-is-escaped-in-the-message", test_block_name_is_escaped },
    { "request/that-continues-no-block-is-refused", test_no_block_before },
    { "request/name-length-has-to-agree", test_name_length },
    { "request/name-with-a-zero-is-refused", test_name_with_zero },
    { "request/name-may-have-255-bytes", test_longest_name },
    { "request/without-its-name-is-refused", test_request_without_name },
    { "head/of-unknown-type-is-refused", test_unknown_type },
    { "head/with-another-length-is-refused", test_bad_length },
    { "head/with-a-giant-length-is-refused", test_giant_length },
    { "bitmap/is-given-with-its-block", test_bitmaps },
    { "bitmap/of-an-unknown-block-is-refused", test_bitmap_of_unknown_block },
    { "bitmap/without-a-name-is-refused", test_bitmap_without_name },
    { "bitmap/of-another-size-is-refused", test_bitmap_size },
    { "bitmap/without-its-ending-is-refused", test_bitmap_ending },
    { "truncated-message-is-refused", test_truncated },
    { "random/bytes-come-to-an-end", test_random_bytes },
    { "random/messages-are-understood", test_random_messages },
};

int main(int argc, char **argv)
{
    main_loop_tests_init(&argc, &argv);
    ADD_TESTS("/snap/return-path/", tests, call_test);
    return g_test_run();
}
