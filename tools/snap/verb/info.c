/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Description of a snapshot
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "migration/savevm.h"
#include "qapi/qobject-output-visitor.h"
#include "qobject/qdict.h"
#include "snap/stream/configuration.h"
#include "snap/stream/sections.h"
#include "snap/verb/info.h"
#include "tools/snap/qapi/snap-qapi-visit.h"

/* Limit on the sections that are listed */
#define INFO_MAX_SECTIONS 4096

/**
 * InfoSectionList: a list while it grows
 * @tail: where the next section goes
 * @nb: number of sections
 */
typedef struct InfoSectionList {
    SnapInfoSectionList **tail;
    unsigned nb;
} InfoSectionList;

static SnapInfoBlockList *info_blocks(const SnapImage *image)
{
    SnapInfoBlockList *list = NULL;
    SnapInfoBlockList **tail = &list;

    for (unsigned i = 0; i < image->ram.nb_blocks; i++) {
        const SnapRAMBlock *block = &image->ram.blocks[i];
        const SnapPageCounts *counts = &image->counts[i];
        SnapInfoBlock *info = g_new(SnapInfoBlock, 1);

        *info = (SnapInfoBlock) {
            .name = g_strdup(block->name),
            .size = block->length,
            .offset = image->layout.offsets[i],
            .page_size = block->page_size,
            .stored = counts->stored << image->ram.page_bits,
            .zero = counts->zero << image->ram.page_bits,
        };
        QAPI_LIST_APPEND(tail, info);
    }
    return list;
}

static SnapInfoSection *info_section(const SnapDeviceSection *section)
{
    SnapInfoSection *info = g_new(SnapInfoSection, 1);

    *info = (SnapInfoSection) {
        .name = g_strdup(section->head.name),
        .instance = section->head.instance,
        .version = section->head.version,
        .size = section->length,
    };
    return info;
}

static void info_add_sections(InfoSectionList *list, const uint8_t *data,
                              size_t size)
{
    SnapDeviceSection section;
    size_t length;

    while (size && list->nb < INFO_MAX_SECTIONS &&
           (length = snap_device_section_parse(data, size, &section))) {
        if (section.head.type == QEMU_VM_SECTION_FULL) {
            QAPI_LIST_APPEND(list->tail, info_section(&section));
            list->nb++;
        }
        data += length;
        size -= length;
    }
}

static bool coroutine_fn info_add_devices(SnapInfo *info, SnapImage *image,
                                          Error **errp)
{
    InfoSectionList list = { .tail = &info->devices };
    g_autoptr(GByteArray) setup = NULL;
    g_autoptr(GByteArray) devices = NULL;

    info->device_state_size = image->header.parts[SNAP_PART_DEVICES].length;
    if (info->device_state_size > SNAP_MAX_PART_IN_MEMORY) {
        /* The snapshot is complete, only its sections are not listed. */
        return true;
    }
    setup = snap_image_read_part(image, SNAP_PART_SETUP, errp);
    if (!setup) {
        return false;
    }
    devices = snap_image_read_part(image, SNAP_PART_DEVICES, errp);
    if (!devices) {
        return false;
    }
    info_add_sections(&list, setup->data, setup->len);
    info_add_sections(&list, devices->data, devices->len);
    info->run_state = snap_device_run_state(devices->data, devices->len);
    return true;
}

static bool coroutine_fn info_add_machine(SnapInfo *info, SnapImage *image,
                                          Error **errp)
{
    g_autoptr(GByteArray) configuration = NULL;

    configuration = snap_image_read_part(image, SNAP_PART_CONFIGURATION, errp);
    if (!configuration) {
        return false;
    }
    info->machine = snap_configuration_machine(configuration->data,
                                               configuration->len);
    return true;
}

static bool coroutine_fn info_add_working_set(SnapInfo *info, SnapImage *image,
                                              Error **errp)
{
    g_autoptr(GArray) pages = NULL;

    if (snap_image_working_set(image, &pages, errp) < 0) {
        return false;
    }
    info->working_set = pages ? pages->len : 0;
    return true;
}

static bool coroutine_fn info_add_metadata(SnapInfo *info, SnapImage *image,
                                           Error **errp)
{
    QDict *metadata = snap_image_metadata(image, errp);

    if (!metadata) {
        return false;
    }
    info->metadata = QOBJECT(metadata);
    return true;
}

static QObject *info_part(const SnapHeader *header, SnapPart part)
{
    SnapInfoPart info = {
        .offset = header->parts[part].offset,
        .length = header->parts[part].length,
    };
    SnapInfoPart *value = &info;
    QObject *object;
    Visitor *v = qobject_output_visitor_new(&object);

    visit_type_SnapInfoPart(v, NULL, &value, &error_abort);
    visit_complete(v, &object);
    visit_free(v);
    return object;
}

/* Names of parts have spaces, which those of members cannot have. */
static QObject *info_parts(const SnapHeader *header)
{
    QDict *parts = qdict_new();

    for (unsigned i = 0; i < SNAP_PART__MAX; i++) {
        if (header->parts[i].length) {
            qdict_put_obj(parts, snap_part_name(i), info_part(header, i));
        }
    }
    return QOBJECT(parts);
}

static SnapInfo *info_new(const SnapHeader *header)
{
    SnapInfo *info = g_new(SnapInfo, 1);

    *info = (SnapInfo) {
        .complete = true,
        .format_version = SNAP_VERSION,
        .incompatible_features = header->incompatible,
        .compatible_features = header->compatible,
        .uuid = qemu_uuid_unparse_strdup(&header->uuid),
        .created = header->created,
        .page_size = UINT64_C(1) << header->page_bits,
        .live = !(header->flags & SNAP_FLAG_RAM_END),
        .arrivals = header->nb_arrivals,
        .arrivals_truncated = header->flags & SNAP_FLAG_ARRIVALS_TRUNCATED,
        .parts = info_parts(header),
    };
    return info;
}

SnapInfo *coroutine_fn snap_info(SnapImage *image, Error **errp)
{
    g_autoptr(SnapInfo) info = info_new(&image->header);

    info->ram_blocks = info_blocks(image);
    if (!info_add_machine(info, image, errp) ||
        !info_add_devices(info, image, errp) ||
        !info_add_working_set(info, image, errp) ||
        !info_add_metadata(info, image, errp)) {
        return NULL;
    }
    return g_steal_pointer(&info);
}
