/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of where the device state ends
 */

#include "qemu/osdep.h"
#include "qapi/qapi-builtin-types.h"
#include "migration/savevm.h"
#include "snap/stream/sections.h"
#include "snap/stream/stream.h"
#include "test-table.h"

static void feed(SnapDeviceEnd *end, const void *data, size_t length)
{
    const uint8_t *bytes = data;

    for (size_t i = 0; i < length; i++) {
        snap_device_end_feed(end, bytes[i]);
    }
}

static void feed_be32(SnapDeviceEnd *end, uint32_t value)
{
    for (int shift = 24; shift >= 0; shift -= 8) {
        snap_device_end_feed(end, value >> shift);
    }
}

static void feed_footer(SnapDeviceEnd *end, uint32_t id)
{
    snap_device_end_feed(end, QEMU_VM_SECTION_FOOTER);
    feed_be32(end, id);
}

/* EOF and the head of a description whose JSON begins with @text */
static void feed_description(SnapDeviceEnd *end, uint32_t length,
                             const char text[2])
{
    snap_device_end_feed(end, QEMU_VM_EOF);
    snap_device_end_feed(end, QEMU_VM_VMDESCRIPTION);
    feed_be32(end, length);
    feed(end, text, 2);
}

/* What is found after a footer and the head of a description */
static uint32_t found(bool footers, uint32_t id, uint32_t length,
                      const char text[2])
{
    SnapDeviceEnd end;

    snap_device_end_init(&end, footers);
    feed_footer(&end, id);
    feed_description(&end, length, text);
    return snap_device_end_description(&end);
}

static void test_description_is_found_at_its_last_head_byte(void)
{
    static const uint8_t stream[] = {
        QEMU_VM_SECTION_FOOTER, 0, 0, 0, 9,
        QEMU_VM_EOF, QEMU_VM_VMDESCRIPTION, 0, 1, 2, 3, '{', '"', 'a',
    };
    SnapDeviceEnd end;

    snap_device_end_init(&end, true);
    for (size_t i = 0; i < sizeof(stream); i++) {
        snap_device_end_feed(&end, stream[i]);
        g_assert_cmphex(snap_device_end_description(&end), ==,
                        i == 12 ? 0x10203 : 0);
    }
}

static void test_description_needs_a_footer_before_it(void)
{
    SnapDeviceEnd end;

    snap_device_end_init(&end, true);
    feed(&end, "state", 5);
    feed_description(&end, 100, "{\"");
    g_assert_cmpuint(snap_device_end_description(&end), ==, 0);

    snap_device_end_init(&end, false);
    feed(&end, "state", 5);
    feed_description(&end, 100, "{\"");
    g_assert_cmpuint(snap_device_end_description(&end), ==, 100);
}

static void test_footer_has_a_section_id_that_can_be(void)
{
    g_assert_cmpuint(found(true, 0, 100, "{\""), ==, 100);
    g_assert_cmpuint(found(true, 0xffffff, 100, "{\""), ==, 100);
    g_assert_cmpuint(found(true, 0x1000000, 100, "{\""), ==, 0);
}

static void test_description_has_a_length_that_can_be(void)
{
    g_assert_cmpuint(found(true, 1, 0, "{\""), ==, 0);
    g_assert_cmpuint(found(true, 1, 2, "{\""), ==, 0);
    g_assert_cmpuint(found(true, 1, 3, "{\""), ==, 3);
    g_assert_cmpuint(found(true, 1, SNAP_MAX_VMDESC, "{\""), ==,
                     SNAP_MAX_VMDESC);
    g_assert_cmpuint(found(true, 1, SNAP_MAX_VMDESC + 1, "{\""), ==, 0);
    g_assert_cmpuint(found(true, 1, UINT32_MAX, "{\""), ==, 0);
}

static void test_description_begins_as_an_object(void)
{
    g_assert_cmpuint(found(true, 1, 100, "[\""), ==, 0);
    g_assert_cmpuint(found(true, 1, 100, "{ "), ==, 0);
    g_assert_cmpuint(found(true, 1, 100, "{}"), ==, 0);
}

static void test_eof_follows_a_footer(void)
{
    SnapDeviceEnd end;

    snap_device_end_init(&end, true);
    feed_footer(&end, 3);
    g_assert_false(snap_device_end_is_eof(&end));
    snap_device_end_feed(&end, QEMU_VM_EOF);
    g_assert_true(snap_device_end_is_eof(&end));
    snap_device_end_feed(&end, QEMU_VM_EOF);
    g_assert_false(snap_device_end_is_eof(&end));

    feed_footer(&end, 3);
    snap_device_end_feed(&end, 1);
    g_assert_false(snap_device_end_is_eof(&end));
    feed_footer(&end, 0x1000000);
    snap_device_end_feed(&end, QEMU_VM_EOF);
    g_assert_false(snap_device_end_is_eof(&end));
}

static void test_any_zero_can_be_eof_without_footers(void)
{
    SnapDeviceEnd end;

    snap_device_end_init(&end, false);
    feed(&end, "state", 5);
    g_assert_false(snap_device_end_is_eof(&end));
    snap_device_end_feed(&end, QEMU_VM_EOF);
    g_assert_true(snap_device_end_is_eof(&end));
}

/* Before there were 16 bytes, those that are missing count as zeroes. */
static void test_nothing_is_no_end_of_a_stream_with_footers(void)
{
    SnapDeviceEnd end;

    snap_device_end_init(&end, true);
    for (int i = 0; i < 20; i++) {
        g_assert_false(snap_device_end_is_eof(&end));
        g_assert_cmpuint(snap_device_end_description(&end), ==, 0);
        snap_device_end_feed(&end, QEMU_VM_EOF);
    }
}

static void test_description_is_one_object_to_its_last_byte(void)
{
    static const struct {
        const char *text;
        bool valid;
    } cases[] = {
        { "{\"a\":1}", true },
        { "{\"a\":[{\"b\":[]},{}]}", true },
        { "{\"a\":\"}\"}", true },              /* within a string */
        { "{\"a\":\"\\\"}\"}", true },          /* after an escaped quote */
        { "{\"a\":\"\\\\\"}", true },           /* an escaped backslash */
        { "{\"a\":\"\\\\\"}\"}", false },
        { "{\"a\":1} ", false },
        { "{\"a\":1}}", false },
        { "{\"a\":1}{}", false },
        { "{\"a\":1", false },
        { "{\"a\":{}", false },
        { "{\"a\":\"}", false },                /* no end of the string */
        { "{\"a\":\"\\", false },               /* nor of the escape */
        { "", false },
    };

    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        g_test_message("%s", cases[i].text);
        g_assert_cmpint(snap_description_valid((const uint8_t *)cases[i].text,
                                               strlen(cases[i].text)),
                        ==, cases[i].valid);
    }
}

static const Test tests[] = {
    { "description/last-head-byte",
      test_description_is_found_at_its_last_head_byte },
    { "description/needs-footer", test_description_needs_a_footer_before_it },
    { "description/section-id", test_footer_has_a_section_id_that_can_be },
    { "description/length", test_description_has_a_length_that_can_be },
    { "description/begins-as-object", test_description_begins_as_an_object },
    { "eof/follows-footer", test_eof_follows_a_footer },
    { "eof/any-zero-without-footers",
      test_any_zero_can_be_eof_without_footers },
    { "nothing-is-no-end", test_nothing_is_no_end_of_a_stream_with_footers },
    { "valid/one-object", test_description_is_one_object_to_its_last_byte },
};

int main(int argc, char **argv)
{
    tests_init(&argc, &argv);
    ADD_TESTS("/snap/device-end/", tests, call_test);
    return g_test_run();
}
