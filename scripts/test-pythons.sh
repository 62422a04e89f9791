#!/usr/bin/env bash
# Run on every other Python among 3.11, 3.12 and 3.13 that the machine has what may go otherwise there; arguments go to
# pytest. That is whatever meets asyncio, ssl, sockets, processes, the garbage collector or a library that is built for one
# Python: the engine, sessions over transports that have code of their own, and the conformance suite of every plugin. What
# only computes, or runs in simulated time, has been tested once, on the first one, and so have documents, packaging,
# unplugging, the command line and the test kit. A Python between two that are tested gets the engine and its sessions:
# what is neither of the older one nor of the newer one can hardly be its own.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/pythons.sh

done_already=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
passed=("$done_already")
failed=()
parts=(tests/unit/engine)
for name in calls streams events datagrams drain; do
    parts+=("tests/e2e/test_$name.py")
done
between=("${parts[@]}")
parts+=(tests/conformance/test_transports.py)
for name in cancel_at_each_await chaos_on_the_network compressed_nonsense deaf_peers killed_process large_messages many \
    strangers stubborn_handlers unread_streams; do
    parts+=("tests/anomalies/test_$name.py")
done
parts+=(plugins/tcp plugins/quic plugins/compression_zstd plugins/rooms/tests/test_over_transports.py)
for suite in plugins/*/tests/test_conformance.py; do
    case $suite in
        plugins/tcp/* | plugins/quic/*) ;; # with their other tests
        plugins/sim/*) ;;                  # simulated time
        *) parts+=("$suite") ;;
    esac
done
parts+=(--ignore=plugins/quic/tests/test_engine.py) # both ends in memory, and the loss and the clock are ours
export ECHOSTREAM_TEST_LOOPS="asyncio virtual" # uvloop is the same library everywhere
export ECHOSTREAM_TEST_TRANSPORTS="memory tcp tls quic" # ssl is another one; the other wrappers have their suites
for version in 3.11 3.12 3.13; do
    [[ $version != "$done_already" ]] || continue
    if ! python=$(find_python "$version"); then
        echo "Python $version: not on this machine, left out."
        continue
    fi
    scripts/venv.sh ".venv-$version" "$python"
    chosen=("${parts[@]}")
    if [[ $done_already == 3.11 && $version == 3.12 ]] && find_python 3.13 >/dev/null; then
        chosen=("${between[@]}")
    fi
    echo "Python $version: running the tests."
    if ".venv-$version/bin/python" -m pytest "${chosen[@]}" "$@"; then
        passed+=("$version")
    else
        failed+=("$version")
    fi
done

if ((${#failed[@]})); then
    echo "The tests failed on Python ${failed[*]}." >&2
    exit 1
fi
echo "The tests passed on Python ${passed[*]}."
