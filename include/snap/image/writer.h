/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writing a snapshot image, except the pages themselves
 *
 * Order: snap_image_writer_new(), any number of device state pieces,
 * snap_image_writer_finish(), snap_image_writer_vmdesc().  Until the commit
 * the image has no valid header.
 */

#ifndef SNAP_IMAGE_WRITER_H
#define SNAP_IMAGE_WRITER_H

#include "system/block-backend.h"
#include "qobject/qdict.h"
#include "snap/image/format.h"
#include "snap/image/table.h"

typedef struct SnapImageWriter SnapImageWriter;

/**
 * snap_image_writer_size: size of the virtual disk that a snapshot needs
 * @layout: where its RAM lies
 *
 * With room for SNAP_DEVICE_RESERVE bytes of device state and description.
 *
 * Returns: bytes
 */
uint64_t snap_image_writer_size(const SnapLayout *layout);

/**
 * snap_image_writer_new: start an image
 * @blk: open for writing, at least snap_image_writer_size() bytes, not owned
 * @layout: where RAM lies, not owned
 * @section: identity of the RAM section, not owned; taken at the commit
 */
SnapImageWriter *snap_image_writer_new(BlockBackend *blk,
                                       const SnapLayout *layout,
                                       const SnapRAMSection *section);

/* What brings to stable storage what the disk was flushed to: 0 or -errno */
typedef int coroutine_fn SnapSyncFunc(void *opaque);

/* Let @func follow each flush of the disk. */
void snap_image_writer_set_sync(SnapImageWriter *writer, SnapSyncFunc *func,
                                void *opaque);
void snap_image_writer_free(SnapImageWriter *writer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(SnapImageWriter, snap_image_writer_free)

/* UUID of the snapshot, which is a new one. */
const QemuUUID *snap_image_writer_uuid(const SnapImageWriter *writer);

/* The tables, owned by the writer. */
SnapTable *snap_image_writer_page_table(SnapImageWriter *writer);
SnapTable *snap_image_writer_arrivals(SnapImageWriter *writer);

/**
 * snap_image_writer_invalidate: make sure that there is no valid header
 *
 * Durable when it returns.  The image is claimed for this snapshot: if another
 * save claims it later, which locks should prevent but not all storage has,
 * all that would change the header or rely on it fails with -EBUSY.  A new
 * image, which nobody else can reach, needs no claim.
 *
 * Returns: 0 or -errno with @errp set
 */
int coroutine_fn snap_image_writer_invalidate(SnapImageWriter *writer,
                                              Error **errp);

/**
 * snap_image_writer_flush_ram: bring RAM's tables, and all that was written
 * to @blk before, to stable storage
 * @nb_arrivals: entries of the arrival list
 *
 * Returns: 0 or -errno with @errp set
 */
int coroutine_fn snap_image_writer_flush_ram(SnapImageWriter *writer,
                                             uint64_t nb_arrivals,
                                             Error **errp);

/**
 * snap_image_writer_devices: append to the device state
 *
 * Returns: 0 or -errno with @errp set
 */
int coroutine_fn snap_image_writer_devices(SnapImageWriter *writer,
                                           const void *data, size_t length,
                                           Error **errp);

/**
 * SnapCommitInfo: what else goes into an image
 * @counts: what there is of each RAM block: see snap_ram_writer_counts()
 * @configuration: header and configuration section of the stream
 * @setup: sections that come before RAM's pages
 * @before_ram: how many bytes of them come before RAM's START section
 * @metadata: the metadata record
 * @flags: SNAP_FLAG_*
 * @vmdesc_length: bytes of description that will follow, 0 for none
 */
typedef struct SnapCommitInfo {
    const SnapPageCounts *counts;
    const GByteArray *configuration;
    const GByteArray *setup;
    size_t before_ram;
    const QDict *metadata;
    uint32_t flags;
    size_t vmdesc_length;
} SnapCommitInfo;

/**
 * snap_image_writer_finish: write everything else, and the header last
 *
 * On success the snapshot is complete and on stable storage, but counts only
 * under its name: see snap_image_builder_commit().  Device state may still be
 * appended afterwards (after snap_image_writer_invalidate()), and committed
 * again.
 *
 * Returns: 0 or -errno with @errp set
 */
int coroutine_fn snap_image_writer_finish(SnapImageWriter *writer,
                                          const SnapCommitInfo *info,
                                          Error **errp);

/**
 * snap_image_writer_vmdesc: write the description announced at the commit
 *
 * It carries its own checksum, and the snapshot is complete without it: so it
 * is not flushed.
 *
 * Returns: 0 or -errno with @errp set
 */
int coroutine_fn snap_image_writer_vmdesc(SnapImageWriter *writer,
                                          const void *data, size_t length,
                                          Error **errp);

#endif /* SNAP_IMAGE_WRITER_H */
