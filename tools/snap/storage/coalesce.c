/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * From pages to requests: which parts of a buffer to write
 */

#include "qemu/osdep.h"
#include "qemu/bitmap.h"
#include "snap/storage/coalesce.h"

/* Whether any page of the unit that @page belongs to is present. */
static bool unit_touched(const unsigned long *present, unsigned nb_pages,
                         unsigned page, unsigned fill)
{
    unsigned first = QEMU_ALIGN_DOWN(page, fill);
    unsigned end = MIN(first + fill, nb_pages);

    return find_next_bit(present, end, first) < end;
}

unsigned snap_coalesce(const unsigned long *present,
                       const unsigned long *stored, unsigned nb_pages,
                       unsigned fill, SnapExtent *extents)
{
    unsigned nb_extents = 0;
    bool extending = false;

    for (unsigned page = 0; page < nb_pages; page++) {
        bool wanted = test_bit(page, present) ||
                      (!test_bit(page, stored) &&
                       unit_touched(present, nb_pages, page, fill));

        if (wanted && extending) {
            extents[nb_extents - 1].count++;
        } else if (wanted) {
            extents[nb_extents++] = (SnapExtent) { .first = page, .count = 1 };
        }
        extending = wanted;
    }
    return nb_extents;
}
