/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of tables in chunks that check themselves
 */

#include "qemu/osdep.h"
#include "qemu/main-loop.h"
#include "snap/image/table.h"
#include "snap-coroutine.h"
#include "test-table.h"

#define BASE        UINT64_C(0x10000)
#define SEED        UINT64_C(0x0123456789abcdef)
#define NB_CHUNKS   5
#define NB_ENTRIES  ((NB_CHUNKS - 1) * SNAP_CHUNK_ENTRIES + 100)
#define ALIGNMENT   4096

/* Storage in memory that counts, and waits and fails when told to. */
typedef struct Storage {
    uint8_t *bytes;
    unsigned reads;
    unsigned writes;
    bool yields;
    int read_ret;
    int write_ret;
} Storage;

static uint8_t *chunk_bytes(Storage *s, unsigned chunk)
{
    return s->bytes + chunk * SNAP_CHUNK_SIZE;
}

static void check_request(uint64_t offset, const void *buf)
{
    g_assert_cmpuint(offset, >=, BASE);
    g_assert_cmpuint(offset, <, BASE + NB_CHUNKS * SNAP_CHUNK_SIZE);
    g_assert_cmpuint((offset - BASE) % SNAP_CHUNK_SIZE, ==, 0);
    g_assert_true(QEMU_PTR_IS_ALIGNED(buf, ALIGNMENT));
}

static int coroutine_fn storage_read(void *opaque, uint64_t offset, void *buf)
{
    Storage *s = opaque;

    check_request(offset, buf);
    s->reads++;
    if (s->yields) {
        /* Who uses the buffer meanwhile sees nonsense. */
        memset(buf, 0xa5, SNAP_CHUNK_SIZE);
        snap_co_pause();
    }
    if (s->read_ret < 0) {
        /* Let nobody take it for the chunk that was there before. */
        memset(buf, 0x5a, SNAP_CHUNK_SIZE);
        return s->read_ret;
    }
    memcpy(buf, s->bytes + offset - BASE, SNAP_CHUNK_SIZE);
    return 0;
}

static int coroutine_fn storage_write(void *opaque, uint64_t offset,
                                      const void *buf)
{
    Storage *s = opaque;

    check_request(offset, buf);
    s->writes++;
    if (s->yields) {
        snap_co_pause();
    }
    if (s->write_ret < 0) {
        return s->write_ret;
    }
    memcpy(s->bytes + offset - BASE, buf, SNAP_CHUNK_SIZE);
    return 0;
}

static SnapTable *table_seeded(Storage *s, bool fresh, unsigned cached_chunks,
                               uint64_t seed)
{
    const SnapTableIO io = {
        .read = storage_read,
        .write = storage_write,
        .opaque = s,
        .base = BASE,
        .alignment = ALIGNMENT,
    };

    return snap_table_new("test table", NB_ENTRIES, seed, fresh, cached_chunks,
                          &io);
}

static SnapTable *table_new(Storage *s, bool fresh, unsigned cached_chunks)
{
    return table_seeded(s, fresh, cached_chunks, SEED);
}

static uint64_t coroutine_fn get(SnapTable *table, uint64_t index)
{
    uint64_t entry = 0;

    snap_table_get(table, index, &entry, &error_abort);
    return entry;
}

static void coroutine_fn set(SnapTable *table, uint64_t index, uint64_t entry)
{
    snap_table_set(table, index, entry, &error_abort);
}

/* First entry of a chunk. */
static uint64_t first_of(unsigned chunk)
{
    return (uint64_t)chunk * SNAP_CHUNK_ENTRIES;
}

/* Store a table in which entry i is i + 10. */
static void coroutine_fn store(Storage *s)
{
    g_autoptr(SnapTable) table = table_new(s, true, NB_CHUNKS);

    for (uint64_t i = 0; i < NB_ENTRIES; i++) {
        set(table, i, i + 10);
    }
    snap_table_flush(table, NB_ENTRIES, &error_abort);
    s->reads = s->writes = 0;
}

static void assert_corrupt(SnapTable *table, uint64_t index)
{
    Error *err = NULL;
    uint64_t entry;
    int ret = snap_table_get(table, index, &entry, &err);

    assert_failed(ret, -EBADMSG, &err);
}

static void coroutine_fn test_sizes(Storage *s)
{
    g_assert_cmpuint(snap_table_bytes(0), ==, 0);
    g_assert_cmpuint(snap_table_bytes(1), ==, SNAP_CHUNK_SIZE);
    g_assert_cmpuint(snap_table_bytes(SNAP_CHUNK_ENTRIES), ==,
                     SNAP_CHUNK_SIZE);
    g_assert_cmpuint(snap_table_chunks(SNAP_CHUNK_ENTRIES + 1), ==, 2);
}

static void coroutine_fn test_fresh_is_zero(Storage *s)
{
    g_autoptr(SnapTable) table = table_new(s, true, 1);

    memset(s->bytes, 0xff, NB_CHUNKS * SNAP_CHUNK_SIZE);
    for (unsigned chunk = 0; chunk < NB_CHUNKS; chunk++) {
        g_assert_cmpuint(get(table, first_of(chunk)), ==, 0);
    }
    g_assert_cmpuint(get(table, NB_ENTRIES - 1), ==, 0);
    g_assert_cmpuint(s->reads, ==, 0);
}

static void coroutine_fn test_set_and_get(Storage *s)
{
    g_autoptr(SnapTable) table = table_new(s, true, NB_CHUNKS);

    set(table, 0, UINT64_MAX);
    set(table, SNAP_CHUNK_ENTRIES - 1, 3);
    set(table, SNAP_CHUNK_ENTRIES, 4);
    set(table, NB_ENTRIES - 1, 5);
    g_assert_cmpuint(get(table, 0), ==, UINT64_MAX);
    g_assert_cmpuint(get(table, 1), ==, 0);
    g_assert_cmpuint(get(table, SNAP_CHUNK_ENTRIES - 1), ==, 3);
    g_assert_cmpuint(get(table, SNAP_CHUNK_ENTRIES), ==, 4);
    g_assert_cmpuint(get(table, NB_ENTRIES - 1), ==, 5);
}

static void coroutine_fn test_entries_are_big_endian(Storage *s)
{
    static const uint8_t expected[] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    g_autoptr(SnapTable) table = table_new(s, true, 1);

    set(table, SNAP_CHUNK_ENTRIES + 1, 0x0102030405060708);
    snap_table_flush(table, NB_ENTRIES, &error_abort);
    g_assert_cmpmem(chunk_bytes(s, 1) + 8, 8, expected, sizeof(expected));
}

static void coroutine_fn test_round_trip(Storage *s)
{
    g_autoptr(SnapTable) table = NULL;

    store(s);
    table = table_new(s, false, 2);
    for (uint64_t i = 0; i < NB_ENTRIES; i++) {
        g_assert_cmpuint(get(table, i), ==, i + 10);
    }
}

static void coroutine_fn test_each_chunk_is_read_once(Storage *s)
{
    g_autoptr(SnapTable) table = NULL;

    store(s);
    table = table_new(s, false, 1);
    g_assert_cmpuint(s->reads, ==, 0);
    for (uint64_t i = 0; i < NB_ENTRIES; i++) {
        get(table, i);
    }
    g_assert_cmpuint(s->reads, ==, NB_CHUNKS);
    g_assert_cmpuint(s->writes, ==, 0);
}

static void coroutine_fn test_cached_chunks_are_not_read_again(Storage *s)
{
    g_autoptr(SnapTable) table = NULL;

    store(s);
    table = table_new(s, false, 3);
    for (unsigned i = 0; i < 30; i++) {
        get(table, first_of(i % 3));
    }
    g_assert_cmpuint(s->reads, ==, 3);
}

static void coroutine_fn test_eviction_keeps_what_was_set(Storage *s)
{
    g_autoptr(SnapTable) table = table_new(s, true, 2);

    for (unsigned chunk = 0; chunk < NB_CHUNKS; chunk++) {
        set(table, first_of(chunk) + 1, chunk + 100);
    }
    for (unsigned chunk = 0; chunk < NB_CHUNKS; chunk++) {
        g_assert_cmpuint(get(table, first_of(chunk) + 1), ==, chunk + 100);
        g_assert_cmpuint(get(table, first_of(chunk)), ==, 0);
    }
}

static void coroutine_fn test_read_only(Storage *s)
{
    g_autoptr(SnapTable) table = NULL;
    const SnapTableIO io = {
        .read = storage_read,
        .opaque = s,
        .base = BASE,
        .alignment = ALIGNMENT,
    };

    store(s);
    table = snap_table_new("test table", NB_ENTRIES, SEED, false, 1, &io);
    for (unsigned chunk = 0; chunk < NB_CHUNKS; chunk++) {
        g_assert_cmpuint(get(table, first_of(chunk)), ==,
                         first_of(chunk) + 10);
    }
}

static void coroutine_fn test_flush_of_untouched(Storage *s)
{
    g_autoptr(SnapTable) table = table_new(s, true, 2);
    g_autoptr(SnapTable) again = NULL;

    snap_table_flush(table, NB_ENTRIES, &error_abort);
    again = table_new(s, false, 1);
    for (uint64_t i = 0; i < NB_ENTRIES; i++) {
        g_assert_cmpuint(get(again, i), ==, 0);
    }
}

static void coroutine_fn test_flush_of_prefix(Storage *s)
{
    g_autoptr(SnapTable) table = table_new(s, true, NB_CHUNKS);
    g_autoptr(SnapTable) again = NULL;

    set(table, 1, 11);
    set(table, first_of(1), 12);
    set(table, first_of(2), 13);
    snap_table_flush(table, first_of(1) + 1, &error_abort);
    g_assert_cmpuint(s->writes, ==, 2);

    again = table_new(s, false, 1);
    g_assert_cmpuint(get(again, 1), ==, 11);
    g_assert_cmpuint(get(again, first_of(1)), ==, 12);
}

static void coroutine_fn test_flush_of_nothing(Storage *s)
{
    g_autoptr(SnapTable) table = table_new(s, true, 1);

    set(table, 0, 1);
    snap_table_flush(table, 0, &error_abort);
    g_assert_cmpuint(s->writes, ==, 0);
}

static void coroutine_fn test_flush_writes_once(Storage *s)
{
    g_autoptr(SnapTable) table = table_new(s, true, 2);

    set(table, 0, 1);
    snap_table_flush(table, NB_ENTRIES, &error_abort);
    s->writes = 0;
    snap_table_flush(table, NB_ENTRIES, &error_abort);
    g_assert_cmpuint(s->writes, ==, 0);

    set(table, 0, 2);
    snap_table_flush(table, NB_ENTRIES, &error_abort);
    g_assert_cmpuint(s->writes, ==, 1);
}

static void coroutine_fn test_change_of_stored(Storage *s)
{
    g_autoptr(SnapTable) table = NULL;
    g_autoptr(SnapTable) again = NULL;

    store(s);
    table = table_new(s, false, 1);
    set(table, 5, 77);
    set(table, first_of(3), 78);
    snap_table_flush(table, NB_ENTRIES, &error_abort);

    again = table_new(s, false, 1);
    g_assert_cmpuint(get(again, 5), ==, 77);
    g_assert_cmpuint(get(again, 6), ==, 16);
    g_assert_cmpuint(get(again, first_of(3)), ==, 78);
}

static void coroutine_fn test_flipped_bits(Storage *s)
{
    static const unsigned where[] = {
        0, 1000, SNAP_CHUNK_SIZE - 9, SNAP_CHUNK_SIZE - 8, SNAP_CHUNK_SIZE - 1,
    };

    store(s);
    for (unsigned i = 0; i < ARRAY_SIZE(where); i++) {
        g_autoptr(SnapTable) table = table_new(s, false, 1);

        chunk_bytes(s, 2)[where[i]] ^= 0x10;
        assert_corrupt(table, first_of(2));
        chunk_bytes(s, 2)[where[i]] ^= 0x10;
    }
}

static void coroutine_fn test_corruption_spares_other_chunks(Storage *s)
{
    g_autoptr(SnapTable) table = NULL;

    store(s);
    chunk_bytes(s, 2)[0] ^= 1;
    table = table_new(s, false, 1);
    g_assert_cmpuint(get(table, first_of(1)), ==, first_of(1) + 10);
    assert_corrupt(table, first_of(2));
    assert_corrupt(table, first_of(2) + 1);
    g_assert_cmpuint(get(table, first_of(1)), ==, first_of(1) + 10);
    g_assert_cmpuint(get(table, first_of(3)), ==, first_of(3) + 10);
}

static void coroutine_fn test_set_in_corrupt_chunk(Storage *s)
{
    g_autoptr(SnapTable) table = NULL;
    Error *err = NULL;

    store(s);
    chunk_bytes(s, 0)[0] ^= 1;
    table = table_new(s, false, 1);
    assert_failed(snap_table_set(table, 3, 3, &err), -EBADMSG, &err);
}

static void coroutine_fn test_swapped_chunks(Storage *s)
{
    g_autofree uint8_t *copy = NULL;
    g_autoptr(SnapTable) table = NULL;

    store(s);
    copy = g_memdup2(chunk_bytes(s, 1), SNAP_CHUNK_SIZE);
    memcpy(chunk_bytes(s, 1), chunk_bytes(s, 2), SNAP_CHUNK_SIZE);
    memcpy(chunk_bytes(s, 2), copy, SNAP_CHUNK_SIZE);
    table = table_new(s, false, 2);
    assert_corrupt(table, first_of(1));
    assert_corrupt(table, first_of(2));
}

static void coroutine_fn test_chunk_of_zeroes(Storage *s)
{
    g_autoptr(SnapTable) table = table_new(s, false, 1);

    assert_corrupt(table, 0);
}

static void coroutine_fn test_other_seed(Storage *s)
{
    g_autoptr(SnapTable) table = NULL;

    store(s);
    table = table_seeded(s, false, 1, SEED ^ (UINT64_C(1) << 40));
    assert_corrupt(table, 0);
}

static void coroutine_fn test_read_error(Storage *s)
{
    g_autoptr(SnapTable) table = NULL;
    Error *err = NULL;
    uint64_t entry;

    store(s);
    table = table_new(s, false, 1);
    g_assert_cmpuint(get(table, 0), ==, 10);
    s->read_ret = -EIO;
    assert_failed(snap_table_get(table, first_of(1), &entry, &err), -EIO,
                  &err);
    assert_failed(snap_table_set(table, first_of(2), 1, &err), -EIO, &err);

    s->read_ret = 0;
    g_assert_cmpuint(get(table, 0), ==, 10);
    g_assert_cmpuint(get(table, first_of(1)), ==, first_of(1) + 10);
    g_assert_cmpuint(get(table, first_of(2)), ==, first_of(2) + 10);
}

static void coroutine_fn test_write_error_at_flush(Storage *s)
{
    g_autoptr(SnapTable) table = table_new(s, true, 1);
    Error *err = NULL;

    set(table, 0, 1);
    s->write_ret = -EIO;
    assert_failed(snap_table_flush(table, 1, &err), -EIO, &err);
}

static void coroutine_fn test_write_error_at_eviction(Storage *s)
{
    g_autoptr(SnapTable) table = table_new(s, true, 1);
    Error *err = NULL;

    set(table, 0, 1);
    s->write_ret = -EIO;
    assert_failed(snap_table_set(table, first_of(1), 2, &err), -EIO, &err);

    /* Nothing is lost: storage may recover. */
    s->write_ret = 0;
    g_assert_cmpuint(get(table, 0), ==, 1);
    g_assert_cmpuint(get(table, first_of(1)), ==, 0);
    g_assert_cmpuint(get(table, 0), ==, 1);
}

static void coroutine_fn test_random(Storage *s)
{
    GRand *rand = g_rand_new_with_seed(20260102);
    g_autofree uint64_t *model = g_new0(uint64_t, NB_ENTRIES);
    SnapTable *table = table_new(s, true, 2);

    for (unsigned round = 0; round < 20000; round++) {
        uint64_t index = g_rand_int_range(rand, 0, NB_ENTRIES);

        if (g_rand_boolean(rand)) {
            model[index] = g_rand_int(rand);
            set(table, index, model[index]);
        } else {
            g_assert_cmpuint(get(table, index), ==, model[index]);
        }
        if (round % 997 == 0) {
            snap_table_flush(table, g_rand_int_range(rand, 0, NB_ENTRIES),
                             &error_abort);
        }
        if (round % 4999 == 0) {
            snap_table_flush(table, NB_ENTRIES, &error_abort);
            snap_table_free(table);
            table = table_new(s, false, g_rand_int_range(rand, 1, 4));
        }
    }
    for (uint64_t i = 0; i < NB_ENTRIES; i++) {
        g_assert_cmpuint(get(table, i), ==, model[i]);
    }
    snap_table_free(table);
    g_rand_free(rand);
}

/* --- several coroutines at once --- */

#define NB_USERS 8

/**
 * User: a coroutine that uses a table
 * @rand: which entries it looks at
 * @first: of the entries that are for this coroutine alone to set
 * @is_set: notes those that were set
 * @nb_left: coroutines that are not done
 */
typedef struct User {
    SnapTable *table;
    GRand *rand;
    uint64_t first;
    bool *is_set;
    unsigned nb_ops;
    unsigned *nb_left;
} User;

/* Start coroutines on @table, and wait for them. */
static void coroutine_fn run_users(SnapTable *table, CoroutineEntry *entry,
                                   unsigned nb_ops, bool *is_set)
{
    User users[NB_USERS];
    unsigned nb_left = NB_USERS;

    for (unsigned i = 0; i < NB_USERS; i++) {
        users[i] = (User) {
            .table = table,
            .rand = g_rand_new_with_seed(20260209 + i),
            .first = i,
            .is_set = is_set,
            .nb_ops = nb_ops,
            .nb_left = &nb_left,
        };
        qemu_coroutine_enter(qemu_coroutine_create(entry, &users[i]));
    }
    while (nb_left) {
        snap_co_pause();
    }
    for (unsigned i = 0; i < NB_USERS; i++) {
        g_rand_free(users[i].rand);
    }
}

static uint64_t random_index(User *user)
{
    return g_rand_int_range(user->rand, 0, NB_ENTRIES);
}

static void coroutine_fn get_entry(void *opaque)
{
    User *user = opaque;

    for (unsigned i = 0; i < user->nb_ops; i++) {
        uint64_t index = random_index(user);

        g_assert_cmpuint(get(user->table, index), ==, index + 10);
    }
    (*user->nb_left)--;
}

/* More coroutines than chunks in memory: each gets what it asked for. */
static void coroutine_fn check_concurrent_gets(Storage *s,
                                               unsigned cached_chunks)
{
    g_autoptr(SnapTable) table = NULL;

    store(s);
    table = table_new(s, false, cached_chunks);
    s->yields = true;
    run_users(table, get_entry, 300, NULL);
}

static void coroutine_fn test_concurrent_gets(Storage *s)
{
    check_concurrent_gets(s, 2);
}

static void coroutine_fn test_concurrent_gets_of_one_chunk(Storage *s)
{
    check_concurrent_gets(s, 1);
}

static void coroutine_fn get_first(void *opaque)
{
    User *user = opaque;

    g_assert_cmpuint(get(user->table, user->first), ==, user->first + 10);
    (*user->nb_left)--;
}

/* Those who want the same chunk wait for one read. */
static void coroutine_fn test_concurrent_gets_of_same_chunk(Storage *s)
{
    g_autoptr(SnapTable) table = NULL;

    store(s);
    table = table_new(s, false, NB_CHUNKS);
    s->yields = true;
    run_users(table, get_first, 1, NULL);
    g_assert_cmpuint(s->reads, ==, 1);
}

static void coroutine_fn get_corrupt_or_sound(void *opaque)
{
    User *user = opaque;

    for (unsigned i = 0; i < user->nb_ops; i++) {
        uint64_t index = random_index(user);

        if (index / SNAP_CHUNK_ENTRIES == 1) {
            assert_corrupt(user->table, index);
        } else {
            g_assert_cmpuint(get(user->table, index), ==, index + 10);
        }
    }
    (*user->nb_left)--;
}

/* A chunk that is damaged harms nobody who wants another one. */
static void coroutine_fn test_concurrent_gets_of_corrupt(Storage *s)
{
    g_autoptr(SnapTable) table = NULL;

    store(s);
    chunk_bytes(s, 1)[100] ^= 1;
    table = table_new(s, false, 2);
    s->yields = true;
    run_users(table, get_corrupt_or_sound, 100, NULL);
}

/* Each coroutine sets entries of its own, all over the table. */
static void coroutine_fn set_own_entries(void *opaque)
{
    User *user = opaque;

    for (unsigned i = 0; i < user->nb_ops; i++) {
        uint64_t index = ROUND_DOWN(random_index(user), NB_USERS) +
                         user->first;

        if (index < NB_ENTRIES) {
            set(user->table, index, index + 1000);
            user->is_set[index] = true;
            g_assert_cmpuint(get(user->table, index), ==, index + 1000);
        }
    }
    (*user->nb_left)--;
}

/* Entry i is i + 10 where nobody has set it, and else i + 1000. */
static void coroutine_fn check_concurrent_sets(Storage *s,
                                               CoroutineEntry *entry)
{
    g_autofree bool *is_set = g_new0(bool, NB_ENTRIES);
    g_autoptr(SnapTable) table = NULL;
    g_autoptr(SnapTable) stored = NULL;

    store(s);
    table = table_new(s, false, 2);
    s->yields = true;
    run_users(table, entry, 100, is_set);
    snap_table_flush(table, NB_ENTRIES, &error_abort);
    stored = table_new(s, false, NB_CHUNKS);
    for (uint64_t i = 0; i < NB_ENTRIES; i++) {
        g_assert_cmpuint(get(stored, i), ==, i + (is_set[i] ? 1000 : 10));
    }
}

static void coroutine_fn test_concurrent_sets(Storage *s)
{
    check_concurrent_sets(s, set_own_entries);
}

/* The first coroutine flushes, while the others set entries. */
static void coroutine_fn set_or_flush(void *opaque)
{
    User *user = opaque;

    if (user->first) {
        set_own_entries(user);
        return;
    }
    while (*user->nb_left > 1) {
        snap_table_flush(user->table, NB_ENTRIES, &error_abort);
        snap_co_pause();
    }
    set_own_entries(user);
}

static void coroutine_fn test_concurrent_flush(Storage *s)
{
    check_concurrent_sets(s, set_or_flush);
}

typedef struct TableTest {
    const char *path;
    void coroutine_fn (*fn)(Storage *s);
} TableTest;

static const TableTest tests[] = {
    { "size/is-a-number-of-whole-chunks", test_sizes },
    { "new-table-is-zero", test_fresh_is_zero },
    { "entry-is-what-was-set", test_set_and_get },
    { "entries-are-big-endian", test_entries_are_big_endian },
    { "stored-table-is-read-back", test_round_trip },
    { "cache/each-chunk-is-read-once", test_each_chunk_is_read_once },
    { "cache/cached-chunks-are-not-read-again",
      test_cached_chunks_are_not_read_again },
    { "cache/eviction-keeps-what-was-set", test_eviction_keeps_what_was_set },
    { "table-may-be-read-only", test_read_only },
    { "flush/writes-untouched-chunks", test_flush_of_untouched },
    { "flush/writes-a-prefix", test_flush_of_prefix },
    { "flush/of-nothing-writes-nothing", test_flush_of_nothing },
    { "flush/writes-unchanged-chunks-once", test_flush_writes_once },
    { "stored-entry-may-change", test_change_of_stored },
    { "corrupt/any-flipped-bit-is-found", test_flipped_bits },
    { "corrupt/spares-other-chunks", test_corruption_spares_other_chunks },
    { "corrupt/no-entry-can-be-set", test_set_in_corrupt_chunk },
    { "corrupt/swapped-chunks-are-found", test_swapped_chunks },
    { "corrupt/chunk-of-zeroes-is-found", test_chunk_of_zeroes },
    { "corrupt/chunk-with-another-seed-is-found", test_other_seed },
    { "error/of-a-read-does-not-stay", test_read_error },
    { "error/of-a-write-fails-the-flush", test_write_error_at_flush },
    { "error/of-a-write-at-eviction-is-reported",
      test_write_error_at_eviction },
    { "random-calls-agree-with-a-model", test_random },
    { "concurrent/gets-are-right", test_concurrent_gets },
    { "concurrent/gets-are-right-if-one-chunk-is-cached",
      test_concurrent_gets_of_one_chunk },
    { "concurrent/gets-of-a-chunk-share-a-read",
      test_concurrent_gets_of_same_chunk },
    { "concurrent/corrupt-chunk-harms-no-other",
      test_concurrent_gets_of_corrupt },
    { "concurrent/sets-are-kept", test_concurrent_sets },
    { "concurrent/sets-may-go-on-during-a-flush", test_concurrent_flush },
};

typedef struct TestRun {
    const TableTest *test;
    Storage storage;
} TestRun;

static void coroutine_fn call_table_test(void *opaque)
{
    TestRun *run = opaque;

    run->test->fn(&run->storage);
}

static void run_test(gconstpointer data)
{
    TestRun run = {
        .test = data,
        .storage.bytes = g_malloc0(NB_CHUNKS * SNAP_CHUNK_SIZE),
    };

    run_in_coroutine(call_table_test, &run);
    g_free(run.storage.bytes);
}

int main(int argc, char **argv)
{
    block_tests_init(&argc, &argv);
    ADD_TESTS("/snap/table/", tests, run_test);
    return g_test_run();
}
