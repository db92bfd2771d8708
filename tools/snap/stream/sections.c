/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sections of a migration stream: heads, footers, and where device state ends
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qapi/qapi-builtin-types.h"
#include "migration/savevm.h"
#include "snap/stream/sections.h"

/* u8 type, be32 id */
#define SHORT_HEAD_SIZE     5
/* u8 type, be32 id, u8 length of the name */
#define NAME_OFFSET         6
/* be32 instance, be32 version after the name */
#define IDENTITY_SIZE       8
/* u8 mark, be32 id */
#define FOOTER_SIZE         5

/* migration/global_state.c:vmstate_globalstate: be32 size, char runstate[32] */
#define GLOBALSTATE_NAME    "globalstate"
#define RUNSTATE_OFFSET     4
#define RUNSTATE_SIZE       32

static int section_name_plausible(const uint8_t *data, size_t size)
{
    size_t length;

    if (size < NAME_OFFSET) {
        return -1;
    }
    length = data[NAME_OFFSET - 1];
    if (!length) {
        return 0;
    }
    if (!snap_name_is_printable((const char *)data + NAME_OFFSET,
                                MIN(length, size - NAME_OFFSET))) {
        return 0;
    }
    return size < NAME_OFFSET + length + IDENTITY_SIZE ? -1 : 1;
}

static int section_command_plausible(const uint8_t *data, size_t size)
{
    uint16_t command;

    if (size < SNAP_COMMAND_SIZE) {
        return -1;
    }
    command = lduw_be_p(data + 1);
    return command >= 1 && command <= SNAP_CMD_MAX;
}

int snap_device_section_head_plausible(const uint8_t *data, size_t size)
{
    if (!size) {
        return -1;
    }

    switch (data[0]) {
    case QEMU_VM_SECTION_START:
    case QEMU_VM_SECTION_FULL:
        return section_name_plausible(data, size);
    case QEMU_VM_SECTION_PART:
    case QEMU_VM_SECTION_END:
        return size < SHORT_HEAD_SIZE ? -1 : 1;
    case QEMU_VM_COMMAND:
        return section_command_plausible(data, size);
    case QEMU_VM_EOF:
        /* Only the description can follow the end. */
        return size == 1 ? -1 : data[1] == QEMU_VM_VMDESCRIPTION;
    default:
        return 0;
    }
}

static bool section_has_name(uint8_t type)
{
    return type == QEMU_VM_SECTION_START || type == QEMU_VM_SECTION_FULL;
}

size_t snap_section_head_encode(const SnapSectionHead *head, uint8_t *buf)
{
    size_t length = strlen(head->name);
    uint8_t *identity = buf + NAME_OFFSET + length;

    buf[0] = head->type;
    stl_be_p(buf + 1, head->id);
    if (!section_has_name(head->type)) {
        return SHORT_HEAD_SIZE;
    }
    buf[NAME_OFFSET - 1] = length;
    memcpy(buf + NAME_OFFSET, head->name, length);
    stl_be_p(identity, head->instance);
    stl_be_p(identity + 4, head->version);
    return NAME_OFFSET + length + IDENTITY_SIZE;
}

size_t snap_section_head_decode(SnapSectionHead *head, const uint8_t *data,
                                size_t size)
{
    const uint8_t *identity;
    size_t length;

    if (snap_device_section_head_plausible(data, size) != 1 ||
        data[0] == QEMU_VM_COMMAND || data[0] == QEMU_VM_EOF) {
        return 0;
    }

    *head = (SnapSectionHead) { .type = data[0], .id = ldl_be_p(data + 1) };
    if (!section_has_name(head->type)) {
        return SHORT_HEAD_SIZE;
    }
    length = data[NAME_OFFSET - 1];
    identity = data + NAME_OFFSET + length;
    memcpy(head->name, data + NAME_OFFSET, length);
    head->instance = ldl_be_p(identity);
    head->version = ldl_be_p(identity + 4);
    return NAME_OFFSET + length + IDENTITY_SIZE;
}

/* Whether a section of device state that goes on for @size can end at @data */
static bool section_footer_at(const uint8_t *data, size_t size, uint32_t id)
{
    if (size < FOOTER_SIZE || data[0] != QEMU_VM_SECTION_FOOTER ||
        ldl_be_p(data + 1) != id) {
        return false;
    }
    if (size == FOOTER_SIZE) {
        return true;
    }
    /* The end of the stream is not within the device state. */
    return data[FOOTER_SIZE] != QEMU_VM_EOF &&
           snap_device_section_head_plausible(data + FOOTER_SIZE,
                                              size - FOOTER_SIZE) == 1;
}

size_t snap_device_section_parse(const uint8_t *data, size_t size,
                                 SnapDeviceSection *section)
{
    const uint8_t *end = data + size;
    const uint8_t *footer;
    size_t head_size = snap_section_head_decode(&section->head, data, size);

    if (!head_size) {
        return 0;
    }
    section->payload = data + head_size;
    section->length = 0;

    footer = section->payload;
    while ((footer = memchr(footer, QEMU_VM_SECTION_FOOTER, end - footer))) {
        if (section_footer_at(footer, end - footer, section->head.id)) {
            section->length = footer - section->payload;
            return footer + FOOTER_SIZE - data;
        }
        footer++;
    }
    return 0;
}

/* Returns: bytes of the command at @data, 0 if there is none */
static size_t section_command_size(const uint8_t *data, size_t size)
{
    size_t length;

    if (!size || data[0] != QEMU_VM_COMMAND ||
        section_command_plausible(data, size) != 1) {
        return 0;
    }
    length = SNAP_COMMAND_SIZE + lduw_be_p(data + 3);
    return length <= size ? length : 0;
}

static char *section_parse_run_state(const SnapDeviceSection *section)
{
    const char *state = (const char *)section->payload + RUNSTATE_OFFSET;
    size_t length;

    if (section->length < RUNSTATE_OFFSET + RUNSTATE_SIZE) {
        return NULL;
    }
    length = strnlen(state, RUNSTATE_SIZE);
    if (!length || length == RUNSTATE_SIZE ||
        !snap_name_is_printable(state, length)) {
        return NULL;
    }
    return g_strndup(state, length);
}

char *snap_device_run_state(const uint8_t *data, size_t size)
{
    SnapDeviceSection section;
    size_t length;

    for (; size; data += length, size -= length) {
        length = section_command_size(data, size);
        if (length) {
            continue;
        }
        length = snap_device_section_parse(data, size, &section);
        if (!length) {
            break;
        }
        if (section.head.type == QEMU_VM_SECTION_FULL &&
            !strcmp(section.head.name, GLOBALSTATE_NAME)) {
            return section_parse_run_state(&section);
        }
    }
    return NULL;
}

/* --- where the device state ends --- */

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
static bool device_end_is_footer(uint64_t bytes)
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
        (end->footers && !device_end_is_footer(end->high))) {
        return 0;
    }
    return length;
}

bool snap_device_end_is_eof(const SnapDeviceEnd *end)
{
    uint64_t before = (end->high << 56) | (end->low >> 8);

    return (end->low & 0xff) == QEMU_VM_EOF &&
           (!end->footers || device_end_is_footer(before));
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
