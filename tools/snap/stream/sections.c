/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sections of device state
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qapi/qapi-builtin-types.h"
#include "migration/savevm.h"
#include "snap/stream/sections.h"
#include "snap/ram/blocks.h"

/* u8 type, be32 id */
#define SHORT_HEAD_SIZE     5
/* u8 type, be32 id, u8 length of the name */
#define NAME_OFFSET         6
/* be32 instance, be32 version after the name */
#define IDENTITY_SIZE       8
/* u8 type, be16 command, be16 length of its data */
#define COMMAND_HEAD_SIZE   5
/* u8 mark, be32 id */
#define FOOTER_SIZE         5

/* Highest command (migration/savevm.c:qemu_vm_cmd, MIG_CMD_SWITCHOVER_START) */
#define COMMAND_MAX         11

/* migration/global_state.c:vmstate_globalstate: be32 size, char runstate[32] */
#define GLOBALSTATE_NAME    "globalstate"
#define RUNSTATE_OFFSET     4
#define RUNSTATE_SIZE       32

static int name_plausible(const uint8_t *data, size_t size)
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

static int command_plausible(const uint8_t *data, size_t size)
{
    uint16_t command;

    if (size < COMMAND_HEAD_SIZE) {
        return -1;
    }
    command = lduw_be_p(data + 1);
    return command >= 1 && command <= COMMAND_MAX;
}

int snap_device_section_head_plausible(const uint8_t *data, size_t size)
{
    if (!size) {
        return -1;
    }

    switch (data[0]) {
    case QEMU_VM_SECTION_START:
    case QEMU_VM_SECTION_FULL:
        return name_plausible(data, size);
    case QEMU_VM_SECTION_PART:
    case QEMU_VM_SECTION_END:
        return size < SHORT_HEAD_SIZE ? -1 : 1;
    case QEMU_VM_COMMAND:
        return command_plausible(data, size);
    case QEMU_VM_EOF:
        /* Only the description can follow the end. */
        return size == 1 ? -1 : data[1] == QEMU_VM_VMDESCRIPTION;
    default:
        return 0;
    }
}

/* Returns: bytes of the head, 0 if @data does not hold a whole one */
static size_t parse_head(const uint8_t *data, size_t size,
                         SnapDeviceSection *section)
{
    const uint8_t *identity;
    size_t length;

    if (snap_device_section_head_plausible(data, size) != 1 ||
        data[0] == QEMU_VM_COMMAND || data[0] == QEMU_VM_EOF) {
        return 0;
    }

    *section = (SnapDeviceSection) {
        .type = data[0],
        .id = ldl_be_p(data + 1),
    };
    if (data[0] == QEMU_VM_SECTION_PART || data[0] == QEMU_VM_SECTION_END) {
        return SHORT_HEAD_SIZE;
    }

    length = data[NAME_OFFSET - 1];
    identity = data + NAME_OFFSET + length;
    memcpy(section->name, data + NAME_OFFSET, length);
    section->instance = ldl_be_p(identity);
    section->version = ldl_be_p(identity + 4);
    return NAME_OFFSET + length + IDENTITY_SIZE;
}

/* Whether a section of device state that goes on for @size can end at @data */
static bool footer_at(const uint8_t *data, size_t size, uint32_t id)
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
    size_t head;

    head = parse_head(data, size, section);
    if (!head) {
        return 0;
    }
    section->payload = data + head;

    footer = section->payload;
    while ((footer = memchr(footer, QEMU_VM_SECTION_FOOTER, end - footer))) {
        if (footer_at(footer, end - footer, section->id)) {
            section->length = footer - section->payload;
            return footer + FOOTER_SIZE - data;
        }
        footer++;
    }
    return 0;
}

/* Returns: bytes of the command at @data, 0 if there is none */
static size_t command_size(const uint8_t *data, size_t size)
{
    size_t length;

    if (!size || data[0] != QEMU_VM_COMMAND ||
        command_plausible(data, size) != 1) {
        return 0;
    }
    length = COMMAND_HEAD_SIZE + lduw_be_p(data + 3);
    return length <= size ? length : 0;
}

static char *parse_run_state(const SnapDeviceSection *section)
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
        length = command_size(data, size);
        if (length) {
            continue;
        }
        length = snap_device_section_parse(data, size, &section);
        if (!length) {
            break;
        }
        if (section.type == QEMU_VM_SECTION_FULL &&
            !strcmp(section.name, GLOBALSTATE_NAME)) {
            return parse_run_state(&section);
        }
    }
    return NULL;
}
