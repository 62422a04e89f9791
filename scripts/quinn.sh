#!/usr/bin/env bash
# What the tests with a foreign WebTransport peer need: a Python ≥ 3.12 with web-transport-quinn (Rust's quinn) in it.
#
#   scripts/quinn.sh              does nothing when it is there, so `make test` may call it every time
#
# It lies in .venv-peers/quinn. What cannot be had is named, and the tests that need it are skipped; where
# ECHOSTREAM_REQUIRE_PEERS is 1 or lists quinn, it is an error instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/pythons.sh

QUINN=0.1.0
folder=.venv-peers/quinn
stamp=$folder/.web-transport-quinn

missing() {
    echo "The tests with quinn will be skipped: $1" >&2
    case ",${ECHOSTREAM_REQUIRE_PEERS:-}," in *,1,* | *,quinn,*) exit 1 ;; esac
    exit 0
}

if [[ -x $folder/bin/python && -f $stamp && $(<"$stamp") == "$QUINN" ]]; then
    exit 0
fi

mkdir -p .venv-peers
# Two terminals may start at once.
if command -v flock >/dev/null; then
    exec 9>"$folder.lock"
    flock 9
    [[ ! -f $stamp || $(<"$stamp") != "$QUINN" ]] || exit 0
fi

python=
for version in 3.12 3.13 3.14; do
    python=$(find_python "$version") && break
done
[[ -n $python ]] || missing "there is no Python 3.12 or later"

rm -rf "$folder"
"$python" -m venv "$folder"
"$folder/bin/python" -m pip --disable-pip-version-check --no-input --quiet install --only-binary :all: \
    "web-transport-quinn==$QUINN" || missing "web-transport-quinn $QUINN cannot be installed here"
echo "$QUINN" >"$stamp"
