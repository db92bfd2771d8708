/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Creating an empty image
 */

#ifndef SNAP_STORAGE_CREATE_H
#define SNAP_STORAGE_CREATE_H

#include "qobject/qdict.h"

/**
 * snap_create_check_options: check that an image will be one file
 * @options: of its creation, flattened
 *
 * A second file could not be replaced together with the first one.
 *
 * Returns: false with @errp set if an option names or makes another one
 */
bool snap_create_check_options(const QDict *options, Error **errp);

/**
 * snap_create_image: make an empty image of a file
 * @path: an empty file that exists
 * @format: block driver
 * @options: creation options, as qemu-img -o; NULL for the defaults
 * @size: of the virtual disk, in bytes
 *
 * Without options, nothing waits for storage, and nothing of the image is
 * durable: block drivers flush a new image several times, while the source of a
 * save, and during a background snapshot its guest, waits to be read from.
 *
 * Context: main loop, outside coroutines.
 *
 * Returns: false with @errp set
 */
bool snap_create_image(const char *path, const char *format,
                       const char *options, uint64_t size, Error **errp);

#endif /* SNAP_STORAGE_CREATE_H */
