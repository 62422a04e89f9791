#!/usr/bin/env bash
# Cross every Python that the machine has, each with each, over every transport and codec of ours; and with PREVIOUS the
# kernel and plugins of that commit too. docs/interop.md tells what is tested, and shows the table of one such run.
#
#   PREVIOUS=v0.1.0 scripts/interop.sh [ARGUMENTS]     `make interop`; the arguments go to the matrix: --cases drain
#
# What it makes lies in INTEROP_DIR (build/interop); its virtual environments are those of `make test`, or lie in
# INTEROP_ENVIRONMENTS.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/pythons.sh

folder=${INTEROP_DIR:-build/interop}
environments=${INTEROP_ENVIRONMENTS:-.}
previous=${PREVIOUS:-}
plan=$folder/matrix.toml
rm -rf "$folder/tls" "$folder/previous" "$folder/kit" "$folder/logs"
mkdir -p "$folder/tls"

.venv/bin/python - "$folder/tls" <<'PYTHON'
import sys
from datetime import timedelta
from pathlib import Path

from echostream_certs import self_signed

certificate, key = self_signed(["localhost", "127.0.0.1"], validity=timedelta(days=7))
Path(sys.argv[1], "certificate.pem").write_bytes(certificate)
Path(sys.argv[1], "key.pem").write_bytes(key)
PYTHON

cat >"$plan" <<'TOML'
[matrix]
transports = ["tcp", "tls", "unix", "ws", "quic", "wt"]
codecs = ["msgpack", "cbor", "json"]
parallel = 2

[tls]
certificate = "{here}/tls/certificate.pem"
private_key = "{here}/tls/key.pem"
TOML

done_already=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
for version in 3.11 3.12 3.13; do
    if [[ $version == "$done_already" ]]; then
        python=.venv/bin/python
    elif found=$(find_python "$version"); then
        scripts/venv.sh "$environments/.venv-$version" "$found"
        python=$environments/.venv-$version/bin/python
    else
        echo "Python $version: not on this machine, left out."
        continue
    fi
    printf '\n[implementations."python-%s"]\ncommand = ["%s", "-m", "echostream_testkit.interop"]\n' \
        "$version" "$(realpath -s "$python")" >>"$plan"
done

if [[ -n $previous ]]; then
    # The cases and services of today, alone, on top of the kernel and the plugins of then.
    mkdir -p "$folder/previous" "$folder/kit/echostream_testkit"
    git archive "$previous" | tar x -C "$folder/previous"
    touch "$folder/kit/echostream_testkit/__init__.py"
    cp -R plugins/testkit/src/echostream_testkit/interop "$folder/kit/echostream_testkit/"
    path="{here}/kit:{here}/previous"
    for source in "$folder"/previous/plugins/*/src; do
        path+=":{here}/${source#"$folder"/}"
    done
    cat >>"$plan" <<TOML

[implementations.previous]
command = ["$PWD/.venv/bin/python", "-m", "echostream_testkit.interop"]
env = { PYTHONPATH = "$path" }
folder = "{here}/previous" # python -m looks into the folder where it is started first
version = "$(git describe --always --tags "$previous")"
TOML
fi

exec .venv/bin/python -m echostream_testkit.interop matrix "$plan" --logs "$folder/logs" \
    --json "$folder/matrix.json" --markdown "$folder/matrix.md" "$@"
