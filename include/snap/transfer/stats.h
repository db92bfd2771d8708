/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a save or load did
 */

#ifndef SNAP_TRANSFER_STATS_H
#define SNAP_TRANSFER_STATS_H

#include "qemu/uuid.h"
#include "snap/util/histogram.h"

/* Why a page was sent in a load by postcopy. */
typedef enum SnapPushReason {
    SNAP_PUSH_PRECOPY,      /* ahead of the switch */
    SNAP_PUSH_REQUESTED,    /* the destination waits for it */
    SNAP_PUSH_WORKING_SET,  /* a recorded working set has it */
    SNAP_PUSH_ARRIVALS,     /* it came out of order in the save */
    SNAP_PUSH_FAULT_AROUND, /* after a requested one */
    SNAP_PUSH_LINEAR,       /* the rest */
    SNAP_PUSH__MAX,
} SnapPushReason;

/**
 * SnapPostcopyStats: numbers of a load by postcopy
 * @active: it was one
 * @run_ns, @complete_ns: QEMU_CLOCK_REALTIME when the destination had loaded
 *                        the devices, and all; 0 if it did not get there
 * @sent: pages that were sent, for each reason
 * @zero_requested: zero pages among the requested ones
 * @requests: pages in all requests
 * @already_sent: of these, pages that had been sent before
 * @duplicate: of these, pages that were requested again while they were queued
 * @latency: microseconds from when a request was read to when the page was
 *           handed to the channel
 */
typedef struct SnapPostcopyStats {
    bool active;
    int64_t run_ns;
    int64_t complete_ns;
    uint64_t sent[SNAP_PUSH__MAX];
    uint64_t zero_requested;
    uint64_t requests;
    uint64_t already_sent;
    uint64_t duplicate;
    SnapHistogram latency;
} SnapPostcopyStats;

/**
 * SnapStats: numbers for reports
 * @uuid: of the snapshot; null if it is not known
 * @ram_bytes: RAM of the guest, in bytes
 * @stored_pages: pages with data; of a load, those that were sent
 * @zero_pages: pages that are zero; likewise
 * @device_bytes: device state, in bytes
 * @postcopy: of a load by postcopy
 */
typedef struct SnapStats {
    QemuUUID uuid;
    uint64_t ram_bytes;
    uint64_t stored_pages;
    uint64_t zero_pages;
    uint64_t device_bytes;
    SnapPostcopyStats postcopy;
} SnapStats;

#endif /* SNAP_TRANSFER_STATS_H */
