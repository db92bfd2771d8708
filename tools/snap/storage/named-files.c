/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The files that a command line names, each for a purpose
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "snap/storage/named-files.h"

/* Symbolic links in a row that are followed */
#define MAX_LINKS 40

/**
 * NamedFile: one of them
 * @name: for messages
 * @stream: a standard stream, which several may write to
 * @known: the rest says which file it is
 * @dev, @ino: of the file; of its directory if it does not exist
 * @base: its name in the directory; NULL if it exists
 */
typedef struct NamedFile {
    SnapNamedUse use;
    char *name;
    bool stream;
    bool known;
    dev_t dev;
    ino_t ino;
    char *base;
} NamedFile;

struct SnapNamedFiles {
    GPtrArray *files;
};

static void named_file_free(gpointer opaque)
{
    NamedFile *file = opaque;

    g_free(file->name);
    g_free(file->base);
    g_free(file);
}

SnapNamedFiles *snap_named_files_new(void)
{
    SnapNamedFiles *files = g_new0(SnapNamedFiles, 1);

    files->files = g_ptr_array_new_with_free_func(named_file_free);
    return files;
}

void snap_named_files_free(SnapNamedFiles *files)
{
    g_ptr_array_unref(files->files);
    g_free(files);
}

/* The path where a file would be created, after following links */
static char *follow_links(const char *path)
{
    char *at = g_strdup(path);

    for (int i = 0; i < MAX_LINKS; i++) {
        g_autofree char *target = g_file_read_link(at, NULL);
        g_autofree char *dir = g_path_get_dirname(at);

        if (!target) {
            break;
        }
        g_free(at);
        at = g_path_is_absolute(target) ? g_steal_pointer(&target) :
                                          g_build_filename(dir, target, NULL);
    }
    return at;
}

static void named_file_identify_new(NamedFile *file, const char *path)
{
    g_autofree char *real = follow_links(path);
    g_autofree char *dir = g_path_get_dirname(real);
    struct stat st;

    if (stat(dir, &st) == 0) {
        file->known = true;
        file->dev = st.st_dev;
        file->ino = st.st_ino;
        file->base = g_path_get_basename(real);
    }
}

static void named_file_identify(NamedFile *file, const char *path)
{
    struct stat st;

    if ((file->use == SNAP_NAMED_TEMPORARY ? lstat(path, &st) :
                                             stat(path, &st)) < 0) {
        named_file_identify_new(file, path);
    } else if (S_ISBLK(st.st_mode)) {
        file->known = true;
        file->dev = st.st_rdev;
    } else if (S_ISREG(st.st_mode) || S_ISSOCK(st.st_mode)) {
        file->known = true;
        file->dev = st.st_dev;
        file->ino = st.st_ino;
    }
}

static bool names_stream(const char *path)
{
    return !strcmp(path, "/dev/stdout") || !strcmp(path, "/dev/stderr") ||
           g_str_has_prefix(path, "/dev/fd/") ||
           g_str_has_prefix(path, "/proc/self/fd/");
}

void snap_named_files_add(SnapNamedFiles *files, SnapNamedUse use,
                          const char *path, const char *name)
{
    NamedFile *file = g_new0(NamedFile, 1);

    file->use = use;
    file->name = g_strdup(name);
    file->stream = names_stream(path);
    named_file_identify(file, path);
    g_ptr_array_add(files->files, file);
}

static bool is_image(const NamedFile *file)
{
    return file->use == SNAP_NAMED_IMAGE ||
           file->use == SNAP_NAMED_IMAGE_WRITTEN;
}

static bool is_image_or_temporary(const NamedFile *file)
{
    return is_image(file) || file->use == SNAP_NAMED_TEMPORARY;
}

static bool is_written(const NamedFile *file)
{
    return file->use != SNAP_NAMED_IMAGE && file->use != SNAP_NAMED_READ;
}

static bool same_file(const NamedFile *a, const NamedFile *b)
{
    return a->known && b->known && a->dev == b->dev && a->ino == b->ino &&
           !g_strcmp0(a->base, b->base);
}

/* Whether the two must not be the same file. */
static bool exclude_each_other(const NamedFile *a, const NamedFile *b)
{
    return (is_written(a) || is_written(b)) &&
           !(is_image_or_temporary(a) && is_image_or_temporary(b)) &&
           !(a->stream && b->stream);
}

bool snap_named_files_check(const SnapNamedFiles *files, Error **errp)
{
    for (unsigned i = 0; i < files->files->len; i++) {
        const NamedFile *a = g_ptr_array_index(files->files, i);

        for (unsigned k = i + 1; k < files->files->len; k++) {
            const NamedFile *b = g_ptr_array_index(files->files, k);

            if (!exclude_each_other(a, b) || !same_file(a, b)) {
                continue;
            }
            if (is_image(a) || is_image(b)) {
                error_setg(errp, "%s is the image itself; choose another file",
                           is_image(a) ? b->name : a->name);
            } else {
                error_setg(errp, "%s and %s are the same file; choose another "
                           "one", a->name, b->name);
            }
            return false;
        }
    }
    return true;
}
