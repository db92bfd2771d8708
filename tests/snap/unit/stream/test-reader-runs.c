/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of pages that the reader takes together
 */

#include "qemu/osdep.h"
#include "stream-source.h"
#include "test-table.h"

/* Blocks of the streams with runs, in pages */
#define RUN_RAM_PAGES   2000
#define RUN_VGA_PAGES   4

/* A page is over: how much of the stream that is, and of the log */
typedef struct PageEnd {
    size_t bytes;
    size_t log;
} PageEnd;

/**
 * RunStream: a stream in the making, and what it says
 * @log: as it is to be read
 * @ends: where each page ends
 * @fill: of the next page
 */
typedef struct RunStream {
    unsigned page_bits;
    GByteArray *bytes;
    GString *log;
    GArray *ends;
    uint8_t fill;
} RunStream;

static void run_begin(RunStream *s, unsigned page_bits)
{
    GByteArray *b = g_byte_array_new();

    *s = (RunStream) {
        .page_bits = page_bits,
        .bytes = b,
        .log = g_string_new("setup "),
        .ends = g_array_new(false, false, sizeof(PageEnd)),
        .fill = 1,
    };
    put_header(b);
    put_subsection(b, "configuration/target-page-bits");
    put_be32(b, page_bits);
    put_ram_head(b, (uint64_t)(RUN_RAM_PAGES + RUN_VGA_PAGES) << page_bits);
    put_block(b, "pc.ram", (uint64_t)RUN_RAM_PAGES << page_bits);
    put_block(b, "vga.vram", (uint64_t)RUN_VGA_PAGES << page_bits);
    put_eos(b);
    put_part(b);
}

static void run_destroy(RunStream *s)
{
    g_byte_array_unref(s->bytes);
    g_string_free(s->log, true);
    g_array_unref(s->ends);
}

/* The word of a record, and the name of the block where it is @named */
static void run_record(RunStream *s, int block, bool named, unsigned page,
                       unsigned flag)
{
    static const char *const names[] = { "pc.ram", "vga.vram" };
    uint64_t offset = (uint64_t)page << s->page_bits;

    put_record(s->bytes, offset | flag | (named ? 0 : RAM_SAVE_FLAG_CONTINUE),
               named ? names[block] : NULL);
}

/* @nb pages from @page on, each of which is full of another byte */
static void run_pages(RunStream *s, int block, bool named, unsigned page,
                      unsigned nb)
{
    size_t page_size = (size_t)1 << s->page_bits;
    g_autofree uint8_t *data = g_malloc(page_size);

    for (unsigned i = 0; i < nb; i++) {
        PageEnd end;

        memset(data, s->fill, page_size);
        run_record(s, block, named && i == 0, page + i, RAM_SAVE_FLAG_PAGE);
        put_bytes(s->bytes, data, page_size);
        g_string_append_printf(s->log, "page %d+%zx=%02x ", block,
                               (page + i) * page_size, s->fill++);
        end = (PageEnd) { s->bytes->len, s->log->len };
        g_array_append_val(s->ends, end);
    }
}

static void run_zero(RunStream *s, int block, bool named, unsigned page)
{
    run_record(s, block, named, page, RAM_SAVE_FLAG_ZERO);
    put_u8(s->bytes, 0);
    g_string_append_printf(s->log, "zero %d+%zx ", block,
                           (size_t)page << s->page_bits);
}

/* The section is over, and another one begins. */
static void run_eos(RunStream *s)
{
    put_eos(s->bytes);
    put_part(s->bytes);
    g_string_append(s->log, "eos ");
}

static void run_end(RunStream *s)
{
    put_eos(s->bytes);
    put_devices(s->bytes);
    put_end(s->bytes);
    g_string_append(s->log, "eos " LOG_DEVICES);
}

static Result *run_read(const RunStream *s, size_t chunk, unsigned room)
{
    TestChannel *channel = test_channel_new(s->bytes->data, s->bytes->len,
                                            chunk);
    Result *res = read_channel(QIO_CHANNEL(channel), room);

    object_unref(OBJECT(channel));
    return res;
}

/*
 * The stream says the same, whatever there is room for and however it comes.
 * Where all of it is there at once, and room, the pages come in @runs; NULL
 * for any.
 */
static void run_check(const RunStream *s, const char *runs)
{
    static const unsigned rooms[] = { 1, 3, MUCH_ROOM };

    for (size_t i = 0; i < ARRAY_SIZE(rooms); i++) {
        for (size_t j = 0; j < ARRAY_SIZE(chunks); j++) {
            g_autoptr(Result) res = run_read(s, chunks[j], rooms[i]);

            if (strcmp(outcome(res), s->log->str)) {
                g_test_message("room for %u, %zu bytes at a time: %s",
                               rooms[i], chunks[j], outcome(res));
                g_test_fail();
            }
            if (runs && rooms[i] == MUCH_ROOM && chunks[j] == SIZE_MAX) {
                g_assert_cmpstr(res->runs->str, ==, runs);
            }
        }
    }
}

/* The stream is refused behind all that it has said, with @why. */
static void run_check_refused(const RunStream *s, const char *why)
{
    for (size_t i = 0; i < ARRAY_SIZE(chunks); i++) {
        g_autoptr(Result) res = run_read(s, chunks[i], MUCH_ROOM);

        g_assert_cmpstr(res->log->str, ==, s->log->str);
        if (!says(res, why)) {
            g_test_message("'%s' does not name '%s'", outcome(res), why);
            g_test_fail();
        }
    }
}

/* The first page stands alone: it does not follow any. */
static void test_run(void)
{
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 0, true, 0, 10);
    run_end(&s);
    run_check(&s, "0+0:1 0+400:9 ");
    run_destroy(&s);
}

static void test_run_zero_page(void)
{
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_zero(&s, 0, true, 0);
    run_pages(&s, 0, false, 1, 3);
    run_zero(&s, 0, false, 4);
    run_pages(&s, 0, false, 5, 2);
    run_zero(&s, 0, false, 7);
    run_zero(&s, 0, false, 8);
    run_pages(&s, 0, false, 9, 1);
    run_end(&s);
    /* Pages between zero ones say nothing of the next. */
    run_check(&s, "0+400:1 0+800:2 0+1400:1 0+1800:1 0+2400:1 ");
    run_destroy(&s);
}

static void test_run_other_block(void)
{
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 0, true, 0, 3);
    run_pages(&s, 1, true, 0, 3);
    run_pages(&s, 0, true, 3, 3);
    /* It would go on, were it not another block. */
    run_pages(&s, 1, true, 3, 1);
    run_end(&s);
    run_check(&s, "0+0:1 0+400:2 1+0:1 1+400:2 0+c00:1 0+1000:2 1+c00:1 ");
    run_destroy(&s);
}

/* A block that is named again goes on all the same. */
static void test_run_named_again(void)
{
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 0, true, 0, 3);
    run_pages(&s, 0, true, 3, 3);
    run_end(&s);
    run_check(&s, "0+0:1 0+400:2 0+c00:1 0+1000:2 ");
    run_destroy(&s);
}

static void test_run_eos(void)
{
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 0, true, 0, 3);
    run_eos(&s);
    run_pages(&s, 0, false, 3, 3);
    run_eos(&s);
    run_eos(&s);
    run_pages(&s, 0, false, 6, 1);
    run_end(&s);
    run_check(&s, "0+0:1 0+400:2 0+c00:3 0+1800:1 ");
    run_destroy(&s);
}

static void test_run_flush(void)
{
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 0, true, 0, 3);
    put_be64(s.bytes, RAM_SAVE_FLAG_MULTIFD_FLUSH);
    g_string_append(s.log, "flush ");
    run_pages(&s, 0, false, 3, 3);
    run_end(&s);
    run_check(&s, "0+0:1 0+400:2 0+c00:3 ");
    run_destroy(&s);
}

static void test_run_back(void)
{
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 0, true, 0, 5);
    run_pages(&s, 0, false, 2, 4);
    run_pages(&s, 0, false, 0, 1);
    run_end(&s);
    run_check(&s, "0+0:1 0+400:4 0+800:1 0+c00:3 0+0:1 ");
    run_destroy(&s);
}

static void test_run_repeats(void)
{
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 0, true, 0, 3);
    run_pages(&s, 0, false, 2, 1);
    run_pages(&s, 0, false, 2, 3);
    run_end(&s);
    run_check(&s, "0+0:1 0+400:2 0+800:1 0+800:1 0+c00:2 ");
    run_destroy(&s);
}

static void test_run_jump(void)
{
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 0, true, 7, 2);
    run_pages(&s, 0, false, 10, 2);
    run_pages(&s, 0, false, RUN_RAM_PAGES - 1, 1);
    run_pages(&s, 0, false, 0, 2);
    run_end(&s);
    run_check(&s, "0+1c00:1 0+2000:1 0+2800:1 0+2c00:1 0+1f3c00:1 0+0:1 "
              "0+400:1 ");
    run_destroy(&s);
}

/* Nothing is taken for a page that lies behind the block. */
static void test_run_end_of_block(void)
{
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 1, true, 0, RUN_VGA_PAGES);
    run_pages(&s, 0, true, RUN_RAM_PAGES - 3, 3);
    run_end(&s);
    run_check(&s, "1+0:1 1+400:3 0+1f3400:1 0+1f3800:2 ");
    run_destroy(&s);

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 1, true, 0, RUN_VGA_PAGES);
    run_record(&s, 1, false, RUN_VGA_PAGES, RAM_SAVE_FLAG_PAGE);
    put_zeroes(s.bytes, PAGE);
    run_check_refused(&s, "lies outside RAM block 'vga.vram'");
    run_destroy(&s);
}

/* Nor for one with other flags, or none */
static void test_run_flags(void)
{
    static const unsigned flags[] = {
        0, RAM_SAVE_FLAG_XBZRLE, COMPRESS_PAGE,
        RAM_SAVE_FLAG_PAGE | RAM_SAVE_FLAG_ZERO,
        RAM_SAVE_FLAG_PAGE | RAM_SAVE_FLAG_EOS,
        RAM_SAVE_FLAG_PAGE | 1,
    };

    for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
        RunStream s;

        run_begin(&s, PAGE_BITS);
        run_pages(&s, 0, true, 0, 3);
        run_record(&s, 0, false, 3, flags[i]);
        put_zeroes(s.bytes, PAGE);
        run_check_refused(&s, "");
        run_destroy(&s);
    }
}

static void test_run_room(void)
{
    g_autoptr(Result) res = NULL;
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_pages(&s, 0, true, 0, 12);
    run_end(&s);
    res = run_read(&s, SIZE_MAX, 3);
    g_assert_cmpstr(outcome(res), ==, s.log->str);
    g_assert_cmpstr(res->runs->str, ==,
                    "0+0:1 0+400:3 0+1000:3 0+1c00:3 0+2800:2 ");
    run_destroy(&s);
}

/* A channel that brings much at a time is taken with few calls. */
static void check_long_run(unsigned page_bits, unsigned nb_pages)
{
    g_autoptr(Result) res = NULL;
    g_auto(GStrv) runs = NULL;
    RunStream s;

    run_begin(&s, page_bits);
    run_pages(&s, 0, true, 0, nb_pages);
    run_end(&s);
    run_check(&s, NULL);
    res = run_read(&s, SIZE_MAX, MUCH_ROOM);
    runs = g_strsplit(res->runs->str, " ", -1);
    g_assert_cmpuint(g_strv_length(runs), <=,
                     4 + 2 * (s.bytes->len / (64 * KiB)));
    run_destroy(&s);
}

static void test_run_long(void)
{
    check_long_run(10, 1000);
    check_long_run(12, 150);
    check_long_run(16, 10);
}

/* All kinds of records, in all orders */
static void put_random_records(RunStream *s, GRand *rand)
{
    int block = -1;
    unsigned page = 0;

    for (unsigned i = 0; i < 30; i++) {
        bool goes_on = block == 0 && g_rand_int_range(rand, 0, 4);
        unsigned nb = g_rand_int_range(rand, 1, 6);

        if (!goes_on) {
            int old = block;

            block = g_rand_int_range(rand, 0, 4) == 0;
            page = g_rand_int_range(rand, 0, block ? RUN_VGA_PAGES : 50);
            nb = block ? 1 : nb;
            goes_on = block == old && g_rand_boolean(rand);
        }
        switch (g_rand_int_range(rand, 0, 8)) {
        case 0:
            run_zero(s, block, !goes_on, page++);
            break;
        case 1:
            run_pages(s, block, !goes_on, page, 1);
            run_eos(s);
            page++;
            break;
        default:
            run_pages(s, block, !goes_on, page, nb);
            page += nb;
        }
    }
}

static void test_run_random(void)
{
    GRand *rand = g_rand_new_with_seed(20260222);

    for (unsigned i = 0; i < 20; i++) {
        RunStream s;

        run_begin(&s, i % 4 ? 10 : 12);
        put_random_records(&s, rand);
        run_end(&s);
        run_check(&s, NULL);
        run_destroy(&s);
    }
    g_rand_free(rand);
}

/* How much of the log is due when @size bytes have come, at least */
static size_t run_log_due(const RunStream *s, size_t size)
{
    size_t due = 0;

    for (unsigned i = 0; i < s->ends->len; i++) {
        const PageEnd *end = &g_array_index(s->ends, PageEnd, i);

        if (end->bytes <= size) {
            due = end->log;
        }
    }
    return due;
}

/* Pages that came whole count, and none that did not. */
static void check_run_cut(unsigned page_bits, size_t step, bool fails)
{
    static const size_t some[] = { SIZE_MAX, 4095, 1000 };
    RunStream s;

    run_begin(&s, page_bits);
    run_pages(&s, 0, true, 0, 5);
    run_zero(&s, 0, false, 5);
    run_pages(&s, 0, false, 6, 2);
    for (size_t size = 1; size < s.bytes->len; size += step) {
        g_autofree uint8_t *copy = g_memdup2(s.bytes->data, size);
        g_autoptr(Result) res = read_bytes(copy, size, some[size % 3], fails);

        if (!says(res, fails ? "Injected" : "early") ||
            res->log->len < run_log_due(&s, size) ||
            !g_str_has_prefix(s.log->str, res->log->str)) {
            g_test_message("cut at %zu: %s, behind %s", size, outcome(res),
                           res->log->str);
            g_test_fail();
        }
    }
    run_destroy(&s);
}

static void test_run_cut(void)
{
    check_run_cut(10, 1, false);
    check_run_cut(12, 11, false);
    check_run_cut(16, 1021, false);
}

static void test_run_fails(void)
{
    check_run_cut(10, 7, true);
    check_run_cut(16, 5003, true);
}

/* Through a pipe, with pauses amid a page and amid the head of a record */
static void test_run_pauses(void)
{
    static const unsigned bits[] = { 10, 12, 16 };

    for (size_t i = 0; i < ARRAY_SIZE(bits); i++) {
        g_autoptr(Result) res = NULL;
        g_autoptr(GByteArray) second = g_byte_array_new();
        g_autoptr(GByteArray) third = g_byte_array_new();
        Source source = { .pause_ms = 30, .closes = true };
        size_t cuts[2];
        RunStream s;

        run_begin(&s, bits[i]);
        run_pages(&s, 0, true, 0, 4);
        cuts[0] = s.bytes->len - 100;
        run_pages(&s, 0, false, 4, 3);
        cuts[1] = s.bytes->len + 5;
        run_pages(&s, 0, false, 7, 3);
        run_end(&s);

        put_bytes(third, s.bytes->data + cuts[1], s.bytes->len - cuts[1]);
        put_bytes(second, s.bytes->data + cuts[0], cuts[1] - cuts[0]);
        g_byte_array_set_size(s.bytes, cuts[0]);
        source.pieces[0] = s.bytes;
        source.pieces[1] = second;
        source.pieces[2] = third;
        res = read_source(&source);
        g_assert_cmpstr(outcome(res), ==, s.log->str);
        run_destroy(&s);
    }
}

static const Test tests[] = {
    { "runs", test_run },
    { "runs/zero-page", test_run_zero_page },
    { "runs/other-block", test_run_other_block },
    { "runs/named-again", test_run_named_again },
    { "runs/eos", test_run_eos },
    { "runs/flush", test_run_flush },
    { "runs/back", test_run_back },
    { "runs/repeats", test_run_repeats },
    { "runs/jump", test_run_jump },
    { "runs/end-of-block", test_run_end_of_block },
    { "runs/flags", test_run_flags },
    { "runs/room", test_run_room },
    { "runs/long", test_run_long },
    { "runs/random", test_run_random },
    { "runs/cut", test_run_cut },
    { "runs/fails", test_run_fails },
    { "runs/pauses", test_run_pauses },
};

int main(int argc, char **argv)
{
    main_loop_tests_init(&argc, &argv);
    ADD_TESTS("/snap/stream/", tests, call_test);
    return g_test_run();
}
