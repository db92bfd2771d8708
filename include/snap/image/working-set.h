/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Pages that a guest uses first after a revert, in the order of their use
 *
 * A record of one load for the next one.  It is bound to its snapshot by the
 * UUID, and checks itself.  docs/interop/snapshot-image.rst is the
 * specification.
 */

#ifndef SNAP_IMAGE_WORKING_SET_H
#define SNAP_IMAGE_WORKING_SET_H

#include "snap/image/format.h"

/**
 * snap_working_set_encode: bytes of a file, or of an image's part
 * @pages: array of uint64_t page numbers, SNAP_MAX_WORKING_SET at most
 * @uuid: of the snapshot
 */
GByteArray *snap_working_set_encode(const GArray *pages, const QemuUUID *uuid);

/**
 * snap_working_set_decode: check and read a working set
 * @header: of the snapshot that it has to belong to
 *
 * Returns: array of uint64_t page numbers, all in RAM; NULL with @errp set
 */
GArray *snap_working_set_decode(const uint8_t *data, size_t length,
                                const SnapHeader *header, Error **errp);

/**
 * snap_working_set_load: read one from a file
 * @pages: filled in with what snap_working_set_decode() returns, if 1 is
 *         returned
 *
 * Returns: 1; 0 if there is no such file; -errno with @errp set
 */
int snap_working_set_load(const char *path, const SnapHeader *header,
                          GArray **pages, Error **errp);

/**
 * snap_working_set_store: write one to a file, which is replaced as a whole
 *
 * Returns: false with @errp set
 */
bool snap_working_set_store(const char *path, const GArray *pages,
                            const QemuUUID *uuid, Error **errp);

#endif /* SNAP_IMAGE_WORKING_SET_H */
