#!/usr/bin/env bash
# The independent programs that the tests run ours against: Chromium, Autobahn, nginx, Node, quinn, avahi.
#
#   scripts/peers.sh              does nothing when all of them are there, so `make test` calls it every time
#
# What cannot be had is named, and the tests that need it are skipped; where ECHOSTREAM_REQUIRE_PEERS is 1, or lists some
# of browser, autobahn, nginx, node, quinn, avahi, the absence of these is an error instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for script in browser ws-peers quinn avahi; do
    "scripts/$script.sh"
done
