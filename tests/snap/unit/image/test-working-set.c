/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Unit tests of the pages that a guest uses first
 */

#include "qemu/osdep.h"
#include <glib/gstdio.h>
#include "qapi/error.h"
#include "qemu/bswap.h"
#include "snap/image/working-set.h"
#include "test-table.h"

#define RAM_PAGES 1000

static const SnapHeader header = {
    .uuid = { .data = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
                        16 } },
    .page_bits = 12,
    .nb_pages = RAM_PAGES,
};

static GArray *pages_new(void)
{
    return g_array_new(false, false, sizeof(uint64_t));
}

/* Pages in an order that is no order, the first and the last among them */
static GArray *some_pages(unsigned nb)
{
    GArray *pages = pages_new();

    for (uint64_t i = 0; i < nb; i++) {
        uint64_t page = (RAM_PAGES - 1 + i * 7) % RAM_PAGES;

        g_array_append_val(pages, page);
    }
    return pages;
}

static GByteArray *encode_some(unsigned nb)
{
    g_autoptr(GArray) pages = some_pages(nb);

    return snap_working_set_encode(pages, &header.uuid);
}

static GByteArray *encode_page(uint64_t page)
{
    g_autoptr(GArray) pages = pages_new();

    g_array_append_val(pages, page);
    return snap_working_set_encode(pages, &header.uuid);
}

static void assert_same(const GArray *a, const GArray *b)
{
    g_assert_nonnull(a);
    g_assert_cmpmem(a->data, a->len * sizeof(uint64_t),
                    b->data, b->len * sizeof(uint64_t));
}

static void check_round_trip(const GArray *pages, const SnapHeader *h)
{
    g_autoptr(GByteArray) data = snap_working_set_encode(pages, &h->uuid);
    g_autoptr(GArray) read = snap_working_set_decode(data->data, data->len, h,
                                                     &error_abort);

    assert_same(read, pages);
}

static bool is_refused(const uint8_t *data, size_t length, const char *why)
{
    Error *err = NULL;
    g_autoptr(GArray) pages = snap_working_set_decode(data, length, &header,
                                                      &err);
    bool refused = !pages && err && strstr(error_get_pretty(err), why);

    error_free(err);
    return refused;
}

static void assert_refused(const GByteArray *data, const char *why)
{
    g_assert_true(is_refused(data->data, data->len, why));
}

/* Make the checksum right, so that something else has to be found. */
static void seal(GByteArray *data)
{
    size_t length = data->len - 8;

    stq_be_p(data->data + length, snap_checksum(data->data, length));
}

static void test_round_trip(void)
{
    g_autoptr(GArray) pages = some_pages(300);

    check_round_trip(pages, &header);
}

static void test_empty_set(void)
{
    g_autoptr(GArray) pages = pages_new();

    check_round_trip(pages, &header);
}

static void test_repeated_page(void)
{
    g_autoptr(GArray) pages = some_pages(3);
    g_autoptr(GArray) again = some_pages(2);

    g_array_append_vals(pages, again->data, again->len);
    check_round_trip(pages, &header);
}

static void test_largest_set(void)
{
    const SnapHeader large = { .nb_pages = UINT64_C(1) << 32 };
    g_autoptr(GArray) pages = pages_new();

    for (uint64_t i = 0; i < SNAP_MAX_WORKING_SET; i++) {
        uint64_t page = (i + 1) * 4096 - 1;

        g_array_append_val(pages, page);
    }
    check_round_trip(pages, &large);
}

/* What docs/interop/snapshot-image.rst says */
static void test_bytes(void)
{
    g_autoptr(GByteArray) data = encode_page(0x123);
    uint8_t expected[56] = "QSNAPWKS\0\0\0\1";

    memcpy(expected + 16, header.uuid.data, 16);
    stq_be_p(expected + 32, 1);
    stq_be_p(expected + 40, 0x123);
    stq_be_p(expected + 48, snap_checksum(expected, 48));
    g_assert_cmpmem(data->data, data->len, expected, sizeof(expected));
}

static void test_length(void)
{
    g_autoptr(GByteArray) data = encode_some(10);

    g_assert_cmpuint(data->len, ==, SNAP_WORKING_SET_HEAD + 10 * 8 + 8);
}

static void test_flipped_bits(void)
{
    g_autoptr(GByteArray) data = encode_some(10);

    for (size_t i = 0; i < data->len * 8; i++) {
        data->data[i / 8] ^= 1 << i % 8;
        assert_refused(data, "");
        data->data[i / 8] ^= 1 << i % 8;
    }
}

static void test_foreign(void)
{
    g_autoptr(GByteArray) data = encode_some(10);

    data->data[16 + 15] ^= 1;
    seal(data);
    assert_refused(data, "another snapshot");
}

static void test_page_out_of_ram(void)
{
    static const uint64_t outside[] = {
        RAM_PAGES, RAM_PAGES + 1, INT64_MAX, UINT64_MAX,
    };

    for (unsigned i = 0; i < ARRAY_SIZE(outside); i++) {
        g_autoptr(GByteArray) data = encode_page(outside[i]);

        assert_refused(data, "not in RAM");
    }
}

static void test_last_page(void)
{
    g_autoptr(GArray) pages = pages_new();
    uint64_t page = RAM_PAGES - 1;

    g_array_append_val(pages, page);
    check_round_trip(pages, &header);
}

/* One page that is out of RAM spoils the whole set. */
static void test_last_page_out_of_ram(void)
{
    g_autoptr(GArray) pages = some_pages(100);
    g_autoptr(GByteArray) data = NULL;
    uint64_t page = RAM_PAGES;

    g_array_append_val(pages, page);
    data = snap_working_set_encode(pages, &header.uuid);
    assert_refused(data, "not in RAM");
}

static void test_truncated(void)
{
    g_autoptr(GByteArray) data = encode_some(10);

    for (size_t length = 0; length < data->len; length++) {
        g_autofree uint8_t *copy = g_memdup2(data->data, length);

        g_assert_true(is_refused(copy, length, ""));
    }
}

/* Truncated, and the checksum is right for what is left */
static void test_truncated_sealed(void)
{
    for (size_t length = 8; length < SNAP_WORKING_SET_HEAD + 10 * 8 + 8;
         length++) {
        g_autoptr(GByteArray) data = encode_some(10);

        g_byte_array_set_size(data, length);
        seal(data);
        assert_refused(data, "");
    }
}

static void test_bytes_after_the_end(void)
{
    for (size_t more = 1; more <= 17; more++) {
        g_autoptr(GByteArray) data = encode_some(10);
        size_t length = data->len;

        g_byte_array_set_size(data, length + more);
        memset(data->data + length, 0, more);
        assert_refused(data, "corrupt");
        seal(data);
        assert_refused(data, "corrupt");
    }
}

/* A number of pages that does not go with the length */
static void test_wild_number(void)
{
    static const uint64_t numbers[] = {
        0, 9, 11, UINT64_C(1) << 32, UINT64_C(1) << 61,
        (UINT64_C(1) << 61) + 10, UINT64_MAX,
    };

    for (unsigned i = 0; i < ARRAY_SIZE(numbers); i++) {
        g_autoptr(GByteArray) data = encode_some(10);

        stq_be_p(data->data + 32, numbers[i]);
        seal(data);
        assert_refused(data, "corrupt");
    }
}

/* More pages than a working set may have, all else is well */
static void test_too_many_pages(void)
{
    g_autoptr(GByteArray) data = g_byte_array_new();
    uint64_t nb_pages = SNAP_MAX_WORKING_SET + 1;

    g_byte_array_set_size(data, SNAP_WORKING_SET_HEAD + nb_pages * 8 + 8);
    memset(data->data, 0, data->len);
    memcpy(data->data, "QSNAPWKS\0\0\0\1", 12);
    memcpy(data->data + 16, header.uuid.data, 16);
    stq_be_p(data->data + 32, nb_pages);
    seal(data);
    assert_refused(data, "corrupt");
}

static void test_other_version(void)
{
    g_autoptr(GByteArray) data = encode_some(10);

    stl_be_p(data->data + 8, 2);
    seal(data);
    assert_refused(data, "unsupported version");
}

static void test_other_magic(void)
{
    g_autoptr(GByteArray) data = encode_some(10);

    memcpy(data->data, "QEMUSNAP", 8);
    seal(data);
    assert_refused(data, "unsupported version");
}

static void test_no_bytes(void)
{
    g_assert_true(is_refused(NULL, 0, "unsupported version"));
}

/* --- files --- */

/* A directory with a name for a working set in it. */
typedef struct Fixture {
    char *dir;
    char *path;
} Fixture;

static void set_up(Fixture *f, gconstpointer data)
{
    f->dir = g_dir_make_tmp("test-snap-working-set-XXXXXX", NULL);
    g_assert_nonnull(f->dir);
    f->path = g_build_filename(f->dir, "vm.qcow2.working-set", NULL);
}

/* The directory is empty but for what was asked for. */
static void tear_down(Fixture *f, gconstpointer data)
{
    g_remove(f->path);
    g_assert_cmpint(g_rmdir(f->dir), ==, 0);
    g_free(f->dir);
    g_free(f->path);
}

static void store_some(const Fixture *f, unsigned nb)
{
    g_autoptr(GArray) pages = some_pages(nb);

    g_assert_true(snap_working_set_store(f->path, pages, &header.uuid,
                                         &error_abort));
}

static void assert_loads(const Fixture *f, unsigned nb)
{
    g_autoptr(GArray) expected = some_pages(nb);
    g_autoptr(GArray) pages = NULL;

    g_assert_cmpint(snap_working_set_load(f->path, &header, &pages,
                                          &error_abort), ==, 1);
    assert_same(pages, expected);
}

static void assert_load_fails(const Fixture *f)
{
    GArray *pages = NULL;
    Error *err = NULL;

    g_assert_cmpint(snap_working_set_load(f->path, &header, &pages, &err), <,
                    0);
    g_assert_null(pages);
    g_assert_nonnull(err);
    g_assert_nonnull(strstr(error_get_pretty(err), f->path));
    error_free(err);
}

static void assert_store_fails(const Fixture *f)
{
    g_autoptr(GArray) pages = some_pages(5);
    Error *err = NULL;

    g_assert_false(snap_working_set_store(f->path, pages, &header.uuid, &err));
    g_assert_nonnull(err);
    error_free(err);
}

static void write_file(const Fixture *f, const void *data, size_t length)
{
    g_assert_true(g_file_set_contents(f->path, data, length, NULL));
}

static void test_file(Fixture *f, gconstpointer data)
{
    store_some(f, 300);
    assert_loads(f, 300);
}

static void test_file_without_pages(Fixture *f, gconstpointer data)
{
    store_some(f, 0);
    assert_loads(f, 0);
}

/* A file has the bytes that an image's part has. */
static void test_file_bytes(Fixture *f, gconstpointer data)
{
    g_autoptr(GByteArray) expected = encode_some(20);
    g_autofree char *contents = NULL;
    size_t length;

    store_some(f, 20);
    g_assert_true(g_file_get_contents(f->path, &contents, &length, NULL));
    g_assert_cmpmem(contents, length, expected->data, expected->len);
}

static void test_file_missing(Fixture *f, gconstpointer data)
{
    GArray *pages = NULL;

    g_assert_cmpint(snap_working_set_load(f->path, &header, &pages,
                                          &error_abort), ==, 0);
    g_assert_null(pages);
}

static void test_file_in_no_directory(Fixture *f, gconstpointer data)
{
    g_free(f->path);
    f->path = g_build_filename(f->dir, "nowhere", "file", NULL);
    assert_store_fails(f);
}

static void test_file_empty(Fixture *f, gconstpointer data)
{
    write_file(f, "", 0);
    assert_load_fails(f);
}

/* Nobody writes to it: a reader must not wait for that. */
static void test_file_is_fifo(Fixture *f, gconstpointer data)
{
    g_assert_cmpint(mkfifo(f->path, 0600), ==, 0);
    assert_load_fails(f);
}

static void test_file_is_directory(Fixture *f, gconstpointer data)
{
    g_assert_cmpint(g_mkdir(f->path, 0700), ==, 0);
    assert_load_fails(f);
    assert_store_fails(f);
}

static void test_file_is_damaged(Fixture *f, gconstpointer data)
{
    g_autoptr(GByteArray) bytes = encode_some(20);

    bytes->data[60] ^= 1;
    write_file(f, bytes->data, bytes->len);
    assert_load_fails(f);
}

static void test_file_is_truncated(Fixture *f, gconstpointer data)
{
    g_autoptr(GByteArray) bytes = encode_some(20);

    write_file(f, bytes->data, bytes->len - 8);
    assert_load_fails(f);
}

/* A file of any size is refused without being read into memory. */
static void test_file_is_giant(Fixture *f, gconstpointer data)
{
    store_some(f, 20);
    g_assert_cmpint(truncate(f->path, INT64_C(1) << 40), ==, 0);
    assert_load_fails(f);
}

static void test_file_of_other_snapshot(Fixture *f, gconstpointer data)
{
    g_autoptr(GArray) pages = some_pages(5);
    const QemuUUID other = { .data = { 1 } };

    g_assert_true(snap_working_set_store(f->path, pages, &other,
                                         &error_abort));
    assert_load_fails(f);
}

static unsigned mode_of(const Fixture *f)
{
    struct stat st;

    g_assert_cmpint(lstat(f->path, &st), ==, 0);
    return st.st_mode & 07777;
}

/* Which pages a guest uses is nobody else's business. */
static void test_file_mode(Fixture *f, gconstpointer data)
{
    mode_t mask = umask(0);

    store_some(f, 5);
    g_assert_cmpuint(mode_of(f), ==, 0600);
    umask(mask);
}

static void test_file_mode_of_replaced(Fixture *f, gconstpointer data)
{
    write_file(f, "old", 3);
    g_assert_cmpint(g_chmod(f->path, 0644), ==, 0);
    store_some(f, 5);
    g_assert_cmpuint(mode_of(f), ==, 0600);
}

/* Who has the old file open still has all of it. */
static void test_file_is_replaced(Fixture *f, gconstpointer data)
{
    char old[16] = { };
    int fd;

    write_file(f, "the old content", 15);
    fd = open(f->path, O_RDONLY | O_CLOEXEC);
    store_some(f, 300);
    assert_loads(f, 300);
    g_assert_cmpint(read(fd, old, sizeof(old)), ==, 15);
    g_assert_cmpstr(old, ==, "the old content");
    close(fd);
}

static void test_file_is_replaced_by_shorter(Fixture *f, gconstpointer data)
{
    store_some(f, 300);
    store_some(f, 2);
    assert_loads(f, 2);
}

static const Test tests[] = {
    { "round-trip/keeps-the-order", test_round_trip },
    { "round-trip/set-may-be-empty", test_empty_set },
    { "round-trip/keeps-repeated-pages", test_repeated_page },
    { "round-trip/keeps-the-largest-set", test_largest_set },
    { "round-trip/keeps-the-last-page-of-ram", test_last_page },
    { "bytes/are-as-documented", test_bytes },
    { "bytes/length-is-of-head-pages-and-checksum", test_length },
    { "refused/any-flipped-bit", test_flipped_bits },
    { "refused/set-of-another-snapshot", test_foreign },
    { "refused/page-out-of-ram", test_page_out_of_ram },
    { "refused/last-page-out-of-ram", test_last_page_out_of_ram },
    { "refused/truncated-set", test_truncated },
    { "refused/truncated-set-with-a-right-checksum", test_truncated_sealed },
    { "refused/bytes-after-the-end", test_bytes_after_the_end },
    { "refused/number-of-pages-against-the-length", test_wild_number },
    { "refused/too-many-pages", test_too_many_pages },
    { "refused/other-version", test_other_version },
    { "refused/other-magic", test_other_magic },
    { "refused/no-bytes", test_no_bytes },
};

static const struct {
    const char *path;
    void (*fn)(Fixture *f, gconstpointer data);
} file_tests[] = {
    { "has-what-was-stored", test_file },
    { "may-have-no-pages", test_file_without_pages },
    { "has-the-bytes-of-an-images-part", test_file_bytes },
    { "may-be-missing", test_file_missing },
    { "needs-its-directory", test_file_in_no_directory },
    { "empty-one-is-refused", test_file_empty },
    { "fifo-is-refused-without-waiting", test_file_is_fifo },
    { "directory-is-refused", test_file_is_directory },
    { "damaged-one-is-refused", test_file_is_damaged },
    { "truncated-one-is-refused", test_file_is_truncated },
    { "giant-one-is-refused-unread", test_file_is_giant },
    { "of-another-snapshot-is-refused", test_file_of_other_snapshot },
    { "is-private", test_file_mode },
    { "is-private-though-the-old-one-was-not", test_file_mode_of_replaced },
    { "open-one-keeps-its-content-when-replaced", test_file_is_replaced },
    { "may-be-replaced-by-a-shorter-one", test_file_is_replaced_by_shorter },
};

int main(int argc, char **argv)
{
    tests_init(&argc, &argv);
    ADD_TESTS("/snap/working-set/", tests, call_test);
    ADD_FIXTURE_TESTS("/snap/working-set/file/", file_tests, Fixture, set_up,
                      tear_down);
    return g_test_run();
}
