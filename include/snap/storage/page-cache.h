/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The host's page cache
 */

#ifndef SNAP_STORAGE_PAGE_CACHE_H
#define SNAP_STORAGE_PAGE_CACHE_H

/**
 * snap_page_cache_has: whether most of a file is in the page cache
 * @path: of a regular file
 *
 * A guess, from a few samples, which reads nothing from storage.  False also
 * where it cannot be told.
 */
bool snap_page_cache_has(const char *path);

#endif /* SNAP_STORAGE_PAGE_CACHE_H */
