"""The command: ``python -m examples.chat --help``."""

from __future__ import annotations

import sys

try:
    from examples.chat.cli import main
except ModuleNotFoundError as error:
    if error.name != "echostream_rooms":
        raise
    sys.exit("error: the chat is made of rooms, which are not installed: pip install echostream-rooms")

sys.exit(main())
