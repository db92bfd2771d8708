/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sections of device state
 *
 * Device sections carry no length.  They are told apart by their footers: a
 * section ends at a footer with its own id that is followed by a possible head
 * of another section, or by the end.  Pure functions.
 */

#ifndef SNAP_STREAM_SECTIONS_H
#define SNAP_STREAM_SECTIONS_H

/**
 * SnapDeviceSection: one section
 * @type: QEMU_VM_SECTION_START, PART, END or FULL
 * @id: section id
 * @name: idstr; "" for PART and END, which do not repeat it
 * @instance: instance id (START, FULL)
 * @version: version id (START, FULL)
 * @payload: first byte of the payload, within the caller's buffer
 * @length: bytes of payload
 */
typedef struct SnapDeviceSection {
    uint8_t type;
    uint32_t id;
    char name[256];
    uint32_t instance;
    uint32_t version;
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

#endif /* SNAP_STREAM_SECTIONS_H */
