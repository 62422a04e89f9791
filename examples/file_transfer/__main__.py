"""The command: ``python -m examples.file_transfer --help``."""

from __future__ import annotations

import sys

from examples.file_transfer.cli import main

sys.exit(main())
