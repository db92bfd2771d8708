/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of how the reader finds the end of the device state
 */

#include "qemu/osdep.h"
#include "stream-source.h"
#include "test-table.h"

/* --- bytes in the device state that look like its end --- */

/* Device state with a false end, as a head of @length and @tail */
static void put_false_end(GByteArray *devices, uint32_t length,
                          const char *tail)
{
    g_autoptr(GByteArray) payload = g_byte_array_new();

    put_bytes(payload, "abc", 3);
    put_footer(payload, 5);
    put_u8(payload, QEMU_VM_EOF);
    put_u8(payload, QEMU_VM_VMDESCRIPTION);
    put_be32(payload, length);
    put_bytes(payload, tail, strlen(tail));
    put_full(devices, 5, "cpu", payload->data, payload->len);
}

static void check_false_end(const GByteArray *devices, bool vmdesc,
                            const char *log)
{
    g_autoptr(GByteArray) b = started_stream();

    put_part(b);
    put_eos(b);
    put_bytes(b, devices->data, devices->len);
    if (vmdesc) {
        put_end(b);
    } else {
        put_u8(b, QEMU_VM_EOF);
    }
    check_devices(b, log, devices);
}

/**
 * FalseEnd: a device whose state has what looks like the end
 * @length: of the description that is announced there
 * @tail: what follows
 * @nb: number of such devices, each within what the one before announces; 0 for
 *      one
 * @is_last: no other devices follow
 * @no_vmdesc: the stream has no description at its real end
 * @log: of the stream; NULL for any
 */
typedef struct FalseEnd {
    const char *path;
    uint32_t length;
    const char *tail;
    unsigned nb;
    bool is_last;
    bool no_vmdesc;
    const char *log;
} FalseEnd;

static const FalseEnd false_ends[] = {
    { "no-description-and-shorter-than-the-rest",
      16, "{\"0123456789abcdef", .log = "setup eos devices "
      "complete 25+16 resumed complete 112+18 end" },
    { "real-end-within-the-announced-length-is-found",
      100, "{\"0123456789abcdef", .log = "setup eos devices "
      "complete 25+100 resumed complete 112+18 end" },
    { "length-beyond-the-end-of-the-file",
      1 * MiB, "{\"0123456789abcdef", .is_last = true,
      .log = "setup eos devices "
      "complete 25+1048576 resumed complete 54+18 end" },
    { "length-beyond-the-end-of-the-file-without-description",
      1 * MiB, "{\"0123456789abcdef", .is_last = true, .no_vmdesc = true,
      .log = "setup eos devices "
      "complete 25+1048576 resumed complete 54+0 end" },
    { "whole-object-is-no-end-if-the-stream-goes-on",
      16, "{\"012345678\":12}", .log = "setup eos devices "
      "complete 25+16 resumed complete 110+18 end" },
    { "braces-and-quotes-in-strings-are-no-structure",
      16, "{\"a\\\"}\":\"b}c\",0}" },
    { "false-end-within-a-false-end",
      60, "{\"0123456789abcdef", .nb = 2, .log = "setup eos devices "
      "complete 25+60 resumed complete 79+60 resumed complete 166+18 end" },
};

static void test_false_end(gconstpointer data)
{
    const FalseEnd *end = data;
    g_autoptr(GByteArray) devices = g_byte_array_new();

    for (unsigned i = 0; i < MAX(end->nb, 1); i++) {
        put_false_end(devices, end->length, end->tail);
    }
    if (!end->is_last) {
        put_devices(devices);
    }
    check_false_end(devices, !end->no_vmdesc, end->log);
}

/* No description is that short or that long: not even announced */
static void test_false_end_implausible(void)
{
    static const uint32_t lengths[] = {
        0, 1, SNAP_MAX_VMDESC + 1, UINT32_MAX
    };

    for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
        g_autoptr(GByteArray) devices = g_byte_array_new();

        put_false_end(devices, lengths[i], "{\"a\":1}");
        check_false_end(devices, true,
                        "setup eos devices complete 43+18 end");
    }
}

/* A lone EOF after a footer is no end while bytes follow. */
static void test_false_eof(void)
{
    g_autoptr(GByteArray) devices = g_byte_array_new();

    put_full(devices, 5, "cpu", "\x7e\0\0\0\5\0\1\2", 8);
    check_false_end(devices, false, "setup eos devices complete 30+0 end");
}

/* Sections of hotplugged devices: ids are never used again. */
static void test_section_ids(void)
{
    g_autoptr(GByteArray) devices = g_byte_array_new();

    put_full(devices, 65536, "timer", "\0\0\0\1", 4);
    put_full(devices, 0xffffff, "cpu", "abcdefgh", 8);
    check_false_end(devices, true, "setup eos devices complete 58+18 end");
    check_false_end(devices, false, "setup eos devices complete 58+0 end");
}

/* Bytes that cannot be a footer are not taken for one. */
static void test_false_end_footer(void)
{
    g_autoptr(GByteArray) devices = g_byte_array_new();

    put_full(devices, 5, "cpu", "\x7e\1\0\0\5\0\6\0\0\0\7{\"a\":1}", 18);
    check_false_end(devices, true, "setup eos devices complete 40+18 end");
}

/* --- a source that waits for an answer, and closes nothing --- */

static void check_source(Source *source, const char *log,
                         const GByteArray *devices)
{
    g_autoptr(Result) res = read_source(source);

    g_assert_cmpstr(outcome(res), ==, log);
    g_assert_cmpmem(res->devices->data, res->devices->len,
                    devices->data, devices->len);
}

/* Up to the device state */
static GByteArray *return_path_stream(void)
{
    GByteArray *b = g_byte_array_new();

    put_header(b);
    put_command(b, SNAP_CMD_OPEN_RETURN_PATH, NULL, 0);
    put_ram_start(b);
    put_final(b);
    put_eos(b);
    return b;
}

#define LOG_RETURN_PATH "return-path setup final eos devices "

static void test_silence(void)
{
    g_autoptr(GByteArray) b = return_path_stream();
    g_autoptr(GByteArray) devices = g_byte_array_new();
    Source source = { .pieces = { b } };

    put_devices(devices);
    put_devices(b);
    put_end(b);
    check_source(&source, LOG_RETURN_PATH "complete 58+18 end", devices);
}

/* With the machine property suppress-vmdesc */
static void test_silence_no_vmdesc(void)
{
    g_autoptr(GByteArray) b = return_path_stream();
    g_autoptr(GByteArray) devices = g_byte_array_new();
    Source source = { .pieces = { b } };

    put_devices(devices);
    put_devices(b);
    put_u8(b, QEMU_VM_EOF);
    check_source(&source, LOG_RETURN_PATH "complete 58+0 end", devices);
}

/* A whole description within the device state, whatever the channel */
static void test_silence_false_end(void)
{
    g_autoptr(GByteArray) b = return_path_stream();
    g_autoptr(GByteArray) devices = g_byte_array_new();
    Source source = { .pieces = { b } };

    put_false_end(devices, 16, "{\"012345678\":12}");
    put_devices(devices);
    put_bytes(b, devices->data, devices->len);
    put_end(b);
    check_source(&source, LOG_RETURN_PATH
                 "complete 25+16 resumed complete 110+18 end", devices);
    check_devices(b, LOG_RETURN_PATH
                  "complete 25+16 resumed complete 110+18 end", devices);
}

/* The rest comes later, but not too late. */
static void test_silence_short(void)
{
    g_autoptr(GByteArray) b = return_path_stream();
    g_autoptr(GByteArray) rest = g_byte_array_new();
    g_autoptr(GByteArray) devices = g_byte_array_new();
    Source source = { .pieces = { b, rest }, .pause_ms = 20 };
    size_t cut = 25 + 6 + 16;

    put_false_end(devices, 16, "{\"012345678\":12}");
    put_bytes(b, devices->data, cut);
    put_bytes(rest, devices->data + cut, devices->len - cut);
    put_end(rest);
    check_source(&source, LOG_RETURN_PATH
                 "complete 25+16 resumed complete 52+18 end", devices);
}

/* Pauses elsewhere do not mean the end, nor do those after a false one. */
static void test_silence_elsewhere(void)
{
    g_autoptr(GByteArray) b = return_path_stream();
    g_autoptr(GByteArray) middle = g_byte_array_new();
    g_autoptr(GByteArray) rest = g_byte_array_new();
    g_autoptr(GByteArray) devices = g_byte_array_new();
    Source source = { .pieces = { b, middle, rest }, .pause_ms = 300 };
    size_t cut = 25 + 6 + 16 + 2;

    put_false_end(devices, 16, "{\"012345678\":12}");
    put_bytes(b, devices->data, cut);
    put_full(devices, 6, "rtc", "xy", 2);
    put_bytes(middle, devices->data + cut, devices->len - cut - 6);
    put_bytes(rest, devices->data + devices->len - 6, 6);
    put_end(rest);
    check_source(&source, LOG_RETURN_PATH
                 "complete 25+16 resumed complete 76+18 end", devices);
}

/* A pause after what looks like the end without description */
static void test_silence_false_eof(void)
{
    g_autoptr(GByteArray) b = return_path_stream();
    g_autoptr(GByteArray) rest = g_byte_array_new();
    g_autoptr(GByteArray) devices = g_byte_array_new();
    Source source = { .pieces = { b, rest }, .pause_ms = 200 };

    put_full(devices, 5, "cpu", "\x7e\0\0\0\5\0\1\2", 8);
    put_bytes(b, devices->data, devices->len - 7);
    put_bytes(rest, devices->data + devices->len - 7, 7);
    put_u8(rest, QEMU_VM_EOF);
    check_source(&source, LOG_RETURN_PATH "complete 30+0 end", devices);
}

/* Without return path the end of the file is waited for. */
static void test_silence_no_return_path(void)
{
    g_autoptr(GByteArray) b = started_stream();
    g_autoptr(GByteArray) rest = g_byte_array_new();
    g_autoptr(GByteArray) devices = g_byte_array_new();
    Source source = {
        .pieces = { b, rest }, .pause_ms = 1200, .closes = true
    };

    put_devices(devices);
    put_final(b);
    put_eos(b);
    put_devices(b);
    put_end(rest);
    put_u8(b, rest->data[0]);
    g_byte_array_remove_index(rest, 0);
    check_source(&source, "setup final eos devices complete 58+18 end",
                 devices);
}

static const Test tests[] = {
    { "false-end/implausible-length", test_false_end_implausible },
    { "false-end/eof-is-no-end-while-bytes-follow", test_false_eof },
    { "false-end/section-id-may-be-large", test_section_ids },
    { "false-end/needs-a-footer-before-it", test_false_end_footer },
    { "silence/stream-ends-with-its-description", test_silence },
    { "silence/stream-ends-without-description", test_silence_no_vmdesc },
    { "silence/whole-object-is-no-end-if-the-stream-goes-on",
      test_silence_false_end },
    { "silence/short-pause-after-a-false-end-is-no-end",
      test_silence_short },
    { "silence/pause-elsewhere-is-no-end", test_silence_elsewhere },
    { "silence/pause-after-a-false-eof-is-no-end", test_silence_false_eof },
    { "silence/without-return-path-the-file-has-to-end",
      test_silence_no_return_path },
};

int main(int argc, char **argv)
{
    main_loop_tests_init(&argc, &argv);
    ADD_TESTS("/snap/reader-end/false-end/", false_ends, test_false_end);
    ADD_TESTS("/snap/reader-end/", tests, call_test);
    return g_test_run();
}
