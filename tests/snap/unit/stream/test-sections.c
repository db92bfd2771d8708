/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of the sections of device state
 */

#include "qemu/osdep.h"
#include "qapi/qapi-builtin-types.h"
#include "migration/savevm.h"
#include "snap/stream/sections.h"
#include "stream-bytes.h"
#include "test-table.h"

#define ID  5

static size_t parse(const GByteArray *b, SnapDeviceSection *section)
{
    return snap_device_section_parse(b->data, b->len, section);
}

static int plausible(const GByteArray *b)
{
    return snap_device_section_head_plausible(b->data, b->len);
}

static void put_run_state(GByteArray *b, const char *state)
{
    char padded[32] = { };

    memcpy(padded, state, strlen(state));
    put_head(b, QEMU_VM_SECTION_FULL, 9, "globalstate", 1);
    put_be32(b, strlen(state) + 1);
    put_bytes(b, padded, sizeof(padded));
    put_zeroes(b, 68);
    put_footer(b, 9);
}

static void test_full(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    SnapDeviceSection section;

    put_head(b, QEMU_VM_SECTION_FULL, ID, "timer", 2);
    put_bytes(b, "payload", 7);
    put_footer(b, ID);

    g_assert_cmpuint(parse(b, &section), ==, b->len);
    g_assert_cmpint(section.head.type, ==, QEMU_VM_SECTION_FULL);
    g_assert_cmpuint(section.head.id, ==, ID);
    g_assert_cmpstr(section.head.name, ==, "timer");
    g_assert_cmpuint(section.head.instance, ==, 0);
    g_assert_cmpuint(section.head.version, ==, 2);
    g_assert_cmpmem(section.payload, section.length, "payload", 7);
}

static void test_end_has_no_name(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    SnapDeviceSection section;

    put_short_head(b, QEMU_VM_SECTION_END, ID);
    put_bytes(b, "x", 1);
    put_footer(b, ID);

    g_assert_cmpuint(parse(b, &section), ==, b->len);
    g_assert_cmpint(section.head.type, ==, QEMU_VM_SECTION_END);
    g_assert_cmpstr(section.head.name, ==, "");
    g_assert_cmpmem(section.payload, section.length, "x", 1);
}

static void test_empty_payload(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    SnapDeviceSection section;

    put_head(b, QEMU_VM_SECTION_FULL, ID, "empty", 1);
    put_footer(b, ID);

    g_assert_cmpuint(parse(b, &section), ==, b->len);
    g_assert_cmpuint(section.length, ==, 0);
}

static void test_longest_name(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    g_autofree char *name = g_strnfill(255, 'n');
    SnapDeviceSection section;

    put_head(b, QEMU_VM_SECTION_FULL, ID, name, 1);
    put_footer(b, ID);

    g_assert_cmpuint(parse(b, &section), ==, b->len);
    g_assert_cmpstr(section.head.name, ==, name);
}

/* A head, as the bytes that the tests put together */
static void check_head(const SnapSectionHead *head, const GByteArray *expected)
{
    uint8_t buf[SNAP_SECTION_HEAD_MAX];
    size_t size = snap_section_head_encode(head, buf);
    SnapSectionHead decoded;

    g_assert_cmpmem(buf, size, expected->data, expected->len);
    g_assert_cmpuint(snap_section_head_decode(&decoded, buf, size), ==, size);
    g_assert_cmpint(decoded.type, ==, head->type);
    g_assert_cmpuint(decoded.id, ==, head->id);
    g_assert_cmpstr(decoded.name, ==, head->name);
    g_assert_cmpuint(decoded.instance, ==, head->instance);
    g_assert_cmpuint(decoded.version, ==, head->version);
}

static void test_head_round_trip(void)
{
    g_autoptr(GByteArray) full = g_byte_array_new();
    g_autoptr(GByteArray) part = g_byte_array_new();
    g_autoptr(GByteArray) longest = g_byte_array_new();
    SnapSectionHead head = {
        .type = QEMU_VM_SECTION_FULL, .id = ID, .name = "timer", .version = 2,
    };

    put_head(full, QEMU_VM_SECTION_FULL, ID, "timer", 2);
    check_head(&head, full);
    memset(head.name, 'x', SNAP_BLOCK_NAME_MAX);
    put_head(longest, QEMU_VM_SECTION_FULL, ID, head.name, 2);
    check_head(&head, longest);
    g_assert_cmpuint(longest->len, ==, SNAP_SECTION_HEAD_MAX);
    head = (SnapSectionHead) { .type = QEMU_VM_SECTION_PART, .id = ID };
    put_short_head(part, QEMU_VM_SECTION_PART, ID);
    check_head(&head, part);
}

static void test_ends_before_next(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    SnapDeviceSection section;
    size_t first;

    put_full(b, ID, "first", "abc", 3);
    first = b->len;
    put_full(b, ID + 1, "second", "def", 3);

    g_assert_cmpuint(parse(b, &section), ==, first);
    g_assert_cmpmem(section.payload, section.length, "abc", 3);
}

static void test_ends_before_command(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    SnapDeviceSection section;
    size_t first;

    put_full(b, ID, "first", "abc", 3);
    first = b->len;
    put_command(b, 11, NULL, 0);

    g_assert_cmpuint(parse(b, &section), ==, first);
}

static void test_footer_of_another(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    g_autoptr(GByteArray) payload = g_byte_array_new();
    SnapDeviceSection section;

    put_footer(payload, ID + 1);
    put_head(payload, QEMU_VM_SECTION_FULL, ID + 2, "other", 1);
    put_full(b, ID, "first", payload->data, payload->len);

    g_assert_cmpuint(parse(b, &section), ==, b->len);
    g_assert_cmpmem(section.payload, section.length,
                    payload->data, payload->len);
}

/* Its own footer within the payload, followed by @tail */
static void check_false_footer(const void *tail, size_t length)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    g_autoptr(GByteArray) payload = g_byte_array_new();
    SnapDeviceSection section;

    put_footer(payload, ID);
    put_bytes(payload, tail, length);
    put_full(b, ID, "first", payload->data, payload->len);

    g_assert_cmpuint(parse(b, &section), ==, b->len);
    g_assert_cmpmem(section.payload, section.length,
                    payload->data, payload->len);
}

static void test_false_footer_no_type(void)
{
    check_false_footer("\x09", 1);
    check_false_footer("\x7e", 1);
    check_false_footer("\xff\xff", 2);
}

static void test_false_footer_name(void)
{
    check_false_footer("\x04\0\0\0\1\0", 6);
    check_false_footer("\x04\0\0\0\1\3a\1c\0\0\0\0\0\0\0\0", 17);
}

static void test_false_footer_command(void)
{
    check_false_footer("\x08\0\0\0\0", 5);
    check_false_footer("\x08\0\x0c\0\0", 5);
}

/* There is no EOF within the device state. */
static void test_false_footer_eof(void)
{
    check_false_footer("\0", 1);
    check_false_footer("\0\x06\0\0\0\x10{\"", 8);
}

static void test_footer_in_footer(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    SnapDeviceSection section;

    put_full(b, 0x7e7e7e7e, "first", "\x7e\x7e", 2);

    g_assert_cmpuint(parse(b, &section), ==, b->len);
    g_assert_cmpuint(section.length, ==, 2);
}

static void test_not_a_section(void)
{
    static const uint8_t types[] = {
        QEMU_VM_EOF, QEMU_VM_SUBSECTION, QEMU_VM_VMDESCRIPTION,
        QEMU_VM_CONFIGURATION, QEMU_VM_COMMAND, QEMU_VM_SECTION_FOOTER, 0xff,
    };
    SnapDeviceSection section;

    for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
        g_autoptr(GByteArray) b = g_byte_array_new();

        put_head(b, types[i], ID, "first", 1);
        put_footer(b, ID);
        g_assert_cmpuint(parse(b, &section), ==, 0);
    }
}

/* The payload holds the id's bytes, but no whole footer of its own. */
static void test_truncated(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    SnapDeviceSection section;

    put_full(b, ID, "first", "\x7e\0\0\0\x04", 5);
    for (size_t size = 0; size < b->len; size++) {
        g_autofree uint8_t *copy = g_memdup2(b->data, size);

        g_assert_cmpuint(snap_device_section_parse(copy, size, &section),
                         ==, 0);
    }
}

/* Whether the first section is over cannot be told from half a head. */
static void test_next_truncated(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    SnapDeviceSection section;
    size_t first, head;

    put_full(b, ID, "first", "abc", 3);
    first = b->len;
    put_head(b, QEMU_VM_SECTION_FULL, ID + 1, "second", 1);
    head = b->len;
    put_footer(b, ID + 1);

    for (size_t size = first; size <= b->len; size++) {
        g_autofree uint8_t *copy = g_memdup2(b->data, size);
        bool told = size == first || size >= head;

        g_assert_cmpuint(snap_device_section_parse(copy, size, &section),
                         ==, told ? first : 0);
    }
}

static void test_head_named(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_head(b, QEMU_VM_SECTION_START, ID, "dirty-bitmap", 1);
    g_assert_cmpint(plausible(b), ==, 1);
    for (size_t size = 0; size < b->len; size++) {
        g_autofree uint8_t *copy = g_memdup2(b->data, size);

        g_assert_cmpint(snap_device_section_head_plausible(copy, size),
                        ==, -1);
    }
}

static void test_head_short(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_short_head(b, QEMU_VM_SECTION_PART, ID);
    g_assert_cmpint(plausible(b), ==, 1);
    g_assert_cmpint(snap_device_section_head_plausible(b->data, 4), ==, -1);
}

static void test_head_command(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_command(b, 1, NULL, 0);
    g_assert_cmpint(plausible(b), ==, 1);
    g_assert_cmpint(snap_device_section_head_plausible(b->data, 4), ==, -1);
}

static void test_head_eof(void)
{
    const uint8_t described[] = { QEMU_VM_EOF, QEMU_VM_VMDESCRIPTION };
    const uint8_t other[] = { QEMU_VM_EOF, QEMU_VM_EOF };

    g_assert_cmpint(snap_device_section_head_plausible(described, 2), ==, 1);
    g_assert_cmpint(snap_device_section_head_plausible(described, 1), ==, -1);
    g_assert_cmpint(snap_device_section_head_plausible(other, 2), ==, 0);
}

/* A name that is not printable shows as soon as its first such byte. */
static void test_head_unprintable(void)
{
    const uint8_t head[] = { QEMU_VM_SECTION_FULL, 0, 0, 0, 1, 200, 'a', 7 };

    g_assert_cmpint(snap_device_section_head_plausible(head, 7), ==, -1);
    g_assert_cmpint(snap_device_section_head_plausible(head, 8), ==, 0);
}

static void test_run_state(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    g_autofree char *state = NULL;

    put_full(b, ID, "timer", "abc", 3);
    put_run_state(b, "paused");
    put_full(b, ID + 1, "cpu", "def", 3);

    state = snap_device_run_state(b->data, b->len);
    g_assert_cmpstr(state, ==, "paused");
}

static void test_run_state_after_command(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();
    g_autofree char *state = NULL;

    put_command(b, 2, "\0\0\0\1", 4);
    put_run_state(b, "running");

    state = snap_device_run_state(b->data, b->len);
    g_assert_cmpstr(state, ==, "running");
}

static void test_run_state_none(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    g_assert_null(snap_device_run_state(b->data, 0));
    put_full(b, ID, "timer", "globalstate", 11);
    g_assert_null(snap_device_run_state(b->data, b->len));
}

static void check_no_run_state(const void *payload, size_t length)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_full(b, ID, "globalstate", payload, length);
    g_assert_null(snap_device_run_state(b->data, b->len));
}

static void test_run_state_malformed(void)
{
    g_autofree char *filled = g_strnfill(104, 'r');
    char zeroes[104] = { };

    check_no_run_state(filled, 35);
    check_no_run_state(filled, 104);
    check_no_run_state(zeroes, 104);
    zeroes[4] = '\n';
    check_no_run_state(zeroes, 104);
}

static void test_run_state_truncated(void)
{
    g_autoptr(GByteArray) b = g_byte_array_new();

    put_full(b, ID, "timer", "abc", 3);
    put_run_state(b, "running");
    for (size_t size = 0; size < b->len; size++) {
        g_autofree uint8_t *copy = g_memdup2(b->data, size);

        g_assert_null(snap_device_run_state(copy, size));
    }
}

static const Test tests[] = {
    { "full/has-all-of-its-head", test_full },
    { "end/has-no-name", test_end_has_no_name },
    { "payload/may-be-empty", test_empty_payload },
    { "name/may-have-255-bytes", test_longest_name },
    { "head/is-read-back", test_head_round_trip },
    { "footer/next-section-follows", test_ends_before_next },
    { "footer/command-follows", test_ends_before_command },
    { "footer/of-another-section-is-payload", test_footer_of_another },
    { "false-footer/no-type-follows", test_false_footer_no_type },
    { "false-footer/no-name-follows", test_false_footer_name },
    { "false-footer/no-command-follows", test_false_footer_command },
    { "false-footer/eof-follows", test_false_footer_eof },
    { "footer/within-a-footer-is-payload", test_footer_in_footer },
    { "refused/bytes-that-are-no-section", test_not_a_section },
    { "refused/truncated-section", test_truncated },
    { "refused/truncated-next-section", test_next_truncated },
    { "head/with-a-name-is-plausible", test_head_named },
    { "head/without-a-name-is-plausible", test_head_short },
    { "head/of-a-command-is-plausible", test_head_command },
    { "head/of-eof-needs-a-description", test_head_eof },
    { "head/with-an-unprintable-name-is-not-plausible", test_head_unprintable },
    { "run-state/is-found", test_run_state },
    { "run-state/is-found-after-a-command", test_run_state_after_command },
    { "run-state/may-be-missing", test_run_state_none },
    { "run-state/malformed-one-is-ignored", test_run_state_malformed },
    { "run-state/truncated-one-is-ignored", test_run_state_truncated },
};

int main(int argc, char **argv)
{
    tests_init(&argc, &argv);
    ADD_TESTS("/snap/sections/", tests, call_test);
    return g_test_run();
}
