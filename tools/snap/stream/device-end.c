/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the device state ends
 */

#include "qemu/osdep.h"
#include "qapi/qapi-builtin-types.h"
#include "migration/savevm.h"
#include "snap/stream/device-end.h"
#include "snap/stream/stream.h"

void snap_device_end_init(SnapDeviceEnd *end, bool footers)
{
    *end = (SnapDeviceEnd) { .footers = footers };
}

/*
 * Section ids are counted up at each device that is plugged, and are never
 * used again: 2^24 is what no virtual machine comes to.
 */
#define SECTION_ID_MAX  0xffffff

/* Whether five bytes are a footer. */
static bool is_footer(uint64_t bytes)
{
    return ((bytes >> 32) & 0xff) == QEMU_VM_SECTION_FOOTER &&
           (uint32_t)bytes <= SECTION_ID_MAX;
}

uint32_t snap_device_end_description(const SnapDeviceEnd *end)
{
    uint32_t length = end->low >> 16;

    if ((end->low >> 48) != ((QEMU_VM_EOF << 8) | QEMU_VM_VMDESCRIPTION) ||
        (end->low & 0xffff) != (('{' << 8) | '"') ||
        length <= 2 || length > SNAP_MAX_VMDESC ||
        (end->footers && !is_footer(end->high))) {
        return 0;
    }
    return length;
}

bool snap_device_end_is_eof(const SnapDeviceEnd *end)
{
    uint64_t before = (end->high << 56) | (end->low >> 8);

    return (end->low & 0xff) == QEMU_VM_EOF &&
           (!end->footers || is_footer(before));
}

bool snap_description_valid(const uint8_t *data, size_t length)
{
    unsigned depth = 0;
    bool in_string = false;

    for (size_t i = 0; i < length; i++) {
        if (in_string) {
            if (data[i] == '\\') {
                i++;
            } else if (data[i] == '"') {
                in_string = false;
            }
        } else if (data[i] == '"') {
            in_string = true;
        } else if (data[i] == '{' || data[i] == '[') {
            depth++;
        } else if (data[i] == '}' || data[i] == ']') {
            if (depth == 0 || --depth == 0) {
                return i == length - 1;
            }
        }
    }
    return false;
}
