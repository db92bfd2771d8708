/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * JSON of types of the QAPI schema
 */

#ifndef SNAP_CMD_JSON_H
#define SNAP_CMD_JSON_H

#include "qapi/visitor.h"

/**
 * SnapJSON: a value that becomes JSON
 * @v: what has to visit the value, between begin and end
 * @object: private
 */
typedef struct SnapJSON {
    Visitor *v;
    QObject *object;
} SnapJSON;

void snap_json_begin(SnapJSON *json);

/* Returns: new text, with a newline at its end */
GString *snap_json_end(SnapJSON *json);

#endif /* SNAP_CMD_JSON_H */
