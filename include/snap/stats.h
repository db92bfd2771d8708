/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a save or load did
 */

#ifndef SNAP_STATS_H
#define SNAP_STATS_H

/**
 * SnapStats: numbers for reports
 * @ram_bytes: RAM of the guest, in bytes
 * @stored_pages: pages with data
 * @zero_pages: pages that are zero
 * @device_bytes: device state, in bytes
 */
typedef struct SnapStats {
    uint64_t ram_bytes;
    uint64_t stored_pages;
    uint64_t zero_pages;
    uint64_t device_bytes;
} SnapStats;

#endif /* SNAP_STATS_H */
