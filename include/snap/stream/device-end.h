/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Where the device state ends
 *
 * Nothing announces the end: after the last section's footer comes the EOF
 * byte, and with it, as a rule, a description of the sections in JSON with its
 * length ahead (migration/savevm.c:
 * qemu_savevm_state_complete_precopy_non_iterable).  The bytes of a device can
 * look the same, so a match must be confirmed by what follows.
 * Pure functions.
 */

#ifndef SNAP_STREAM_DEVICE_END_H
#define SNAP_STREAM_DEVICE_END_H

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

#endif /* SNAP_STREAM_DEVICE_END_H */
