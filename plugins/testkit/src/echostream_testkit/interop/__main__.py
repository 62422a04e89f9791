"""``python -m echostream_testkit.interop [listener | dialer | matrix FILE.toml | cases]``."""

from __future__ import annotations

import sys

from echostream_testkit.interop.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
