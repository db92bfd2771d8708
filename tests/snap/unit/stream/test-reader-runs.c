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
 * @block: of the last record
 * @fill: of the next page
 */
typedef struct RunStream {
    unsigned page_bits;
    GByteArray *bytes;
    GString *log;
    GArray *ends;
    int block;
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

/* The word of a record; the block is that of the last one without a @name. */
static void run_record(RunStream *s, const char *name, unsigned page,
                       unsigned flag)
{
    uint64_t offset = (uint64_t)page << s->page_bits;

    if (name) {
        s->block = g_str_equal(name, "vga.vram");
    }
    put_record(s->bytes, offset | flag | (name ? 0 : RAM_SAVE_FLAG_CONTINUE),
               name);
}

/* @nb pages from @page on, each of which is full of another byte */
static void run_pages(RunStream *s, const char *name, unsigned page,
                      unsigned nb)
{
    size_t page_size = (size_t)1 << s->page_bits;
    g_autofree uint8_t *data = g_malloc(page_size);

    for (unsigned i = 0; i < nb; i++) {
        PageEnd end;

        memset(data, s->fill, page_size);
        run_record(s, i ? NULL : name, page + i, RAM_SAVE_FLAG_PAGE);
        put_bytes(s->bytes, data, page_size);
        g_string_append_printf(s->log, "page %d+%zx=%02x ", s->block,
                               (page + i) * page_size, s->fill++);
        end = (PageEnd) { s->bytes->len, s->log->len };
        g_array_append_val(s->ends, end);
    }
}

static void run_zero(RunStream *s, const char *name, unsigned page)
{
    run_record(s, name, page, RAM_SAVE_FLAG_ZERO);
    put_u8(s->bytes, 0);
    g_string_append_printf(s->log, "zero %d+%zx ", s->block,
                           (size_t)page << s->page_bits);
}

static void run_flush(RunStream *s)
{
    put_be64(s->bytes, RAM_SAVE_FLAG_MULTIFD_FLUSH);
    g_string_append(s->log, "flush ");
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
 * If all of it is there at once, and room for @room pages, the pages come in
 * @runs; NULL for any.
 */
static void run_check(const RunStream *s, const char *runs, unsigned room)
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
            if (runs && rooms[i] == room && chunks[j] == SIZE_MAX) {
                g_assert_cmpstr(res->runs->str, ==, runs);
            }
        }
    }
}

/* The stream is refused after all that it has said, with @why. */
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

/* --- streams that a table describes --- */

/**
 * RunStep: a part of such a stream
 * @name: of the block; NULL for that of the last record
 * @page: the first one, in the block
 * @nb: of PAGES
 */
typedef struct RunStep {
    enum { END, PAGES, ZERO, EOS, FLUSH } type;
    const char *name;
    unsigned page;
    unsigned nb;
} RunStep;

/**
 * RunCase: how the pages of a stream are taken together
 * @runs: "block+offset:number" of each run, in hexadecimal
 * @room: most pages to take at a time; 0 for many
 */
typedef struct RunCase {
    const char *path;
    RunStep steps[10];
    const char *runs;
    unsigned room;
} RunCase;

/* A page is known to follow only if the two before it were neighbours. */
static const RunCase run_cases[] = {
    { "first-page-stands-alone",
      { { PAGES, "pc.ram", 0, 10 } },
      "0+0:1 0+400:9 " },

    { "zero-page-ends-run",
      { { ZERO, "pc.ram", 0 }, { PAGES, NULL, 1, 3 }, { ZERO, NULL, 4 },
        { PAGES, NULL, 5, 2 }, { ZERO, NULL, 7 }, { ZERO, NULL, 8 },
        { PAGES, NULL, 9, 1 } },
      "0+400:1 0+800:2 0+1400:1 0+1800:1 0+2400:1 " },

    /* The last page would continue the run, were it not another block. */
    { "other-block-ends-run",
      { { PAGES, "pc.ram", 0, 3 }, { PAGES, "vga.vram", 0, 3 },
        { PAGES, "pc.ram", 3, 3 }, { PAGES, "vga.vram", 3, 1 } },
      "0+0:1 0+400:2 1+0:1 1+400:2 0+c00:1 0+1000:2 1+c00:1 " },

    { "block-named-again-begins-run",
      { { PAGES, "pc.ram", 0, 3 }, { PAGES, "pc.ram", 3, 3 } },
      "0+0:1 0+400:2 0+c00:1 0+1000:2 " },

    { "run-continues-in-next-section",
      { { PAGES, "pc.ram", 0, 3 }, { EOS }, { PAGES, NULL, 3, 3 }, { EOS },
        { EOS }, { PAGES, NULL, 6, 1 } },
      "0+0:1 0+400:2 0+c00:3 0+1800:1 " },

    { "run-continues-after-flush",
      { { PAGES, "pc.ram", 0, 3 }, { FLUSH }, { PAGES, NULL, 3, 3 } },
      "0+0:1 0+400:2 0+c00:3 " },

    { "step-back-ends-run",
      { { PAGES, "pc.ram", 0, 5 }, { PAGES, NULL, 2, 4 },
        { PAGES, NULL, 0, 1 } },
      "0+0:1 0+400:4 0+800:1 0+c00:3 0+0:1 " },

    { "repeated-page-ends-run",
      { { PAGES, "pc.ram", 0, 3 }, { PAGES, NULL, 2, 1 },
        { PAGES, NULL, 2, 3 } },
      "0+0:1 0+400:2 0+800:1 0+800:1 0+c00:2 " },

    { "jump-ends-run",
      { { PAGES, "pc.ram", 7, 2 }, { PAGES, NULL, 10, 2 },
        { PAGES, NULL, RUN_RAM_PAGES - 1, 1 }, { PAGES, NULL, 0, 2 } },
      "0+1c00:1 0+2000:1 0+2800:1 0+2c00:1 0+1f3c00:1 0+0:1 0+400:1 " },

    { "end-of-block-ends-run",
      { { PAGES, "vga.vram", 0, RUN_VGA_PAGES },
        { PAGES, "pc.ram", RUN_RAM_PAGES - 3, 3 } },
      "1+0:1 1+400:3 0+1f3400:1 0+1f3800:2 " },

    { "run-is-no-longer-than-the-room-for-it",
      { { PAGES, "pc.ram", 0, 12 } },
      "0+0:1 0+400:3 0+1000:3 0+1c00:3 0+2800:2 ", .room = 3 },
};

static void run_add_step(RunStream *s, const RunStep *step)
{
    switch (step->type) {
    case PAGES:
        run_pages(s, step->name, step->page, step->nb);
        break;
    case ZERO:
        run_zero(s, step->name, step->page);
        break;
    case EOS:
        run_eos(s);
        break;
    case FLUSH:
        run_flush(s);
        break;
    case END:
        g_assert_not_reached();
    }
}

static void test_run_case(gconstpointer data)
{
    const RunCase *c = data;
    RunStream s;

    run_begin(&s, PAGE_BITS);
    for (const RunStep *step = c->steps; step->type != END; step++) {
        run_add_step(&s, step);
    }
    run_end(&s);
    run_check(&s, c->runs, c->room ?: MUCH_ROOM);
    run_destroy(&s);
}

/* --- records that end a run, and the stream --- */

/* Nothing is taken for a page that lies beyond the block. */
static void test_page_beyond_block(void)
{
    RunStream s;

    run_begin(&s, PAGE_BITS);
    run_pages(&s, "vga.vram", 0, RUN_VGA_PAGES);
    run_record(&s, NULL, RUN_VGA_PAGES, RAM_SAVE_FLAG_PAGE);
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
        run_pages(&s, "pc.ram", 0, 3);
        run_record(&s, NULL, 3, flags[i]);
        put_zeroes(s.bytes, PAGE);
        run_check_refused(&s, "");
        run_destroy(&s);
    }
}

/* --- long and random runs --- */

/* A channel that brings much at a time is taken with few calls. */
static void check_long_run(unsigned page_bits, unsigned nb_pages)
{
    g_autoptr(Result) res = NULL;
    g_auto(GStrv) runs = NULL;
    RunStream s;

    run_begin(&s, page_bits);
    run_pages(&s, "pc.ram", 0, nb_pages);
    run_end(&s);
    run_check(&s, NULL, 0);
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
    static const char *const names[] = { "pc.ram", "vga.vram" };
    int block = -1;
    unsigned page = 0;

    for (unsigned i = 0; i < 30; i++) {
        bool continues = block == 0 && g_rand_int_range(rand, 0, 4);
        unsigned nb = g_rand_int_range(rand, 1, 6);
        const char *name;

        if (!continues) {
            int old = block;

            block = g_rand_int_range(rand, 0, 4) == 0;
            page = g_rand_int_range(rand, 0, block ? RUN_VGA_PAGES : 50);
            nb = block ? 1 : nb;
            continues = block == old && g_rand_boolean(rand);
        }
        name = continues ? NULL : names[block];
        switch (g_rand_int_range(rand, 0, 8)) {
        case 0:
            run_zero(s, name, page++);
            break;
        case 1:
            run_pages(s, name, page, 1);
            run_eos(s);
            page++;
            break;
        default:
            run_pages(s, name, page, nb);
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
        run_check(&s, NULL, 0);
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
    run_pages(&s, "pc.ram", 0, 5);
    run_zero(&s, NULL, 5);
    run_pages(&s, NULL, 6, 2);
    for (size_t size = 1; size < s.bytes->len; size += step) {
        g_autofree uint8_t *copy = g_memdup2(s.bytes->data, size);
        g_autoptr(Result) res = read_bytes(copy, size, some[size % 3], fails);

        if (!says(res, fails ? "Injected" : "early") ||
            res->log->len < run_log_due(&s, size) ||
            !g_str_has_prefix(s.log->str, res->log->str)) {
            g_test_message("cut at %zu: %s, after %s", size, outcome(res),
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
        run_pages(&s, "pc.ram", 0, 4);
        cuts[0] = s.bytes->len - 100;
        run_pages(&s, NULL, 4, 3);
        cuts[1] = s.bytes->len + 5;
        run_pages(&s, NULL, 7, 3);
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
    { "page-beyond-block-is-refused", test_page_beyond_block },
    { "record-with-other-flags-is-refused", test_run_flags },
    { "long-run-takes-few-calls", test_run_long },
    { "random-records-say-the-same-in-any-pieces", test_run_random },
    { "pages-before-the-end-of-the-file-count", test_run_cut },
    { "pages-before-a-failure-count", test_run_fails },
    { "run-continues-after-a-pause", test_run_pauses },
};

int main(int argc, char **argv)
{
    main_loop_tests_init(&argc, &argv);
    ADD_TESTS("/snap/reader-runs/", run_cases, test_run_case);
    ADD_TESTS("/snap/reader-runs/", tests, call_test);
    return g_test_run();
}
