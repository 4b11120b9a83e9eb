# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the storage and a host's virtleased say about leases."""

import json

import rados

XATTR = "virtlease"


def stored(cluster, image):
    """The lease record as it is stored with the image: a dict, or None."""
    context, name = cluster.images.header(image)
    try:
        return json.loads(context.get_xattr(name, XATTR))
    except (rados.NoData, rados.ObjectNotFound):
        return None


def holder(cluster, image):
    """The one holder in the record, or None."""
    record = stored(cluster, image)
    if not record or not record["holders"]:
        return None
    assert len(record["holders"]) == 1, record
    return record["holders"][0]


def listed(host, guest=None):
    """virtleasectl list: the leases of that host, or those of one VM on it."""
    return [lease for lease in host.ctl("list")["leases"] if guest is None or lease["vm"] == guest.name]


def states(host, guest):
    """States of the leases of one VM on that host."""
    return [lease["state"] for lease in listed(host, guest)]


def log_of(host):
    """virtleased's log, all its lives on this machine."""
    return host.virtleased.log.read_text(errors="replace") if host.virtleased.log.exists() else ""
