/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What there is to know of a snapshot image
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "migration/savevm.h"
#include "qobject/qdict.h"
#include "qobject/qlist.h"
#include "snap/stream/configuration.h"
#include "snap/stream/device-sections.h"
#include "snap/verb/info.h"

/* Sections that are listed. */
#define MAX_SECTIONS 4096

static QList *describe_blocks(const SnapLayout *layout)
{
    QList *list = qlist_new();

    for (unsigned i = 0; i < layout->nb_blocks; i++) {
        const SnapRAMBlock *block = &layout->blocks[i];
        QDict *dict = qdict_new();

        qdict_put_str(dict, "name", block->name);
        qdict_put_int(dict, "size", block->length);
        qdict_put_int(dict, "offset", block->offset);
        qdict_put_int(dict, "page-size", block->page_size);
        qdict_put_int(dict, "stored", block->stored_pages << layout->page_bits);
        qdict_put_int(dict, "zero", block->zero_pages << layout->page_bits);
        qlist_append(list, dict);
    }
    return list;
}

static void add_sections(QList *list, const uint8_t *data, size_t size)
{
    SnapDeviceSection section;
    size_t nb_listed = qlist_size(list);
    size_t length;

    while (size && nb_listed < MAX_SECTIONS &&
           (length = snap_device_section_parse(data, size, &section))) {
        if (section.type == QEMU_VM_SECTION_FULL) {
            QDict *dict = qdict_new();

            qdict_put_str(dict, "name", section.name);
            qdict_put_int(dict, "instance", section.instance);
            qdict_put_int(dict, "version", section.version);
            qdict_put_int(dict, "size", section.length);
            qlist_append(list, dict);
            nb_listed++;
        }
        data += length;
        size -= length;
    }
}

static bool coroutine_fn describe_devices(SnapImage *image, QDict *info,
                                          Error **errp)
{
    g_autoptr(GByteArray) setup = NULL;
    g_autoptr(GByteArray) devices = NULL;
    g_autofree char *run_state = NULL;
    uint64_t length = image->header.parts[SNAP_PART_DEVICES].length;
    QList *list;

    qdict_put_int(info, "device-state-size", length);
    if (length > SNAP_MAX_PART_IN_MEMORY) {
        /* The snapshot is complete, its sections are just not listed. */
        qdict_put(info, "devices", qlist_new());
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
    list = qlist_new();
    qdict_put(info, "devices", list);
    add_sections(list, setup->data, setup->len);
    add_sections(list, devices->data, devices->len);
    run_state = snap_device_run_state(devices->data, devices->len);
    if (run_state) {
        qdict_put_str(info, "run-state", run_state);
    }
    return true;
}

static bool coroutine_fn describe_machine(SnapImage *image, QDict *info,
                                          Error **errp)
{
    g_autoptr(GByteArray) configuration = NULL;
    g_autofree char *machine = NULL;

    configuration = snap_image_read_part(image, SNAP_PART_CONFIGURATION, errp);
    if (!configuration) {
        return false;
    }
    machine = snap_configuration_machine(configuration->data,
                                         configuration->len);
    if (machine) {
        qdict_put_str(info, "machine", machine);
    }
    return true;
}

/* The pages of a working set; null where it is damaged, which does no harm. */
static bool coroutine_fn describe_working_set(SnapImage *image, QDict *info,
                                              Error **errp)
{
    g_autoptr(GArray) pages = NULL;

    if (snap_image_working_set(image, &pages, errp) < 0) {
        return false;
    }
    qdict_put_int(info, "working-set", pages ? pages->len : 0);
    return true;
}

static void describe_parts(const SnapHeader *header, QDict *info)
{
    QDict *parts = qdict_new();

    for (unsigned i = 0; i < SNAP_PART__MAX; i++) {
        if (header->parts[i].length) {
            QDict *part = qdict_new();

            qdict_put_int(part, "offset", header->parts[i].offset);
            qdict_put_int(part, "length", header->parts[i].length);
            qdict_put(parts, snap_part_name(i), part);
        }
    }
    qdict_put(info, "parts", parts);
}

static void describe_header(const SnapHeader *header, QDict *info)
{
    g_autofree char *uuid = qemu_uuid_unparse_strdup(&header->uuid);

    qdict_put_bool(info, "complete", true);
    qdict_put_int(info, "format-version", SNAP_VERSION);
    qdict_put_int(info, "incompatible-features", header->incompatible);
    qdict_put_int(info, "compatible-features", header->compatible);
    qdict_put_str(info, "uuid", uuid);
    qdict_put_int(info, "created", header->created);
    qdict_put_int(info, "page-size", UINT64_C(1) << header->page_bits);
    qdict_put_bool(info, "live", !(header->flags & SNAP_FLAG_RAM_END));
    qdict_put_int(info, "arrivals", header->nb_arrivals);
    qdict_put_bool(info, "arrivals-truncated",
                   header->flags & SNAP_FLAG_ARRIVALS_TRUNCATED);
}

QDict *coroutine_fn snap_info(SnapImage *image, Error **errp)
{
    g_autoptr(QDict) info = qdict_new();
    QDict *metadata;

    describe_header(&image->header, info);
    if (!describe_machine(image, info, errp)) {
        return NULL;
    }
    qdict_put(info, "ram-blocks", describe_blocks(&image->layout));
    if (!describe_devices(image, info, errp)) {
        return NULL;
    }
    describe_parts(&image->header, info);
    if (!describe_working_set(image, info, errp)) {
        return NULL;
    }
    metadata = snap_image_metadata(image, errp);
    if (!metadata) {
        return NULL;
    }
    qdict_put(info, "metadata", metadata);
    return g_steal_pointer(&info);
}
