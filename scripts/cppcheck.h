/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For cppcheck, which does not read the headers of QEMU: "make analyze"
 */

#define coroutine_fn
#define GRAPH_RDLOCK
#define G_NORETURN __attribute__((noreturn))
#define QEMU_PACKED
#define typeof_field(type, field) void *
#define QTAILQ_HEAD(name, type) struct name { struct type *head; }
#define QTAILQ_ENTRY(type) struct { struct type *next; }
#define QSIMPLEQ_HEAD(name, type) struct name { struct type *head; }
#define QSIMPLEQ_ENTRY(type) struct { struct type *next; }
#define QTAILQ_FOREACH(var, list, field) \
    for (var = (list)->head; var; var = (var)->field.next)
#define QTAILQ_FOREACH_SAFE(var, list, field, following) \
    for (var = (list)->head; var && (following = (var)->field.next, 1); \
         var = following)
