"""``python -m echostream_cli``: the same as ``echostream``."""

import sys

from echostream_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
