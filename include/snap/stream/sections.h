/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sections of a migration stream: heads, footers, and where device state ends
 *
 * Device sections carry no length.  They are told apart by their footers: a
 * section ends at a footer with its own id that is followed by a possible head
 * of another section, or by the end.  Pure functions.
 */

#ifndef SNAP_STREAM_SECTIONS_H
#define SNAP_STREAM_SECTIONS_H

#include "snap/stream/stream.h"

/**
 * SnapSectionHead: what a section begins with
 * @type: QEMU_VM_SECTION_START, PART, END or FULL
 * @id: section id
 * @name: idstr; "" for PART and END, which do not repeat it
 * @instance: instance id (START, FULL)
 * @version: version id (START, FULL)
 */
typedef struct SnapSectionHead {
    uint8_t type;
    uint32_t id;
    char name[SNAP_BLOCK_NAME_MAX + 1];
    uint32_t instance;
    uint32_t version;
} SnapSectionHead;

/* Bytes of the longest head. */
#define SNAP_SECTION_HEAD_MAX (1 + 4 + 1 + SNAP_BLOCK_NAME_MAX + 4 + 4)

/**
 * snap_section_head_encode: make the bytes of a head
 * @buf: room for SNAP_SECTION_HEAD_MAX bytes
 *
 * Returns: how many they are
 */
size_t snap_section_head_encode(const SnapSectionHead *head, uint8_t *buf);

/**
 * snap_section_head_decode: read a head
 * @head: filled in on success
 *
 * Returns: bytes of the head; 0 if @data does not hold a whole one that is
 * plausible: see snap_device_section_head_plausible()
 */
size_t snap_section_head_decode(SnapSectionHead *head, const uint8_t *data,
                                size_t size);

/**
 * SnapDeviceSection: one section of device state
 * @head: what it begins with
 * @payload: first byte of the payload, within the caller's buffer
 * @length: bytes of payload
 */
typedef struct SnapDeviceSection {
    SnapSectionHead head;
    const uint8_t *payload;
    size_t length;
} SnapDeviceSection;

/**
 * snap_device_section_parse: parse the section that starts at @data
 * @data: first byte of the section
 * @size: bytes up to the end of the device state (without the EOF byte)
 * @section: filled in on success
 *
 * Only works for streams with section footers.  Commands are not sections.
 *
 * Returns: bytes of the whole section with header and footer; 0 if @data
 * does not hold a complete section
 */
size_t snap_device_section_parse(const uint8_t *data, size_t size,
                                 SnapDeviceSection *section);

/**
 * snap_device_section_head_plausible: whether a section can start at @data
 *
 * For readers that look for the end of the section before: the types that
 * can follow a footer are known (START, PART, END, FULL, COMMAND, EOF), START
 * and FULL have a printable name, a command has a known number, and a
 * description follows EOF.
 *
 * Returns: 1 plausible, 0 not plausible, -1 @size is too short for the whole
 * head.  A lone EOF byte is too short as well: only the caller knows whether
 * the file ends there
 */
int snap_device_section_head_plausible(const uint8_t *data, size_t size);

/**
 * snap_device_run_state: run state that the "globalstate" section holds
 * (migration/global_state.c)
 * @data, @size: the whole device state
 *
 * Returns: newly allocated string such as "running" or "paused", NULL if
 * there is none
 */
char *snap_device_run_state(const uint8_t *data, size_t size);

/*
 * Where the device state ends
 *
 * Nothing announces the end: after the last section's footer comes the EOF
 * byte, and with it, as a rule, a description of the sections in JSON with its
 * length ahead (migration/savevm.c:
 * qemu_savevm_state_complete_precopy_non_iterable).  The bytes of a device can
 * look the same, so a match must be confirmed by what follows.
 */

/*
 * EOF, VMDESCRIPTION, be32 length, and the two bytes that every description
 * begins with: this many bytes were taken when one is found.
 */
#define SNAP_DESCRIPTION_HEAD 8

/**
 * SnapDeviceEnd: the last bytes of device state
 * @footers: whether sections end with a footer
 * @high, @low: the last 16 bytes
 */
typedef struct SnapDeviceEnd {
    bool footers;
    uint64_t high;
    uint64_t low;
} SnapDeviceEnd;

void snap_device_end_init(SnapDeviceEnd *end, bool footers);

/* Take the next byte. */
static inline void snap_device_end_feed(SnapDeviceEnd *end, uint8_t byte)
{
    end->high = (end->high << 8) | (end->low >> 56);
    end->low = (end->low << 8) | byte;
}

/**
 * snap_device_end_description: whether a description seems to begin
 *
 * Returns: its length in bytes, 0 if the last bytes do not look like that
 */
uint32_t snap_device_end_description(const SnapDeviceEnd *end);

/* Whether the last byte can be the EOF byte of a stream that ends here. */
bool snap_device_end_is_eof(const SnapDeviceEnd *end);

/* Whether @data is one JSON object from the first byte to the last. */
bool snap_description_valid(const uint8_t *data, size_t length);

#endif /* SNAP_STREAM_SECTIONS_H */
