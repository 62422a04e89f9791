from __future__ import annotations

import re
from pathlib import Path

from echostream_sim.network import Network
from echostream_sim.paths import PathSettings
from plugins.sim.tests.test_fixtures import CONFTEST, run
from tests.docs.markdown import ROOT, blocks_of, table_rows

GUIDE = ROOT / "docs" / "simulation.md"
README = ROOT / "plugins" / "sim" / "README.md"


def test_the_test_of_the_guide_passes_under_pytest(tmp_path: Path) -> None:
    blocks = blocks_of(GUIDE)
    for block in blocks:
        if "file" in block.marks:
            (tmp_path / block.marks["file"]).write_text(block.text, encoding="utf-8")
    assert [block for block in blocks if block.text == CONFTEST]
    assert "1 passed" in run(tmp_path, "--sim-seed=random", "test_shop.py")


def test_the_table_of_models_has_every_setting_of_a_path() -> None:
    rows = table_rows(README.read_text(encoding="utf-8"), "setting")
    assert {word for row in rows for word in re.findall(r"`(\w+)`", row[0])} == set(PathSettings.__annotations__)


def test_the_guide_names_every_reason_of_a_loss_that_a_path_has() -> None:
    rows = table_rows(GUIDE.read_text(encoding="utf-8"), "place")
    reasons = {word for row in rows for word in re.findall(r": `(\w+)`", " ".join(row))}
    assert reasons == {"partition", "too_large", "loss", "queue", "no_port"}


def test_a_public_name_of_the_network_that_the_guide_uses_exists() -> None:
    used = set(re.findall(r"\bnetwork\.(\w+)\(", GUIDE.read_text(encoding="utf-8")))
    assert used
    assert all(callable(getattr(Network, name)) for name in used)
