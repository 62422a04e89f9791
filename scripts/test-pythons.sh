#!/usr/bin/env bash
# Run the tests on every other Python among 3.11, 3.12 and 3.13 that the machine has; arguments go to pytest.
# What does not depend on the Python (documents, packaging, unplugging, command line, parsers, the test kit) has been tested
# once, on the first one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/pythons.sh

done_already=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
passed=("$done_already")
failed=()
parts=(tests/unit/engine tests/anomalies)
parts+=(tests/e2e/test_calls.py tests/e2e/test_streams.py tests/e2e/test_events.py tests/e2e/test_datagrams.py)
parts+=(tests/e2e/test_compression.py tests/e2e/test_drain.py)
parts+=(plugins/tcp plugins/quic plugins/rooms plugins/codec_msgpack plugins/codec_cbor plugins/compression_zstd)
export ECHOSTREAM_TEST_LOOPS="asyncio virtual" # uvloop is the same library everywhere
for version in 3.11 3.12 3.13; do
    [[ $version != "$done_already" ]] || continue
    if ! python=$(find_python "$version"); then
        echo "Python $version: not on this machine, left out."
        continue
    fi
    scripts/venv.sh ".venv-$version" "$python"
    echo "Python $version: running the tests."
    if ".venv-$version/bin/python" -m pytest "${parts[@]}" "$@"; then
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
