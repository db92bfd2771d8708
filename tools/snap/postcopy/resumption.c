/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a load by postcopy has to remember for the one that resumes it
 */

#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/coroutine.h"
#include "qemu/timer.h"
#include "snap/postcopy/load-record.h"
#include "snap/postcopy/resumption.h"

/* How often to look whether a connection has been accepted */
#define ACCEPT_POLL_NS (INT64_C(10) * SCALE_MS)

struct SnapResumption {
    /* constant */
    const char *dir;
    SnapTransport *transport;
    QemuUUID uuid;

    /* snap_resumption_check() */
    bool cancelled;
    QemuCoSleep sleep;

    /* the destination */
    SnapPeer peer;
    bool known;
    bool hidden;        /* it cannot be found */
    bool recorded;      /* it has a record that is right */
};

SnapResumption *snap_resumption_new(const char *dir, SnapTransport *transport,
                                    const QemuUUID *uuid)
{
    SnapResumption *r = g_new0(SnapResumption, 1);

    r->dir = dir;
    r->transport = transport;
    r->uuid = *uuid;
    return r;
}

void snap_resumption_free(SnapResumption *r)
{
    g_free(r);
}

static void resumption_store(SnapResumption *r, const SnapPeer *peer)
{
    r->peer = *peer;
    r->known = true;
    r->recorded = snap_load_record_store(r->dir, peer, &r->uuid, NULL);
}

void snap_resumption_prepare(SnapResumption *r)
{
    SnapPeer peer;

    if (snap_transport_find_peer(r->transport, false, &peer, NULL)) {
        resumption_store(r, &peer);
    } else {
        r->hidden = true;
    }
}

void snap_resumption_confirm(SnapResumption *r)
{
    SnapPeer peer;

    if (r->hidden) {
        return;
    }
    if (!snap_transport_find_peer(r->transport, true, &peer, NULL)) {
        /* It was another process, such as one that passes the stream on. */
        snap_resumption_end(r);
    } else if (!r->recorded || peer.pid != r->peer.pid) {
        snap_resumption_end(r);
        resumption_store(r, &peer);
    }
}

void snap_resumption_end(SnapResumption *r)
{
    if (r->known) {
        snap_load_record_remove(r->dir, &r->peer);
        r->recorded = false;
    }
}

/* @recorded: the snapshot that was being loaded, NULL if not known */
static bool resumption_check_uuid(const QemuUUID *uuid, const QemuUUID *wanted,
                                  const QemuUUID *recorded,
                                  const char *why_unknown, Error **errp)
{
    g_autofree char *ours = qemu_uuid_unparse_strdup(uuid);
    g_autofree char *other = NULL;

    if (recorded && !qemu_uuid_is_equal(recorded, uuid)) {
        other = qemu_uuid_unparse_strdup(recorded);
        error_setg(errp, "The load that broke off was of snapshot %s; this "
                   "image is snapshot %s", other, ours);
        return false;
    }
    if (!qemu_uuid_is_null(wanted) && !qemu_uuid_is_equal(wanted, uuid)) {
        other = qemu_uuid_unparse_strdup(wanted);
        error_setg(errp, "This image is snapshot %s, and not %s, which is to "
                   "be resumed", ours, other);
        return false;
    }
    if (!recorded && qemu_uuid_is_null(wanted)) {
        error_setg(errp, "Could not tell which snapshot the load that broke "
                   "off was of, because %s; if it was the one in this image, "
                   "use --resume=%s", why_unknown, ours);
        return false;
    }
    return true;
}

bool coroutine_fn snap_resumption_check(SnapResumption *r,
                                        const QemuUUID *wanted, Error **errp)
{
    Error *err = NULL;
    QemuUUID recorded;
    bool good;

    while (!r->cancelled && snap_transport_peer_awaited(r->transport)) {
        qemu_co_sleep_ns_wakeable(&r->sleep, QEMU_CLOCK_REALTIME,
                                  ACCEPT_POLL_NS);
    }
    if (r->cancelled) {
        error_setg(errp, "The load is cancelled");
        return false;
    }
    r->known = snap_transport_find_peer(r->transport, true, &r->peer, &err);
    r->recorded = r->known && snap_load_record_read(r->dir, &r->peer,
                                                    &recorded, &err);
    good = resumption_check_uuid(&r->uuid, wanted,
                                 r->recorded ? &recorded : NULL,
                                 err ? error_get_pretty(err) : NULL, errp);
    error_free(err);
    return good;
}

void snap_resumption_cancel(SnapResumption *r)
{
    r->cancelled = true;
    qemu_co_sleep_wake(&r->sleep);
}

bool snap_resumption_check_listener(const char *dir, const char *path,
                                    const QemuUUID *uuid,
                                    const QemuUUID *wanted, Error **errp)
{
    Error *err = NULL;
    QemuUUID recorded;
    SnapPeer peer;
    bool known, good;

    if (!snap_peer_find_listener(path, true, &peer, NULL)) {
        return true;
    }
    known = snap_load_record_read(dir, &peer, &recorded, &err);
    good = resumption_check_uuid(uuid, wanted, known ? &recorded : NULL,
                                 err ? error_get_pretty(err) : NULL, errp);
    error_free(err);
    return good;
}
