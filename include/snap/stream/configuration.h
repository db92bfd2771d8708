/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The head of a migration stream: magic, version, configuration section
 *
 * An image stores it as it came, and a load sends it like that.
 */

#ifndef SNAP_STREAM_CONFIGURATION_H
#define SNAP_STREAM_CONFIGURATION_H

/**
 * snap_configuration_machine: get the machine type
 * @data: the head of a stream, from its first byte on
 * @length: in bytes
 *
 * Returns: newly allocated name; NULL if the stream has no configuration
 * section (machine property send-configuration)
 */
char *snap_configuration_machine(const uint8_t *data, size_t length);

#endif /* SNAP_STREAM_CONFIGURATION_H */
