/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Counts of durations, fine enough for percentiles
 */

#ifndef SNAP_UTIL_HISTOGRAM_H
#define SNAP_UTIL_HISTOGRAM_H

/* Eight buckets for each power of two: exact to an eighth. */
#define SNAP_HISTOGRAM_SUB_BITS 3
#define SNAP_HISTOGRAM_BUCKETS  (64 << SNAP_HISTOGRAM_SUB_BITS)

/**
 * SnapHistogram: zero at first
 * @count: values that were added
 * @max: the largest one
 */
typedef struct SnapHistogram {
    uint64_t count;
    uint64_t max;

    /*< private >*/
    uint64_t buckets[SNAP_HISTOGRAM_BUCKETS];
} SnapHistogram;

void snap_histogram_add(SnapHistogram *histogram, uint64_t value);

/**
 * snap_histogram_percentile: the value that a percentage do not exceed
 * @percent: 1 to 100
 *
 * Returns: an upper bound, not above @max; 0 if there are no values
 */
uint64_t snap_histogram_percentile(const SnapHistogram *histogram,
                                   unsigned percent);

/* How many values are below 2^@bits (0 to 64), and not below half of that. */
uint64_t snap_histogram_octave(const SnapHistogram *histogram, unsigned bits);

#endif /* SNAP_UTIL_HISTOGRAM_H */
