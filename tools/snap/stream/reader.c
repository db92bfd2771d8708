/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reader of QEMU's migration stream
 *
 * Theory of operation: a pull parser, which is in one of these phases.  A call
 * of snap_stream_next() goes on from there up to the next event.
 *
 *   phase         what is read                 events           next phase
 *   ------------  ---------------------------  ---------------  ------------
 *   HEADER        magic, version,              none             BEFORE_RAM
 *                 configuration section
 *   BEFORE_RAM    RAM's START section          RAM_SETUP        START_FOOTER
 *   START_FOOTER  whether it has a footer      none             BEFORE_PAGES
 *   BEFORE_PAGES  head of a PART of RAM        none             RAM
 *                 head of an END of RAM        RAM_FINAL        RAM
 *   RAM           records of one section       PAGE, ZERO_PAGE  (the same)
 *                                              MULTIFD_FLUSH    (the same)
 *                 its end, EOS                 RAM_EOS          RAM_FOOTER
 *   RAM_FOOTER    the footer of the section    none             AMONG_PAGES
 *   AMONG_PAGES   as BEFORE_PAGES              the same         RAM
 *                 a FULL section               DEVICES          DEVICES
 *   DEVICES       bytes of device state        DEVICE_DATA      (the same)
 *                 what may be its end          DEVICE_DATA      DEVICE_END
 *   DEVICE_END    nothing                      DEVICE_END       DESCRIPTION
 *   DESCRIPTION   a description and the end    END              OVER
 *                 anything else                DEVICE_RESUMED   DEVICES
 *
 * In BEFORE_RAM, BEFORE_PAGES and AMONG_PAGES, other sections and commands may
 * come, with the events OPEN_RETURN_PATH and PING.
 *
 * No section has a length, and only RAM's say where they end (EOS).  Ahead of
 * the device state, a section is copied up to a footer of its own that the head
 * of another section follows;
 * device state is emitted as it comes, and its end is guessed and confirmed
 * (sections.h).  What is kept of the stream in memory is bounded: see
 * reader_extend().
 *
 * The data of a page is not part of its event: the caller says where it goes,
 * and gets the pages that follow as well, as far as the channel has them.
 *
 * The footer of a section of RAM is read with the next event, not with EOS: a
 * source with multifd sends it only once its channels are read from.
 */

#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/ctype.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "migration/ram.h"
#include "migration/savevm.h"
#include "snap/stream/reader.h"
#include "snap/stream/sections.h"
#include "snap/trace.h"

/* Removed from QEMU's headers in 9.1, but older sources send it. */
#define RAM_SAVE_FLAG_COMPRESS_PAGE 0x100

/* Flags fit below the smallest target page (migration/ram.h). */
#define ALL_FLAGS ((1 << SNAP_MIN_PAGE_BITS) - 1)

/* Device state is emitted in pieces of this size. */
#define DEVICE_CHUNK (64 * KiB)

/*
 * Silence of a source that waits for an answer, in milliseconds, that counts as
 * the end of the stream: after a whole description, and after an EOF byte
 * without one.
 */
#define DESCRIPTION_SILENCE 100
#define EOF_SILENCE         1000

/* A record of a page begins with a be64; the block's name may follow. */
#define RECORD_HEAD_SIZE 8

/*
 * Pages that are read at a time if they are the smallest ones; 128 KiB in any
 * case.
 */
#define MAX_PAGES_AHEAD 128

/* Machine type names are far shorter (migration/savevm.c bounds nothing). */
#define MAX_MACHINE_NAME 255

/* A source sends a handful; most are not events that the caller sees. */
#define MAX_COMMANDS 1024

typedef enum Phase {
    PHASE_HEADER,           /* nothing read yet */
    PHASE_BEFORE_RAM,       /* between sections, before RAM's START */
    PHASE_START_FOOTER,     /* RAM's START has told all of RAM */
    PHASE_BEFORE_PAGES,     /* between sections, before RAM's first PART */
    PHASE_RAM,              /* within a PART or END section of RAM */
    PHASE_RAM_FOOTER,       /* after its EOS */
    PHASE_AMONG_PAGES,      /* between sections, after RAM's first PART */
    PHASE_DEVICES,          /* device state up to a possible end */
    PHASE_DEVICE_END,       /* a possible end was found, not yet announced */
    PHASE_DESCRIPTION,      /* announced; the description comes next */
    PHASE_OVER,
} Phase;

struct SnapStreamReader {
    /* constant */
    SnapInput *input;

    /* what the stream said of itself; constant after RAM_SETUP */
    unsigned page_bits;
    GByteArray *configuration;
    SnapRAMSection section;
    SnapRAMBlocks ram;
    GHashTable *iterable;   /* ids of iterable sections other than RAM */
    bool return_path;
    bool multifd_flush;
    unsigned nb_commands;

    /* position of the parser */
    Phase phase;
    const char *context;    /* part of the stream, for messages */
    int block;              /* block of the last record, -1 for none */
    uint64_t page;          /* page of the last record, the last of a run */
    bool after_page;        /* it had data */
    bool in_order;          /* its page follows another one with data */

    /* sections other than RAM, as they came */
    GByteArray *setup;
    size_t before_ram;
    GByteArray *deferred;   /* among and after RAM's pages: goes to devices */

    /*
     * device state: bytes to be emitted, how many of them the last event has
     * emitted, and bytes to be read again because they turned out not to be a
     * description
     */
    GByteArray *buffered;
    size_t consumed;
    SnapDeviceEnd end;
    GByteArray *replay;
    size_t replay_pos;
    GByteArray *description;
    uint32_t description_length;
};

/* Whether RAM's START section was read. */
static bool reader_knows_ram(const SnapStreamReader *r)
{
    return r->phase > PHASE_BEFORE_RAM;
}

/* Whether the first PART or END of RAM has begun. */
static bool reader_has_pages(const SnapStreamReader *r)
{
    return r->phase >= PHASE_RAM;
}

static bool reader_is_between_sections(const SnapStreamReader *r)
{
    return r->phase == PHASE_BEFORE_RAM || r->phase == PHASE_BEFORE_PAGES ||
           r->phase == PHASE_AMONG_PAGES;
}

SnapStreamReader *snap_stream_reader_new(SnapInput *input, unsigned page_bits)
{
    SnapStreamReader *r = g_new0(SnapStreamReader, 1);

    r->input = input;
    r->page_bits = page_bits;
    r->configuration = g_byte_array_new();
    r->iterable = g_hash_table_new(g_direct_hash, g_direct_equal);
    r->block = -1;
    r->setup = g_byte_array_new();
    r->deferred = g_byte_array_new();
    r->buffered = g_byte_array_new();
    r->replay = g_byte_array_new();
    r->description = g_byte_array_new();
    return r;
}

void snap_stream_reader_free(SnapStreamReader *r)
{
    if (!r) {
        return;
    }
    g_byte_array_unref(r->configuration);
    g_hash_table_unref(r->iterable);
    g_byte_array_unref(r->setup);
    g_byte_array_unref(r->deferred);
    g_byte_array_unref(r->buffered);
    g_byte_array_unref(r->replay);
    g_byte_array_unref(r->description);
    snap_ram_blocks_destroy(&r->ram);
    g_free(r);
}

const SnapRAMBlocks *snap_stream_ram(const SnapStreamReader *r)
{
    return &r->ram;
}

const SnapRAMSection *snap_stream_ram_section(const SnapStreamReader *r)
{
    return &r->section;
}

bool snap_stream_multifd_flush(const SnapStreamReader *r)
{
    return r->multifd_flush;
}

const GByteArray *snap_stream_configuration(const SnapStreamReader *r)
{
    return r->configuration;
}

const GByteArray *snap_stream_setup(const SnapStreamReader *r,
                                    size_t *before_ram)
{
    *before_ram = r->before_ram;
    return r->setup;
}

/*
 * From now on, take silence of @ms milliseconds for the end of the stream if
 * the source waits for an answer, and so does not close the channel; negative
 * for no such limit.
 */
static void reader_limit_silence(SnapStreamReader *r, int ms)
{
    if (r->return_path) {
        snap_input_set_timeout(r->input, ms);
    }
}

/*
 * After an error or the end, reads return zeroes: check before using a value.
 */
static int reader_check_input(SnapStreamReader *r, Error **errp)
{
    Error *err = NULL;
    int ret = snap_input_error(r->input, &err);

    if (!ret) {
        return 0;
    }
    if (snap_input_ended(r->input)) {
        error_free(err);
        error_setg(errp, "The migration stream ends too early, in %s",
                   r->context);
    } else {
        error_propagate_prepend(errp, err, "Could not read %s: ", r->context);
    }
    return ret;
}

/*
 * Make room for @length bytes at the end of @array, which may grow up to @max
 * bytes.  Whatever is kept of the stream passes through here.
 *
 * Returns: the room, NULL with @errp set
 */
static uint8_t *reader_extend(SnapStreamReader *r, GByteArray *array,
                              size_t length, size_t max, Error **errp)
{
    size_t start = array->len;

    if (start > max || length > max - start) {
        error_setg(errp, "The migration stream has more than %zu bytes in %s",
                   max, r->context);
        return NULL;
    }
    g_byte_array_set_size(array, start + length);
    return array->data + start;
}

/* Read @length bytes to the end of @array, which may grow up to @max bytes. */
static int coroutine_fn reader_read_bytes(SnapStreamReader *r,
                                          GByteArray *array, size_t length,
                                          size_t max, Error **errp)
{
    uint8_t *p = reader_extend(r, array, length, max, errp);

    if (!p) {
        return -EINVAL;
    }
    snap_input_read(r->input, p, length);
    return reader_check_input(r, errp);
}

/* --- header and configuration section --- */

static int coroutine_fn reader_read_configuration(SnapStreamReader *r,
                                                  size_t length,
                                                  const uint8_t **data,
                                                  Error **errp)
{
    int ret = reader_read_bytes(r, r->configuration, length,
                                SNAP_MAX_CONFIGURATION, errp);

    *data = r->configuration->data + r->configuration->len - length;
    return ret;
}

/* The name at @data, which the configuration ends with; fit for messages. */
static char *reader_last_name(const SnapStreamReader *r, const uint8_t *data)
{
    const GByteArray *array = r->configuration;
    g_autofree char *name = g_strndup((const char *)data,
                                      array->data + array->len - data);

    return g_strescape(name, NULL);
}

static int coroutine_fn reader_parse_page_bits(SnapStreamReader *r,
                                               Error **errp)
{
    const uint8_t *p;
    int ret = reader_read_configuration(r, 4, &p, errp);

    if (ret < 0) {
        return ret;
    }
    r->page_bits = ldl_be_p(p);
    if (r->page_bits < SNAP_MIN_PAGE_BITS ||
        r->page_bits > SNAP_MAX_PAGE_BITS) {
        error_setg(errp, "Target page size of 2^%u bytes is not supported",
                   r->page_bits);
        return -ENOTSUP;
    }
    return 0;
}

/*
 * The capabilities that QEMU lists are those that change the format of RAM
 * (migration/savevm.c:should_validate_capability): none of them can be taken.
 */
static int coroutine_fn reader_parse_capabilities(SnapStreamReader *r,
                                                  Error **errp)
{
    g_autofree char *name = NULL;
    const uint8_t *p;
    int ret = reader_read_configuration(r, 4, &p, errp);

    if (ret < 0) {
        return ret;
    }
    if (ldl_be_p(p) == 0) {
        return 0;
    }
    ret = reader_read_configuration(r, 1, &p, errp);
    if (ret < 0) {
        return ret;
    }
    ret = reader_read_configuration(r, *p, &p, errp);
    if (ret < 0) {
        return ret;
    }
    name = reader_last_name(r, p);
    error_setg(errp, "Migration capability '%s' is not supported: "
               "switch it off for the save", name);
    return -ENOTSUP;
}

static int coroutine_fn reader_parse_subsection(SnapStreamReader *r,
                                                Error **errp)
{
    g_autofree char *name = NULL;
    const uint8_t *p;
    int ret;

    ret = reader_read_configuration(r, 2, &p, errp);
    if (ret < 0) {
        return ret;
    }
    ret = reader_read_configuration(r, p[1], &p, errp);
    if (ret < 0) {
        return ret;
    }
    name = reader_last_name(r, p);
    ret = reader_read_configuration(r, 4, &p, errp); /* version */
    if (ret < 0) {
        return ret;
    }

    if (!strcmp(name, "configuration/target-page-bits")) {
        return reader_parse_page_bits(r, errp);
    } else if (!strcmp(name, "configuration/capabilities")) {
        return reader_parse_capabilities(r, errp);
    } else if (!strcmp(name, "configuration/uuid")) {
        return reader_read_configuration(r, 16, &p, errp);
    }
    error_setg(errp, "Unknown subsection '%s' in the migration stream", name);
    return -ENOTSUP;
}

static int coroutine_fn reader_parse_machine(SnapStreamReader *r, Error **errp)
{
    g_autofree char *machine = NULL;
    const uint8_t *p;
    uint32_t length;
    int ret;

    ret = reader_read_configuration(r, 5, &p, errp);
    if (ret < 0) {
        return ret;
    }
    length = ldl_be_p(p + 1);
    if (length > MAX_MACHINE_NAME) {
        error_setg(errp, "Machine type name is too long (%u bytes, at most %d)",
                   length, MAX_MACHINE_NAME);
        return -EINVAL;
    }
    ret = reader_read_configuration(r, length, &p, errp);
    if (ret < 0) {
        return ret;
    }
    machine = g_strndup((const char *)p, length);
    trace_snap_stream_machine(machine);
    return 0;
}

static int coroutine_fn reader_parse_header(SnapStreamReader *r, Error **errp)
{
    const uint8_t *p;
    int ret;

    r->context = "its header";
    snap_input_peek_byte(r->input);
    if (snap_input_ended(r->input)) {
        error_setg(errp, "No migration stream to read");
        return -EIO;
    }
    ret = reader_read_configuration(r, 8, &p, errp);
    if (ret < 0) {
        return ret;
    }
    if (ldl_be_p(p) != QEMU_VM_FILE_MAGIC) {
        error_setg(errp, "Not a QEMU migration stream");
        return -EINVAL;
    }
    if (ldl_be_p(p + 4) != QEMU_VM_FILE_VERSION) {
        error_setg(errp, "Migration stream of version %u is not supported",
                   ldl_be_p(p + 4));
        return -ENOTSUP;
    }

    r->context = "its configuration section";
    if (snap_input_peek_byte(r->input) == QEMU_VM_CONFIGURATION) {
        ret = reader_parse_machine(r, errp);
        while (!ret && snap_input_peek_byte(r->input) == QEMU_VM_SUBSECTION) {
            ret = reader_parse_subsection(r, errp);
        }
    }
    trace_snap_stream_header(r->page_bits);
    return ret ?: reader_check_input(r, errp);
}

/* --- RAM --- */

static int coroutine_fn reader_read_name(SnapStreamReader *r,
                                         char name[SNAP_BLOCK_NAME_MAX + 1],
                                         Error **errp)
{
    unsigned length = snap_input_get_byte(r->input);
    int ret;

    snap_input_read(r->input, (uint8_t *)name, length);
    name[length] = '\0';
    ret = reader_check_input(r, errp);
    if (!ret && (length == 0 || !snap_name_is_printable(name, length))) {
        error_setg(errp, "Invalid name in %s of the migration stream",
                   r->context);
        ret = -EINVAL;
    }
    return ret;
}

/*
 * A block's page size follows its length only in some configurations
 * (migration/ram.c:ram_save_setup), which the stream does not tell. It is a
 * be64 and so begins with a zero byte, which no length of a name does; after
 * the last block, it has no flags, while every record has some.
 */
static uint64_t coroutine_fn reader_read_block_page_size(SnapStreamReader *r,
                                                         bool last)
{
    const uint8_t *p;

    if (last) {
        if (snap_input_peek(r->input, &p, 8) < 8 ||
            (ldq_be_p(p) & ALL_FLAGS)) {
            return 0;
        }
    } else if (snap_input_peek_byte(r->input) != 0) {
        return 0;
    }
    return snap_input_get_be64(r->input);
}

static int coroutine_fn reader_parse_blocks(SnapStreamReader *r, uint64_t total,
                                            Error **errp)
{
    while (total) {
        char name[SNAP_BLOCK_NAME_MAX + 1];
        uint64_t length, page_size;
        int ret = reader_read_name(r, name, errp);

        if (ret < 0) {
            return ret;
        }
        length = snap_input_get_be64(r->input);
        if (length > total) {
            error_setg(errp, "RAM blocks are longer than their total in the "
                       "migration stream");
            return -EINVAL;
        }
        total -= length;
        page_size = reader_read_block_page_size(r, total == 0);
        ret = reader_check_input(r, errp);
        if (ret < 0) {
            return ret;
        }
        if (!snap_ram_blocks_add(&r->ram, name, length, page_size, errp)) {
            return -EINVAL;
        }
        trace_snap_stream_block(name, length, page_size);
    }
    return 0;
}

static int reader_unsupported_record(uint64_t flags, Error **errp)
{
    if (flags & RAM_SAVE_FLAG_COMPRESS_PAGE) {
        error_setg(errp, "Migration capability 'compress' is not supported: "
                   "switch it off for the save");
    } else if (flags & RAM_SAVE_FLAG_XBZRLE) {
        error_setg(errp, "Migration capability 'xbzrle' is not supported: "
                   "switch it off for the save");
    } else if (flags & RAM_SAVE_FLAG_HOOK) {
        error_setg(errp, "Migration by RDMA is not supported");
    } else {
        error_setg(errp, "Unknown RAM record in the migration stream "
                   "(flags 0x%" PRIx64 ")", flags);
    }
    return -ENOTSUP;
}

static int coroutine_fn reader_read_footer(SnapStreamReader *r, uint32_t id,
                                           Error **errp)
{
    uint8_t type = snap_input_get_byte(r->input);
    uint32_t footer_id = snap_input_get_be32(r->input);
    int ret = reader_check_input(r, errp);

    if (!ret && (type != QEMU_VM_SECTION_FOOTER || footer_id != id)) {
        error_setg(errp, "Missing or mismatched footer of section %u in the "
                   "migration stream", id);
        ret = -EINVAL;
    }
    return ret;
}

static int coroutine_fn reader_parse_ram_start(SnapStreamReader *r,
                                               const SnapSectionHead *head,
                                               Error **errp)
{
    uint64_t mask = (UINT64_C(1) << r->page_bits) - 1;
    uint64_t word;
    int ret;

    if (reader_knows_ram(r)) {
        error_setg(errp, "RAM starts twice in the migration stream");
        return -EINVAL;
    }
    if (head->version != SNAP_RAM_SECTION_VERSION) {
        error_setg(errp, "RAM section of version %u is not supported",
                   head->version);
        return -ENOTSUP;
    }

    r->context = "RAM's START section";
    snap_ram_blocks_init(&r->ram, r->page_bits);
    word = snap_input_get_be64(r->input);
    ret = reader_check_input(r, errp);
    if (ret < 0) {
        return ret;
    }
    if ((word & mask) != RAM_SAVE_FLAG_MEM_SIZE) {
        error_setg(errp, "RAM's START section does not begin with MEM_SIZE");
        return -EINVAL;
    }
    ret = reader_parse_blocks(r, word & ~mask, errp);
    if (ret < 0) {
        return ret;
    }
    if (!r->ram.nb_blocks) {
        error_setg(errp, "The migration stream has no RAM");
        return -EINVAL;
    }

    word = snap_input_get_be64(r->input);
    if (word == RAM_SAVE_FLAG_MULTIFD_FLUSH) {
        r->multifd_flush = true;
        word = snap_input_get_be64(r->input);
    }
    ret = reader_check_input(r, errp);
    if (ret < 0) {
        return ret;
    }
    if (word != RAM_SAVE_FLAG_EOS) {
        return reader_unsupported_record(word, errp);
    }

    r->section = (SnapRAMSection) {
        .id = head->id, .instance = head->instance,
    };
    r->before_ram = r->setup->len;
    r->phase = PHASE_START_FOOTER;
    return 0;
}

/*
 * Read what follows the last record of a section of RAM.  A source with multifd
 * may send it only once its channels are read from.
 */
static int coroutine_fn reader_finish_ram_section(SnapStreamReader *r,
                                                  Error **errp)
{
    if (r->phase == PHASE_START_FOOTER) {
        r->section.footers = snap_input_peek_byte(r->input) ==
                             QEMU_VM_SECTION_FOOTER;
        r->phase = PHASE_BEFORE_PAGES;
    } else {
        r->phase = PHASE_AMONG_PAGES;
    }
    return r->section.footers ? reader_read_footer(r, r->section.id, errp) :
                                reader_check_input(r, errp);
}

/* Resolve the block of a page record. */
static int coroutine_fn reader_parse_record_block(SnapStreamReader *r,
                                                  uint64_t flags,
                                                  uint64_t offset, Error **errp)
{
    char name[SNAP_BLOCK_NAME_MAX + 1];
    int ret;

    if (!(flags & RAM_SAVE_FLAG_CONTINUE)) {
        ret = reader_read_name(r, name, errp);
        if (ret < 0) {
            return ret;
        }
        r->block = snap_ram_blocks_find(&r->ram, name, r->block);
        if (r->block < 0) {
            error_setg(errp, "Page of an unknown RAM block '%s' in the "
                       "migration stream", name);
            return -EINVAL;
        }
    } else if (r->block < 0) {
        error_setg(errp, "Page record continues a RAM block, but none was "
                   "named before");
        return -EINVAL;
    }
    if (offset >= r->ram.blocks[r->block].length) {
        error_setg(errp, "Page at offset 0x%" PRIx64 " lies outside RAM block "
                   "'%s'", offset, r->ram.blocks[r->block].name);
        return -EINVAL;
    }
    return 0;
}

/* One record of a PART or END section. */
static int coroutine_fn reader_parse_record(SnapStreamReader *r,
                                            SnapEvent *event, Error **errp)
{
    uint64_t mask = snap_ram_page_size(&r->ram) - 1;
    uint64_t word = snap_input_get_be64(r->input);
    uint64_t flags = word & mask;
    int ret = reader_check_input(r, errp);

    if (ret < 0) {
        return ret;
    }
    if (word == RAM_SAVE_FLAG_EOS) {
        r->phase = PHASE_RAM_FOOTER;
        event->type = SNAP_EVENT_RAM_EOS;
        return 0;
    }
    if (word == RAM_SAVE_FLAG_MULTIFD_FLUSH) {
        event->type = SNAP_EVENT_MULTIFD_FLUSH;
        return 0;
    }
    if ((flags & ~RAM_SAVE_FLAG_CONTINUE) != RAM_SAVE_FLAG_PAGE &&
        (flags & ~RAM_SAVE_FLAG_CONTINUE) != RAM_SAVE_FLAG_ZERO) {
        return reader_unsupported_record(flags, errp);
    }
    ret = reader_parse_record_block(r, flags, word & ~mask, errp);
    if (ret < 0) {
        return ret;
    }
    event->page = snap_ram_page(&r->ram, &r->ram.blocks[r->block],
                                word & ~mask);
    r->in_order = (flags & RAM_SAVE_FLAG_CONTINUE) && r->after_page &&
                  event->page == r->page + 1;
    r->after_page = flags & RAM_SAVE_FLAG_PAGE;
    r->page = event->page;
    if (flags & RAM_SAVE_FLAG_PAGE) {
        event->type = SNAP_EVENT_PAGE;
        return 0;
    }
    event->type = SNAP_EVENT_ZERO_PAGE;
    if (snap_input_get_byte(r->input) != 0) {
        error_setg(errp, "Zero page with a fill value in the migration stream");
        return -ENOTSUP;
    }
    return reader_check_input(r, errp);
}

/*
 * Consecutive pages come as records that differ only in the offset.  So read
 * the channel straight to the places of such pages, and to @heads in between;
 * they count as far as these heads turn out to be right.
 *
 * Returns: elements of @iov
 */
static unsigned reader_expect_pages(const SnapStreamReader *r, uint8_t *buf,
                                    unsigned nb_pages, uint64_t *heads,
                                    struct iovec *iov)
{
    size_t page_size = snap_ram_page_size(&r->ram);
    unsigned n = 0;

    for (unsigned i = 0; i < nb_pages; i++) {
        if (i) {
            iov[n++] = (struct iovec) { &heads[i], RECORD_HEAD_SIZE };
        }
        iov[n++] = (struct iovec) { buf + i * page_size, page_size };
    }
    return n;
}

/* How many of the pages that were expected have come whole. */
static unsigned reader_count_pages(const SnapStreamReader *r,
                                   const uint64_t *heads, unsigned nb_pages,
                                   size_t bytes)
{
    size_t page_size = snap_ram_page_size(&r->ram);
    uint64_t first = snap_ram_page_offset(&r->ram, &r->ram.blocks[r->block],
                                          r->page);
    size_t pos = page_size;
    unsigned i;

    for (i = 1; i < nb_pages && bytes >= pos + RECORD_HEAD_SIZE + page_size;
         i++) {
        uint64_t offset = first + i * page_size;

        if (be64_to_cpu(heads[i]) != (offset | RAM_SAVE_FLAG_PAGE |
                                      RAM_SAVE_FLAG_CONTINUE)) {
            break;
        }
        pos += RECORD_HEAD_SIZE + page_size;
    }
    return i;
}

int coroutine_fn snap_stream_read_pages(SnapStreamReader *r, void *buf,
                                        unsigned *nb_pages, Error **errp)
{
    size_t page_size = snap_ram_page_size(&r->ram);
    uint64_t left = snap_ram_block_end(&r->ram, &r->ram.blocks[r->block]) -
                    r->page;
    unsigned max = MIN(MIN(*nb_pages, left), MAX_PAGES_AHEAD >>
                       (r->ram.page_bits - SNAP_MIN_PAGE_BITS));
    uint64_t heads[MAX_PAGES_AHEAD];
    struct iovec iov[2 * MAX_PAGES_AHEAD];
    unsigned niov;
    size_t bytes, used;
    int ret;

    /* Only read ahead once two consecutive pages were seen. */
    max = r->in_order ? MAX(max, 1) : 1;
    niov = reader_expect_pages(r, buf, max, heads, iov);
    bytes = snap_input_read_ahead(r->input, iov, niov);
    if (bytes < page_size) {
        ret = reader_check_input(r, errp);
        assert(ret < 0);
        return ret;
    }
    *nb_pages = reader_count_pages(r, heads, max, bytes);
    used = *nb_pages * (page_size + RECORD_HEAD_SIZE) - RECORD_HEAD_SIZE;
    snap_input_unread(r->input, iov, niov, used, bytes - used);
    r->page += *nb_pages - 1;
    return 0;
}

/* --- sections other than RAM, before the device state --- */

/* Whether a known section can start at what is next in the file. */
static bool coroutine_fn reader_next_head_plausible(SnapStreamReader *r)
{
    const uint8_t *p;
    size_t wanted = 1, got;
    int ret;

    do {
        got = snap_input_peek(r->input, &p, wanted);
        ret = snap_device_section_head_plausible(p, got);
    } while (ret < 0 && got == wanted++);

    if (ret > 0 && (p[0] == QEMU_VM_SECTION_PART ||
                    p[0] == QEMU_VM_SECTION_END)) {
        uint32_t id;

        if (snap_input_peek(r->input, &p, 5) < 5) {
            return false;
        }
        id = ldl_be_p(p + 1);
        return (reader_knows_ram(r) && id == r->section.id) ||
               g_hash_table_contains(r->iterable, GUINT_TO_POINTER(id));
    }
    return ret > 0;
}

/*
 * Copy the rest of section @id, whose length is not known: it ends with a
 * footer of its own that is followed by the head of another section.
 */
static int coroutine_fn reader_copy_section(SnapStreamReader *r,
                                            GByteArray *array, uint32_t id,
                                            Error **errp)
{
    uint64_t footer = ((uint64_t)QEMU_VM_SECTION_FOOTER << 32) | id;
    uint64_t tail = 0;

    if (reader_knows_ram(r) && !r->section.footers) {
        error_setg(errp, "Device sections before RAM need section footers "
                   "(migration property send-section-footer)");
        return -ENOTSUP;
    }
    for (;;) {
        uint8_t byte;
        int ret = reader_read_bytes(r, array, 1, SNAP_MAX_SETUP, errp);

        if (ret < 0) {
            return ret;
        }
        byte = array->data[array->len - 1];
        tail = ((tail << 8) | byte) & MAKE_64BIT_MASK(0, 40);
        if (tail == footer && reader_next_head_plausible(r)) {
            return 0;
        }
    }
}

/* Keep the head of a section. */
static int reader_append_head(SnapStreamReader *r, GByteArray *array,
                              const SnapSectionHead *head, Error **errp)
{
    uint8_t buf[SNAP_SECTION_HEAD_MAX];
    size_t size = snap_section_head_encode(head, buf);
    uint8_t *p;

    r->context = "a device's section";
    p = reader_extend(r, array, size, SNAP_MAX_SETUP, errp);
    if (!p) {
        return -EINVAL;
    }
    memcpy(p, buf, size);
    return 0;
}

/*
 * Devices whose iterations can be told from each other by their footers, and
 * sent again after RAM: what they send does not depend on RAM.
 */
static bool reader_is_known_iterable(const char *name)
{
    return !strcmp(name, "dirty-bitmap") ||
           !strcmp(name, "s390-storage_attributes");
}

/* START or FULL: name, instance and version follow the id. */
static int coroutine_fn reader_parse_named_section(SnapStreamReader *r,
                                                   uint8_t type, uint32_t id,
                                                   Error **errp)
{
    GByteArray *array = reader_has_pages(r) ? r->deferred : r->setup;
    SnapSectionHead head = { .type = type, .id = id };
    int ret;

    ret = reader_read_name(r, head.name, errp);
    if (ret < 0) {
        return ret;
    }
    head.instance = snap_input_get_be32(r->input);
    head.version = snap_input_get_be32(r->input);
    ret = reader_check_input(r, errp);
    if (ret < 0) {
        return ret;
    }
    trace_snap_stream_section(type, id, head.name);
    if (type == QEMU_VM_SECTION_START) {
        if (!strcmp(head.name, SNAP_RAM_SECTION_NAME)) {
            return reader_parse_ram_start(r, &head, errp);
        }
        if (!reader_is_known_iterable(head.name)) {
            error_setg(errp, "Device '%s' sends its state in iterations, "
                       "which is not supported", head.name);
            return -ENOTSUP;
        }
        g_hash_table_add(r->iterable, GUINT_TO_POINTER(id));
    }

    return reader_append_head(r, array, &head, errp) ?:
           reader_copy_section(r, array, id, errp);
}

/* PART or END */
static int coroutine_fn reader_parse_iteration(SnapStreamReader *r,
                                               uint8_t type, uint32_t id,
                                               SnapEvent *event, Error **errp)
{
    const SnapSectionHead head = { .type = type, .id = id };

    if (reader_knows_ram(r) && id == r->section.id) {
        r->context = "RAM";
        r->phase = PHASE_RAM;
        if (type == QEMU_VM_SECTION_END) {
            event->type = SNAP_EVENT_RAM_FINAL;
        }
        return 0;
    }
    if (!g_hash_table_contains(r->iterable, GUINT_TO_POINTER(id))) {
        error_setg(errp, "Unknown section %u in the migration stream", id);
        return -EINVAL;
    }
    return reader_append_head(r, r->deferred, &head, errp) ?:
           reader_copy_section(r, r->deferred, id, errp);
}

/* Names as in migration/savevm.c:enum qemu_vm_cmd. */
static int reader_unsupported_command(unsigned command, Error **errp)
{
    static const char *const names[] = {
        [SNAP_CMD_OPEN_RETURN_PATH] = "OPEN_RETURN_PATH",
        [SNAP_CMD_PING]             = "PING",
        [SNAP_CMD_POSTCOPY_ADVISE]  = "POSTCOPY_ADVISE",
        [SNAP_CMD_POSTCOPY_LISTEN]  = "POSTCOPY_LISTEN",
        [SNAP_CMD_POSTCOPY_RUN]     = "POSTCOPY_RUN",
        [SNAP_CMD_RAM_DISCARD]      = "POSTCOPY_RAM_DISCARD",
        [SNAP_CMD_PACKAGED]         = "PACKAGED",
        [SNAP_CMD_POSTCOPY_RESUME]  = "POSTCOPY_RESUME",
        [SNAP_CMD_RECV_BITMAP]      = "RECV_BITMAP",
        [SNAP_CMD_SWITCHOVER_START] = "SWITCHOVER_START",
    };
    const char *name = command < ARRAY_SIZE(names) ? names[command] : NULL;

    error_setg(errp, "Command %u (%s) in the migration stream is not supported",
               command, name ?: "unknown");
    return -ENOTSUP;
}

static int coroutine_fn reader_parse_command(SnapStreamReader *r,
                                             SnapEvent *event, Error **errp)
{
    unsigned command = snap_input_get_be16(r->input);
    unsigned length = snap_input_get_be16(r->input);
    uint8_t data[16];
    int ret;

    if (r->nb_commands++ == MAX_COMMANDS) {
        error_setg(errp, "Too many commands in the migration stream");
        return -EINVAL;
    }
    if (length > sizeof(data)) {
        ret = reader_check_input(r, errp);
        return ret < 0 ? ret : reader_unsupported_command(command, errp);
    }
    snap_input_read(r->input, data, length);
    ret = reader_check_input(r, errp);
    if (ret < 0) {
        return ret;
    }
    trace_snap_stream_command(command, length);

    if (command == SNAP_CMD_OPEN_RETURN_PATH && length == 0) {
        r->return_path = true;
        event->type = SNAP_EVENT_OPEN_RETURN_PATH;
    } else if (command == SNAP_CMD_PING && length == 4) {
        event->type = SNAP_EVENT_PING;
        event->value = ldl_be_p(data);
    } else if (command == SNAP_CMD_POSTCOPY_ADVISE ||
               command == SNAP_CMD_SWITCHOVER_START) {
        /* Offered by the source; a complete precopy does not use them. */
    } else {
        return reader_unsupported_command(command, errp);
    }
    return 0;
}

static int coroutine_fn reader_read_section_id(SnapStreamReader *r,
                                               uint32_t *id, Error **errp)
{
    *id = snap_input_get_be32(r->input);
    return reader_check_input(r, errp);
}

/* Whatever starts at the next byte, while device state has not begun. */
static int coroutine_fn reader_parse_section(SnapStreamReader *r,
                                             SnapEvent *event, Error **errp)
{
    uint8_t type;
    uint32_t id;
    int ret;

    r->context = reader_has_pages(r) ? "RAM" : "the sections before RAM";
    type = snap_input_peek_byte(r->input);
    ret = reader_check_input(r, errp);
    if (ret < 0) {
        return ret;
    }
    if (reader_has_pages(r) && type == QEMU_VM_SECTION_FULL) {
        r->phase = PHASE_DEVICES;
        snap_device_end_init(&r->end, r->section.footers);
        g_byte_array_append(r->buffered, r->deferred->data, r->deferred->len);
        event->type = SNAP_EVENT_DEVICES;
        return 0;
    }

    snap_input_skip(r->input, 1);
    switch (type) {
    case QEMU_VM_SECTION_START:
    case QEMU_VM_SECTION_FULL:
        ret = reader_read_section_id(r, &id, errp) ?:
              reader_parse_named_section(r, type, id, errp);
        break;
    case QEMU_VM_SECTION_PART:
    case QEMU_VM_SECTION_END:
        ret = reader_read_section_id(r, &id, errp) ?:
              reader_parse_iteration(r, type, id, event, errp);
        break;
    case QEMU_VM_COMMAND:
        ret = reader_parse_command(r, event, errp);
        break;
    default:
        error_setg(errp, "Unknown section type 0x%02x in the migration stream",
                   type);
        ret = -EINVAL;
    }
    if (!ret && r->phase == PHASE_START_FOOTER) {
        event->type = SNAP_EVENT_RAM_SETUP;
    }
    return ret;
}

/* --- device state --- */

/* Next byte of device state; -1 at the end of the file or an error. */
static int coroutine_fn reader_next_byte(SnapStreamReader *r)
{
    const uint8_t *p;

    if (r->replay_pos < r->replay->len) {
        return r->replay->data[r->replay_pos++];
    }
    if (!snap_input_peek(r->input, &p, 1)) {
        return -1;
    }
    snap_input_skip(r->input, 1);
    return *p;
}

/*
 * Next byte, after one that may have been EOF.  Without footers any zero byte
 * may be, which is too little to take silence for the end.
 */
static int coroutine_fn reader_next_byte_or_silence(SnapStreamReader *r)
{
    int byte;

    if (!r->section.footers || !snap_device_end_is_eof(&r->end)) {
        return reader_next_byte(r);
    }
    reader_limit_silence(r, EOF_SILENCE);
    byte = reader_next_byte(r);
    reader_limit_silence(r, -1);
    return byte;
}

/* Emit @length of the buffered bytes. */
static void reader_emit_device_data(SnapStreamReader *r, SnapEvent *event,
                                    size_t length)
{
    event->type = SNAP_EVENT_DEVICE_DATA;
    event->data = r->buffered->data;
    event->length = length;
    r->consumed = length;
}

/*
 * Bytes are taken one at a time, so that no byte after the possible end is
 * consumed: what the source still has to write is what holds it back.
 */
static int coroutine_fn reader_parse_devices(SnapStreamReader *r,
                                             SnapEvent *event, Error **errp)
{
    r->context = "the device state";
    while (r->buffered->len < DEVICE_CHUNK + SNAP_DESCRIPTION_HEAD) {
        int byte = reader_next_byte_or_silence(r);
        uint8_t value = byte;

        if (byte < 0) {
            if (!snap_input_ended(r->input) ||
                !snap_device_end_is_eof(&r->end)) {
                return reader_check_input(r, errp);
            }
            r->description_length = 0;
            r->phase = PHASE_DEVICE_END;
            reader_emit_device_data(r, event, r->buffered->len - 1);
            r->consumed++;
            return 0;
        }
        g_byte_array_append(r->buffered, &value, 1);
        snap_device_end_feed(&r->end, value);
        r->description_length = snap_device_end_description(&r->end);
        if (r->description_length) {
            r->phase = PHASE_DEVICE_END;
            reader_emit_device_data(r, event,
                                    r->buffered->len - SNAP_DESCRIPTION_HEAD);
            return 0;
        }
    }
    reader_emit_device_data(r, event, r->buffered->len - SNAP_DESCRIPTION_HEAD);
    return 0;
}

/* Whether nothing follows; a source that waits for an answer stays silent. */
static bool coroutine_fn reader_is_over(SnapStreamReader *r)
{
    if (r->replay_pos < r->replay->len) {
        return false;
    }
    reader_limit_silence(r, DESCRIPTION_SILENCE);
    snap_input_peek_byte(r->input);
    reader_limit_silence(r, -1);
    return snap_input_ended(r->input);
}

static void coroutine_fn reader_parse_description(SnapStreamReader *r,
                                                  SnapEvent *event)
{
    static const uint8_t begin[] = { '{', '"' };
    GByteArray *array = r->description;
    bool printable = true;
    int byte = 0;

    r->context = "the description of the device state";
    g_byte_array_set_size(array, 0);
    if (r->description_length) {
        g_byte_array_append(array, begin, sizeof(begin));
    }
    /*
     * The description is ASCII: stop at the first other byte, so that a hostile
     * guest cannot make parsing quadratic.
     */
    while (array->len < r->description_length && printable &&
           (byte = reader_next_byte(r)) >= 0) {
        uint8_t value = byte;

        g_byte_array_append(array, &value, 1);
        printable = qemu_isprint(value);
    }
    if (!r->description_length ||
        (byte >= 0 && printable &&
         snap_description_valid(array->data, array->len) &&
         reader_is_over(r))) {
        r->phase = PHASE_OVER;
        event->type = SNAP_EVENT_END;
        event->data = array->data;
        event->length = array->len;
        return;
    }

    /* It only looked like the end: what was read is device state. */
    trace_snap_stream_resumed(array->len);
    g_byte_array_remove_range(r->replay, 0, r->replay_pos);
    g_byte_array_prepend(r->replay, array->data + sizeof(begin),
                         array->len - sizeof(begin));
    r->replay_pos = 0;
    r->phase = PHASE_DEVICES;
    event->type = SNAP_EVENT_DEVICE_RESUMED;
}

/* --- the parser --- */

static int coroutine_fn reader_parse_event(SnapStreamReader *r,
                                           SnapEvent *event, Error **errp)
{
    switch (r->phase) {
    case PHASE_RAM:
        return reader_parse_record(r, event, errp);
    case PHASE_DEVICES:
        return reader_parse_devices(r, event, errp);
    case PHASE_DEVICE_END:
        r->phase = PHASE_DESCRIPTION;
        event->type = SNAP_EVENT_DEVICE_END;
        event->length = r->description_length;
        return 0;
    case PHASE_DESCRIPTION:
        reader_parse_description(r, event);
        return 0;
    default:
        g_assert_not_reached();
    }
}

int coroutine_fn snap_stream_next(SnapStreamReader *r, SnapEvent *event,
                                  Error **errp)
{
    int ret = 0;

    *event = (SnapEvent) { };
    g_byte_array_remove_range(r->buffered, 0, r->consumed);
    r->consumed = 0;

    if (r->phase == PHASE_HEADER) {
        ret = reader_parse_header(r, errp);
        r->phase = PHASE_BEFORE_RAM;
    } else if (r->phase == PHASE_START_FOOTER || r->phase == PHASE_RAM_FOOTER) {
        ret = reader_finish_ram_section(r, errp);
    }
    while (!ret && reader_is_between_sections(r) && !event->type) {
        ret = reader_parse_section(r, event, errp);
    }
    if (!ret && !event->type) {
        ret = reader_parse_event(r, event, errp);
    }
    return ret;
}
