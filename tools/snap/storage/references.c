/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What images refer to, besides their own file
 */

#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qapi/error.h"
#include "block/block_int.h"
#include "qobject/qdict.h"
#include "snap/storage/references.h"

bool snap_references_given(const QDict *options)
{
    static const char *const names[] = { "backing", "data-file" };
    const QDictEntry *entry;

    for (entry = qdict_first(options); entry;
         entry = qdict_next(options, entry)) {
        for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
            const char *rest;

            if (strstart(qdict_entry_key(entry), names[i], &rest) &&
                (*rest == '\0' || *rest == '.')) {
                return true;
            }
        }
    }
    return false;
}

static void set_error(Error **errp, const char *kind, const char *name)
{
    g_autofree char *escaped = g_strescape(name, NULL);

    error_setg(errp, "The image refers to the %s '%s', which is followed only "
               "with --backing-chain", kind, escaped);
}

static bool GRAPH_RDLOCK node_refers(BlockDriverState *bs, Error **errp)
{
    g_autoptr(ImageInfoSpecific) info = NULL;

    if (bs->backing_file[0]) {
        set_error(errp, "backing file", bs->backing_file);
        return true;
    }
    info = bdrv_get_specific_info(bs, NULL);
    if (info && info->type == IMAGE_INFO_SPECIFIC_KIND_QCOW2 &&
        info->u.qcow2.data->data_file) {
        set_error(errp, "data file", info->u.qcow2.data->data_file);
        return true;
    }
    return false;
}

static bool GRAPH_RDLOCK graph_refers(BlockDriverState *bs, Error **errp)
{
    BdrvChild *child;

    if (node_refers(bs, errp)) {
        return true;
    }
    QLIST_FOREACH(child, &bs->children, next) {
        if (graph_refers(child->bs, errp)) {
            return true;
        }
    }
    return false;
}

bool snap_references_none(BlockBackend *blk, Error **errp)
{
    bool none;

    bdrv_graph_rdlock_main_loop();
    none = !graph_refers(blk_bs(blk), errp);
    bdrv_graph_rdunlock_main_loop();
    return none;
}

static bool GRAPH_RDLOCK graph_is_only(BlockDriverState *bs, const char *path,
                                       Error **errp)
{
    BdrvChild *child;

    if (QLIST_EMPTY(&bs->children) && strcmp(bs->filename, path)) {
        error_setg(errp, "The image that was created is more than one file, "
                   "which cannot be replaced as a whole: '%s' belongs to it",
                   bs->filename);
        return false;
    }
    QLIST_FOREACH(child, &bs->children, next) {
        if (!graph_is_only(child->bs, path, errp)) {
            return false;
        }
    }
    return true;
}

bool snap_references_only(BlockBackend *blk, const char *path, Error **errp)
{
    bool only;

    bdrv_graph_rdlock_main_loop();
    only = graph_is_only(blk_bs(blk), path, errp);
    bdrv_graph_rdunlock_main_loop();
    return only;
}

static void GRAPH_RDLOCK add_files(BlockDriverState *bs, GPtrArray *names)
{
    BdrvChild *child;

    if (QLIST_EMPTY(&bs->children)) {
        g_ptr_array_add(names, g_strdup(bs->filename));
    }
    QLIST_FOREACH(child, &bs->children, next) {
        add_files(child->bs, names);
    }
}

char **snap_references_files(BlockBackend *blk)
{
    GPtrArray *names = g_ptr_array_new();

    bdrv_graph_rdlock_main_loop();
    add_files(blk_bs(blk), names);
    bdrv_graph_rdunlock_main_loop();
    g_ptr_array_add(names, NULL);
    return (char **)g_ptr_array_free(names, FALSE);
}
