# SPDX-License-Identifier: LGPL-2.1-or-later
# Sourced by tests/run and examples/quickstart: what both need on a fresh Debian machine.

PACKAGES="gcc clang pkg-config meson ninja-build libglib2.0-dev libjson-glib-dev libxml2-dev libsystemd-dev
libvirt-dev librados-dev librbd-dev libsanlock-dev libclang-rt-14-dev
libvirt-daemon libvirt-daemon-system libvirt-clients libvirt-daemon-driver-qemu libvirt-sanlock sanlock
ceph-mon ceph-osd ceph-common qemu-system-x86 qemu-block-extra qemu-utils
binutils iproute2 procps util-linux mount e2fsprogs bindfs tini faketime locales
python3 python3-pytest python3-pytest-timeout python3-pytest-xdist python3-libvirt python3-rados python3-rbd"

say() {
    printf '\n== %s\n' "$*"
}

need_root() {
    if [ "$(id -u)" != 0 ]; then
        echo "$0: must be run as root: it installs packages and makes network namespaces and virtual machines" >&2
        exit 1
    fi
}

# Nothing that is installed is touched; services that packages would start on this machine are kept from starting.
install_packages() {
    local missing="" package
    for package in $PACKAGES; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    say "installing:$missing"
    local policy=/usr/sbin/policy-rc.d made=""
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
        made=1
    fi
    local status=0
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing; } </dev/null || status=$?
    [ -z "$made" ] || rm -f $policy
    return $status
}

# configure DIR OPTION...: a build directory with just these options, made anew when it was another's.
configure() {
    local dir=$1
    shift
    if [ -f "$dir/build.ninja" ]; then
        meson setup --reconfigure "$dir" "$@" >"$dir.log" 2>&1 || { rm -rf "$dir" && meson setup "$dir" "$@" >"$dir.log" 2>&1; }
    else
        meson setup "$dir" "$@" >"$dir.log" 2>&1
    fi || { cat "$dir.log"; return 1; }
}
