/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * JSON of types of the QAPI schema
 */

#include "qemu/osdep.h"
#include "qapi/qobject-output-visitor.h"
#include "qobject/qjson.h"
#include "qobject/qobject.h"
#include "json.h"

void snap_json_begin(SnapJSON *json)
{
    json->v = qobject_output_visitor_new(&json->object);
}

GString *snap_json_end(SnapJSON *json)
{
    GString *text;

    visit_complete(json->v, &json->object);
    visit_free(json->v);
    text = qobject_to_json_pretty(json->object, true);
    qobject_unref(json->object);
    return g_string_append_c(text, '\n');
}
