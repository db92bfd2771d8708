/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Parts of a migration stream, put together by hand for the unit tests
 */

#ifndef SNAP_TESTS_STREAM_BYTES_H
#define SNAP_TESTS_STREAM_BYTES_H

#include "qemu/bswap.h"
#include "migration/savevm.h"

static inline void put_bytes(GByteArray *b, const void *data, size_t length)
{
    g_byte_array_append(b, data, length);
}

static inline void put_zeroes(GByteArray *b, size_t length)
{
    g_autofree uint8_t *zeroes = g_malloc0(length);

    put_bytes(b, zeroes, length);
}

static inline void put_u8(GByteArray *b, uint8_t value)
{
    put_bytes(b, &value, 1);
}

static inline void put_be16(GByteArray *b, uint16_t value)
{
    value = cpu_to_be16(value);
    put_bytes(b, &value, sizeof(value));
}

static inline void put_be32(GByteArray *b, uint32_t value)
{
    value = cpu_to_be32(value);
    put_bytes(b, &value, sizeof(value));
}

static inline void put_be64(GByteArray *b, uint64_t value)
{
    value = cpu_to_be64(value);
    put_bytes(b, &value, sizeof(value));
}

/* u8 length, name */
static inline void put_name(GByteArray *b, const char *name)
{
    put_u8(b, strlen(name));
    put_bytes(b, name, strlen(name));
}

/* Head of a PART or END section */
static inline void put_short_head(GByteArray *b, uint8_t type, uint32_t id)
{
    put_u8(b, type);
    put_be32(b, id);
}

/* Head of a START or FULL section, instance 0 */
static inline void put_head(GByteArray *b, uint8_t type, uint32_t id,
                            const char *name, uint32_t version)
{
    put_short_head(b, type, id);
    put_name(b, name);
    put_be32(b, 0);
    put_be32(b, version);
}

static inline void put_footer(GByteArray *b, uint32_t id)
{
    put_short_head(b, QEMU_VM_SECTION_FOOTER, id);
}

/* A whole FULL section */
static inline void put_full(GByteArray *b, uint32_t id, const char *name,
                            const void *payload, size_t length)
{
    put_head(b, QEMU_VM_SECTION_FULL, id, name, 1);
    put_bytes(b, payload, length);
    put_footer(b, id);
}

static inline void put_command(GByteArray *b, uint16_t command,
                               const void *data, uint16_t length)
{
    put_u8(b, QEMU_VM_COMMAND);
    put_be16(b, command);
    put_be16(b, length);
    put_bytes(b, data, length);
}

#endif /* SNAP_TESTS_STREAM_BYTES_H */
