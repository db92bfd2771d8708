/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The head of a migration stream: magic, version, configuration section
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qapi/qapi-builtin-types.h"
#include "migration/savevm.h"
#include "snap/stream/configuration.h"

/* Magic, version, section type, length of the name (migration/savevm.c). */
#define MACHINE_LENGTH_OFFSET 9
#define MACHINE_OFFSET 13

char *snap_configuration_machine(const uint8_t *data, size_t length)
{
    uint32_t name_length;

    if (length <= MACHINE_OFFSET ||
        data[MACHINE_LENGTH_OFFSET - 1] != QEMU_VM_CONFIGURATION) {
        return NULL;
    }
    name_length = ldl_be_p(data + MACHINE_LENGTH_OFFSET);
    return g_strndup((const char *)data + MACHINE_OFFSET,
                     MIN(name_length, length - MACHINE_OFFSET));
}
