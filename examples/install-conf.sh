#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Run by "meson install": install-conf.sh FILE DIRECTORY [FILE DIRECTORY]...
# A configuration that is there, even as a dangling link, belongs to the administrator: it is kept. The
# file of this version, with every key and its default, is then under share/doc/virtlease.
set -eu

while [ $# -ge 2 ]; do
    target="${DESTDIR:-}$2/$(basename "$1")"
    if [ -e "$target" ] || [ -L "$target" ]; then
        echo "Keeping $target"
    else
        echo "Installing $1 to ${DESTDIR:-}$2"
        mkdir -p "${DESTDIR:-}$2"
        cp "$1" "$target"
        chmod 0644 "$target"
    fi
    shift 2
done
