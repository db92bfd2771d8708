/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The host pages of a destination
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/cutils.h"
#include "qemu/host-utils.h"
#include "snap/ram/host-pages.h"
#include "snap/trace.h"

static int host_pages_largest_block(const SnapRAMBlocks *ram)
{
    int largest = 0;

    for (int i = 1; i < ram->nb_blocks; i++) {
        if (ram->blocks[i].length > ram->blocks[largest].length) {
            largest = i;
        }
    }
    return largest;
}

static bool host_pages_check_size(const SnapHostPages *pages, int index,
                                  uint64_t size, Error **errp)
{
    const SnapRAMBlock *block = &pages->ram->blocks[index];

    if (!is_power_of_2(size) || ctz64(size) < pages->default_bits ||
        ctz64(size) > SNAP_MAX_HOST_PAGE_BITS || block->length & (size - 1)) {
        error_setg(errp, "RAM block '%s' cannot have host pages of %" PRIu64
                   " bytes", block->name, size);
        return false;
    }
    trace_snap_host_pages(block->name, size);
    return true;
}

/* Take "[BLOCK=]SIZE" into @sizes. */
static bool host_pages_parse_option(const SnapHostPages *pages,
                                    const char *option, uint64_t *sizes,
                                    Error **errp)
{
    const char *equals = strrchr(option, '=');
    g_autofree char *name = NULL;
    int index = host_pages_largest_block(pages->ram);

    if (equals) {
        name = g_strndup(option, equals - option);
        index = snap_ram_blocks_find(pages->ram, name, 0);
    }
    if (index < 0) {
        error_setg(errp, "The snapshot has no RAM block '%s'", name);
        return false;
    }
    if (qemu_strtosz(equals ? equals + 1 : option, NULL,
                     &sizes[index]) < 0) {
        error_setg(errp, "Invalid host page size '%s'", option);
        return false;
    }
    return true;
}

bool snap_host_pages_init(SnapHostPages *pages, const SnapRAMBlocks *ram,
                          char *const *options, Error **errp)
{
    g_autofree uint64_t *sizes = g_new(uint64_t, ram->nb_blocks);

    *pages = (SnapHostPages) {
        .ram = ram,
        .bits = g_new(unsigned, ram->nb_blocks),
        .default_bits = MAX(ctz64(qemu_real_host_page_size()),
                            ram->page_bits),
    };
    for (int i = 0; i < ram->nb_blocks; i++) {
        sizes[i] = ram->blocks[i].page_size ?:
                   UINT64_C(1) << pages->default_bits;
    }
    for (; options && *options; options++) {
        if (!host_pages_parse_option(pages, *options, sizes, errp)) {
            goto fail;
        }
    }
    for (int i = 0; i < ram->nb_blocks; i++) {
        if (!host_pages_check_size(pages, i, sizes[i], errp)) {
            goto fail;
        }
        pages->bits[i] = ctz64(sizes[i]);
    }
    return true;

fail:
    snap_host_pages_destroy(pages);
    return false;
}

void snap_host_pages_destroy(SnapHostPages *pages)
{
    g_clear_pointer(&pages->bits, g_free);
}

uint64_t snap_host_pages_summary(const SnapHostPages *pages)
{
    uint64_t summary = 0;

    for (int i = 0; i < pages->ram->nb_blocks; i++) {
        summary |= snap_host_pages_size(pages, i);
    }
    return summary;
}
