#!/usr/bin/env bash
# What the tests with a real browser need: Chromium, Node, and playwright-core, which drives the one from the other.
#
#   scripts/browser.sh            does nothing when all of it is there, so `make test` may call it every time
#
# Chromium and Node come from the system (on Debian and Ubuntu by apt, where we are root), playwright-core lies in
# .venv-peers/node. What cannot be had is named, and the tests that need it are skipped; where ECHOSTREAM_REQUIRE_PEERS
# is 1 or lists browser, it is an error instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PLAYWRIGHT=1.65.1
folder=.venv-peers/node
stamp=$folder/.playwright-core

missing() {
    echo "The tests with a real browser will be skipped: $1" >&2
    case ",${ECHOSTREAM_REQUIRE_PEERS:-}," in *,1,* | *,browser,*) exit 1 ;; esac
    exit 0
}

has_chromium() { command -v chromium || command -v chromium-browser || command -v google-chrome; }
node_serves() { command -v node && command -v npm && [[ $(node -p 'parseInt(process.versions.node) >= 18') == true ]]; }
drives() { [[ -f $stamp && $(<"$stamp") == "$PLAYWRIGHT" ]]; }

if has_chromium && node_serves && drives; then
    exit 0
fi >/dev/null

mkdir -p "$folder"
# Two terminals may start at once.
if command -v flock >/dev/null; then
    exec 9>"$folder.lock"
    flock 9
fi

packages=()
has_chromium >/dev/null || packages+=(chromium)
node_serves >/dev/null || packages+=(nodejs npm)
if ((${#packages[@]})); then
    command -v apt-get >/dev/null && [[ $(id -u) == 0 ]] ||
        missing "install ${packages[*]} (Debian: sudo apt-get install ${packages[*]}), Node 18 or later."
    echo "Installing ${packages[*]}."
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq; apt-get -o DPkg::Lock::Timeout=120 install -y -qq --no-install-recommends "${packages[@]}"; } >/dev/null ||
        missing "apt-get could not install ${packages[*]}."
    node_serves >/dev/null || missing "Node 18 or later is needed, not $(node --version || echo none)."
fi

if ! drives; then
    echo "Installing playwright-core $PLAYWRIGHT into $folder."
    # The browser is the system's; nothing of a package is run on installing it; no lock file names a registry.
    PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 npm install --prefix "$folder" --no-save --no-package-lock --ignore-scripts \
        --no-audit --no-fund --loglevel=error "playwright-core@$PLAYWRIGHT" >/dev/null ||
        missing "npm could not install playwright-core $PLAYWRIGHT."
    echo "$PLAYWRIGHT" >"$stamp"
fi
