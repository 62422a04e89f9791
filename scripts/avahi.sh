#!/usr/bin/env bash
# What the tests of mDNS against avahi need: avahi's daemon and tools, a D-Bus of their own, and iproute2's namespaces.
#
#   scripts/avahi.sh              does nothing when all of it is there, so `make test` may call it every time
#
# On Debian and Ubuntu by apt, where we are root. What cannot be had is named, and the tests that need it are skipped;
# where ECHOSTREAM_REQUIRE_PEERS is 1 or lists avahi, it is an error instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

missing() {
    echo "The tests against avahi will be skipped: $1" >&2
    case ",${ECHOSTREAM_REQUIRE_PEERS:-}," in *,1,* | *,avahi,*) exit 1 ;; esac
    exit 0
}

[[ $(uname) == Linux ]] || missing "network namespaces are a feature of Linux."
declare -A package=([avahi-daemon]=avahi-daemon [avahi-browse]=avahi-utils [avahi-publish]=avahi-utils [dbus-daemon]=dbus-daemon [ip]=iproute2 [unshare]=util-linux)
packages=()
for program in "${!package[@]}"; do
    command -v "$program" >/dev/null || [[ -x /usr/sbin/$program ]] || packages+=("${package[$program]}")
done
((${#packages[@]})) || exit 0
mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)

command -v apt-get >/dev/null && [[ $(id -u) == 0 ]] ||
    missing "install ${packages[*]} (Debian: sudo apt-get install ${packages[*]})."
echo "Installing ${packages[*]}."
export DEBIAN_FRONTEND=noninteractive
# Debian starts what it installs; this one is only to be there, and a machine where services may not start is no obstacle.
{ apt-get update -qq; apt-get -o DPkg::Lock::Timeout=120 install -y -qq --no-install-recommends "${packages[@]}"; } >/dev/null 2>&1 ||
    missing "apt-get could not install ${packages[*]}."
