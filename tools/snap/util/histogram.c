/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Counts of durations, fine enough for percentiles
 */

#include "qemu/osdep.h"
#include "qemu/host-utils.h"
#include "snap/util/histogram.h"

#define SUBS (1u << SNAP_HISTOGRAM_SUB_BITS)

/*
 * Values below SUBS have a bucket each.  Above, the bits after the highest one
 * choose the bucket within a power of two.
 */
static unsigned bucket_of(uint64_t value)
{
    unsigned shift;

    if (value < SUBS) {
        return value;
    }
    shift = 63 - clz64(value) - SNAP_HISTOGRAM_SUB_BITS;
    return (shift << SNAP_HISTOGRAM_SUB_BITS) + (value >> shift);
}

/* The largest value that belongs into a bucket. */
static uint64_t bucket_top(unsigned bucket)
{
    unsigned shift;

    if (bucket < SUBS) {
        return bucket;
    }
    shift = (bucket >> SNAP_HISTOGRAM_SUB_BITS) - 1;
    return ((uint64_t)(bucket % SUBS + SUBS) << shift) +
           ((UINT64_C(1) << shift) - 1);
}

void snap_histogram_add(SnapHistogram *h, uint64_t value)
{
    h->count++;
    h->max = MAX(h->max, value);
    h->buckets[bucket_of(value)]++;
}

uint64_t snap_histogram_percentile(const SnapHistogram *h, unsigned percent)
{
    uint64_t wanted = DIV_ROUND_UP(h->count * percent, 100);
    uint64_t seen = 0;

    for (unsigned i = 0; i < SNAP_HISTOGRAM_BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen && seen >= wanted) {
            return MIN(bucket_top(i), h->max);
        }
    }
    return 0;
}

uint64_t snap_histogram_octave(const SnapHistogram *h, unsigned bits)
{
    uint64_t bottom = bits ? UINT64_C(1) << (bits - 1) : 0;
    uint64_t top = bits < 64 ? (UINT64_C(1) << bits) - 1 : UINT64_MAX;
    uint64_t sum = 0;

    for (unsigned i = bucket_of(bottom); i <= bucket_of(top); i++) {
        sum += h->buckets[i];
    }
    return sum;
}
