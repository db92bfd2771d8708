/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the fuzzers have in common
 *
 * Each has an LLVMFuzzerTestOneInput(), which leaves nothing behind.  The first
 * bytes of an input choose how it is used; see FuzzBytes.
 */

#ifndef SNAP_TESTS_FUZZ_H
#define SNAP_TESTS_FUZZ_H

#include "io/channel.h"
#include "qemu/coroutine.h"
#include "qemu/units.h"
#include "system/block-backend.h"
#include "snap/channel/transport.h"

/* What libFuzzer and the sanitizers call */
const char *__asan_default_options(void);
const char *__ubsan_default_options(void);
const char *__lsan_default_suppressions(void);
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* That something is true which no input may change. */
#define fuzz_check(condition, ...) do {                                 \
        if (!(condition)) {                                             \
            fuzz_fail(#condition, __FILE__, __LINE__, "" __VA_ARGS__);  \
        }                                                               \
    } while (0)

/* The same for what takes an Error. */
#define fuzz_check_ok(condition, err) \
    fuzz_check(condition, "%s", (err) ? error_get_pretty(err) : "no error")

G_NORETURN void G_GNUC_PRINTF(4, 5) fuzz_fail(const char *condition,
                                              const char *file, int line,
                                              const char *format, ...);

/* The rest of an input.  Behind its end there are zeroes. */
typedef struct FuzzBytes {
    const uint8_t *data;
    size_t size;
} FuzzBytes;

/* Take @size bytes, or as many as there are. */
FuzzBytes fuzz_take(FuzzBytes *bytes, size_t size);
uint8_t fuzz_u8(FuzzBytes *bytes);
uint16_t fuzz_be16(FuzzBytes *bytes);
uint32_t fuzz_be32(FuzzBytes *bytes);

/* Let others have their turn, as often as @seed says; it is changed. */
void coroutine_fn fuzz_pause(uint32_t *seed);

/**
 * FuzzDisk: a disk in memory, which is sparse
 * @bytes: what it holds
 * @size: in bytes
 * @cluster_size: what it says that it allocates, 0 for nothing
 * @seed: for requests that overtake each other, 0 for none
 * @fail_at: this request fails, counted from 1 on; 0 for none
 * @nb_requests: so many reads, writes and flushes so far
 * @failed: one has failed
 */
typedef struct FuzzDisk {
    uint8_t *bytes;
    uint64_t size;
    uint32_t cluster_size;
    uint32_t seed;
    unsigned fail_at;
    unsigned nb_requests;
    bool failed;
} FuzzDisk;

void fuzz_disk_init(FuzzDisk *disk, uint64_t size);
void fuzz_disk_destroy(FuzzDisk *disk);
BlockBackend *fuzz_disk_open(FuzzDisk *disk);

/*
 * Options of the block layer that open @disk, which must stay the only one
 * that was asked for.
 */
const char *fuzz_disk_options(FuzzDisk *disk);

/**
 * fuzz_channel_new: a channel that gives bytes from memory
 * @bytes: these, not owned
 * @chunk: at most so many a call
 * @seed: for a channel that makes its reader wait, 0 for one that does not
 */
QIOChannel *fuzz_channel_new(FuzzBytes bytes, size_t chunk, uint32_t seed);

/**
 * fuzz_transport_open: what the tool has as stdin and stdout
 * @in: what is to be read, as @is_pipe says from a pipe or a file; a descriptor
 *      that is taken over, -1 for nothing to be read
 * @out: a descriptor that is written to, not owned; -1 for /dev/null
 */
SnapTransport *fuzz_transport_open(int in, int out);

/* A pipe, or a file, with these bytes in it, as far as they fit; and no more */
int fuzz_pipe_with(FuzzBytes bytes);
int fuzz_file_with(FuzzBytes bytes);

#endif /* SNAP_TESTS_FUZZ_H */
