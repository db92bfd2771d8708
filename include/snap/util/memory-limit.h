/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Living within a limit of the address space (RLIMIT_AS, "ulimit -v")
 */

#ifndef SNAP_UTIL_MEMORY_LIMIT_H
#define SNAP_UTIL_MEMORY_LIMIT_H

/**
 * snap_memory_limit_respect: use less address space if there is a limit
 *
 * What depends on the size of a guest is an error if it does not fit, but QEMU
 * aborts if there is no place for the stack of a thread or a coroutine.  So
 * there are few threads below a limit, and one that leaves no place for these
 * stacks is refused.
 *
 * Context: main loop, before an image is opened.
 *
 * Returns: false with @errp set
 */
bool snap_memory_limit_respect(Error **errp);

#endif /* SNAP_UTIL_MEMORY_LIMIT_H */
