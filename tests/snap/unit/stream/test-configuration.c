/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of the head of a migration stream
 */

#include "qemu/osdep.h"
#include "qapi/qapi-builtin-types.h"
#include "snap/stream/configuration.h"
#include "stream-bytes.h"
#include "test-table.h"

/**
 * MachineCase: the machine type that a head has
 * @type: of the first section
 * @name_length: that the head announces
 * @rest: what follows that
 * @expected: the name, NULL if there is none
 */
typedef struct MachineCase {
    const char *path;
    uint8_t type;
    uint32_t name_length;
    const char *rest;
    const char *expected;
} MachineCase;

static const MachineCase machine_cases[] = {
    { "name-ends-where-its-length-says",
      QEMU_VM_CONFIGURATION, 6, "pc-9.0\5more", "pc-9.0" },
    { "name-may-be-the-last", QEMU_VM_CONFIGURATION, 6, "pc-9.0", "pc-9.0" },
    { "name-ends-with-the-bytes",
      QEMU_VM_CONFIGURATION, UINT32_MAX, "pc-9.0", "pc-9.0" },
    { "name-may-be-empty", QEMU_VM_CONFIGURATION, 0, "\5more", "" },
    { "head-without-a-name-has-none", QEMU_VM_CONFIGURATION, 6, "", NULL },
    { "stream-without-configuration-has-none",
      QEMU_VM_SECTION_START, 6, "pc-9.0", NULL },
};

static void test_machine(gconstpointer data)
{
    const MachineCase *c = data;
    g_autoptr(GByteArray) b = g_byte_array_new();
    g_autofree uint8_t *copy = NULL;
    g_autofree char *name = NULL;

    put_be32(b, QEMU_VM_FILE_MAGIC);
    put_be32(b, QEMU_VM_FILE_VERSION);
    put_u8(b, c->type);
    put_be32(b, c->name_length);
    put_bytes(b, c->rest, strlen(c->rest));
    copy = g_memdup2(b->data, b->len);
    name = snap_configuration_machine(copy, b->len);
    g_assert_cmpstr(name, ==, c->expected);
}

/* Nothing beyond the bytes is looked at. */
static void test_short_head(void)
{
    static const uint8_t head[13] = { [8] = QEMU_VM_CONFIGURATION, [12] = 9 };

    for (size_t length = 0; length <= sizeof(head); length++) {
        g_autofree uint8_t *copy = g_memdup2(head, length);

        g_assert_null(snap_configuration_machine(copy, length));
    }
}

int main(int argc, char **argv)
{
    tests_init(&argc, &argv);
    ADD_TESTS("/snap/configuration/machine/", machine_cases, test_machine);
    g_test_add_func("/snap/configuration/machine/short-head-has-none",
                    test_short_head);
    return g_test_run();
}
