/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Identity of the RAM section, and bounds of what is kept of a stream
 */

#ifndef SNAP_RAM_SECTION_H
#define SNAP_RAM_SECTION_H

#include "qemu/units.h"

/* Bounds in bytes: each of these is held in memory as a whole. */
#define SNAP_MAX_CONFIGURATION    (64 * KiB)
#define SNAP_MAX_SETUP            (16 * MiB)
#define SNAP_MAX_VMDESC           (16 * MiB)

/**
 * SnapRAMSection: identity of the RAM section within a stream
 * @id: section id, which must be the same in START, PART and END
 * @instance: instance id
 * @footers: whether sections end with a footer (machine types since 2.4,
 *           migration property send-section-footer)
 */
typedef struct SnapRAMSection {
    uint32_t id;
    uint32_t instance;
    bool footers;
} SnapRAMSection;

#endif /* SNAP_RAM_SECTION_H */
