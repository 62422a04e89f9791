"""Each distribution builds, holds only its own package, states its needs, installs alone beside the core."""

from __future__ import annotations

import configparser
import importlib.metadata
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from email.parser import HeaderParser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytest.importorskip("hatchling", reason="the wheels are built with the hatchling of this environment")

ROOT = Path(__file__).resolve().parents[2]
PROJECTS = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
PLUGINS_GROUP = "echostream.v1.plugins"

KERNEL_NEEDS = {"pluggy": ">=1.7.0", "importlib-metadata": "!=10.2.0,>=10.1", "msgspec": ">=0.22"}
"""What the kernel needs at run time, and nothing else: a fourth one is a decision, not an edit."""

PLUGIN_NEEDS = {
    "echostream-certs": {"cryptography": ">=50"},
    "echostream-cli": {"rich": ">=15", "typer": ">=0.29"},
    "echostream-codec-cbor": {"cbor2": ">=6.2.1"},
    "echostream-codec-msgpack": {"msgpack": ">=1.2.4", "msgspec": ">=0.22"},
    "echostream-compression-zstd": {"backports-zstd": ">=1.8"},
    "echostream-discovery-mdns": {"ifaddr": ">=0.2", "zeroconf": ">=0.154"},
    "echostream-quic": {"aioquic": "<1.8,>=1.7.2"},
    "echostream-rooms": {},
    "echostream-sim": {},
    "echostream-tcp": {},
    "echostream-testkit": {"hypothesis": ">=6.170", "pytest": ">=9.2", "pytest-asyncio": ">=1.5"},
    "echostream-websocket": {"echostream-tcp": "<0.2,>=0.1", "websockets": ">=17.0.1"},
    "echostream-webtransport": {
        "aioquic": "<1.8,>=1.7.2",
        "echostream-quic": "<0.2,>=0.1",
        "pylsqpack": ">=1.0",
    },
}
"""The library of each plugin, with its floor: the oldest version without a bug that we met."""


LIBRARIES = {"echostream-certs", "echostream-testkit"}
"""Distributions beside the core that offer the kernel nothing: programs and tests import them."""


@dataclass(frozen=True, slots=True)
class Built:
    """One distribution: where it comes from, what was built, and what its own pyproject.toml says."""

    name: str
    folder: Path
    project: dict[str, object]
    wheel: Path
    sdist: Path

    @property
    def package(self) -> str:
        """The module that it installs."""
        return self.name.replace("-", "_")

    @property
    def dist_info(self) -> str:
        """The metadata folder inside the wheel."""
        return f"{self.package}-{self.project['version']}.dist-info"

    def read(self, name: str) -> str:
        """One metadata file of the wheel, as text; empty when there is none."""
        with zipfile.ZipFile(self.wheel) as archive:
            path = f"{self.dist_info}/{name}"
            return archive.read(path).decode() if path in archive.namelist() else ""

    def names(self) -> list[str]:
        """The files in the wheel."""
        with zipfile.ZipFile(self.wheel) as archive:
            return archive.namelist()

    def requirements(self) -> list[Requirement]:
        """What the wheel's metadata requires, extras included."""
        metadata = HeaderParser().parsestr(self.read("METADATA"))
        return [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]

    def entry_points(self) -> dict[str, dict[str, str]]:
        """Group → name → reference, as the wheel states them."""
        parser = configparser.ConfigParser(delimiters=("=",))
        parser.optionxform = str  # type: ignore[method-assign,assignment]  # keep the case of names
        parser.read_string(self.read("entry_points.txt"))
        return {group: dict(parser[group]) for group in parser.sections()}


def name_of(folder: Path) -> str:
    """The distribution's name, which is also the test's id."""
    return str(project_of(folder)["name"])


def project_of(folder: Path) -> dict[str, object]:
    """The ``[project]`` table of a folder."""
    table = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert isinstance(table, dict)
    return table


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """Every distribution, built once: a wheel and a source archive."""
    result = {}
    for folder in PROJECTS:
        out = tmp_path_factory.mktemp("dist")
        command = [sys.executable, "-m", "hatchling", "build", "-d", str(out)]
        subprocess.run(command, cwd=folder, check=True, timeout=60)
        (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
        result[name_of(folder)] = Built(name_of(folder), folder, project_of(folder), wheel, sdist)
    return result


@pytest.fixture(params=[name_of(folder) for folder in PROJECTS])
def distribution(request: pytest.FixtureRequest, built: dict[str, Built]) -> Built:
    """Each distribution in turn."""
    return built[request.param]


@pytest.fixture(params=[name_of(folder) for folder in PROJECTS[1:]])
def plugin(request: pytest.FixtureRequest, built: dict[str, Built]) -> Built:
    """Each plugin's distribution in turn."""
    return built[request.param]


def test_wheel_is_pure_and_named_for_the_distribution(distribution: Built) -> None:
    version = distribution.project["version"]
    assert distribution.wheel.name == f"{distribution.package}-{version}-py3-none-any.whl"


def test_wheel_holds_its_own_package_and_nothing_else(distribution: Built) -> None:
    tops = {name.partition("/")[0] for name in distribution.names()}
    assert tops == {distribution.package, distribution.dist_info}
    assert f"{distribution.package}/__init__.py" in distribution.names()
    assert f"{distribution.package}/py.typed" in distribution.names()
    own = [name for name in distribution.names() if "/scaffold/templates/" not in name]  # those have tests to give away
    assert not [name for name in own if "__pycache__" in name or "/tests/" in name]


def test_wheel_holds_every_file_of_the_package(distribution: Built) -> None:
    base = distribution.folder if distribution.folder == ROOT else distribution.folder / "src"
    files = {
        path.relative_to(base).as_posix()
        for path in (base / distribution.package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files <= set(distribution.names()), "an ignore pattern hides part of the package"


def test_wheel_carries_the_licence_and_the_readme(distribution: Built) -> None:
    assert distribution.read("licenses/LICENSE") == (ROOT / "LICENSE").read_text(encoding="utf-8")
    readme = (distribution.folder / "README.md").read_text(encoding="utf-8")
    assert readme.strip() in distribution.read("METADATA")


def test_source_archive_can_build_and_holds_nothing_foreign(distribution: Built) -> None:
    with tarfile.open(distribution.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "PKG-INFO"} <= names
    folders = {name.partition("/")[0] for name in names if "/" in name}
    assert folders <= ({distribution.package} if distribution.folder == ROOT else {"src", "tests"})


def test_metadata_asks_for_the_oldest_python_we_test(distribution: Built) -> None:
    assert HeaderParser().parsestr(distribution.read("METADATA"))["Requires-Python"] == ">=3.11"


def test_kernel_needs_three_libraries_and_states_their_floors(built: dict[str, Built]) -> None:
    requirements = built["echostream-core"].requirements()
    needs = {item.name: str(item.specifier) for item in requirements if not item.marker}
    assert needs == KERNEL_NEEDS


def test_kernel_offers_uvloop_and_every_plugin_as_extras(built: dict[str, Built]) -> None:
    extras: dict[str, set[str]] = {"fast": set(), "all": set(), "testing": set()}
    for item in built["echostream-core"].requirements():
        for extra, names in extras.items():
            marker = item.marker
            if marker and any(marker.evaluate({"extra": extra, "sys_platform": os}) for os in ("linux", "win32")):
                names.add(item.name)
    assert extras["fast"] == {"uvloop", "winloop"}
    assert extras["testing"] == {"echostream-sim", "echostream-testkit"}
    assert set(built) - {"echostream-core"} <= extras["all"] | extras["testing"]


def test_fast_loop_is_the_one_that_the_system_can_run(built: dict[str, Built]) -> None:
    loops: dict[str, list[str]] = {"win32": [], "linux": [], "darwin": []}
    for item in built["echostream-core"].requirements():
        for system, names in loops.items():
            if item.marker and item.marker.evaluate({"extra": "fast", "sys_platform": system}):
                names.append(item.name)
    assert loops == {"win32": ["winloop"], "linux": ["uvloop"], "darwin": ["uvloop"]}


def test_plugin_needs_the_core_and_its_own_library(plugin: Built) -> None:
    needs = {str(canonicalize_name(item.name)): str(item.specifier) for item in plugin.requirements() if here(item)}
    assert needs.pop("echostream-core") == "<0.2,>=0.1"
    assert needs == PLUGIN_NEEDS[plugin.name]


def test_encrypted_transports_bring_development_certificates_as_an_extra(built: dict[str, Built]) -> None:
    for name in ("echostream-quic", "echostream-tcp"):
        (extra,) = [item for item in built[name].requirements() if item.marker]
        assert (extra.name, str(extra.specifier)) == ("echostream-certs", "<0.2,>=0.1")
        assert extra.marker is not None
        assert extra.marker.evaluate({"extra": "dev"})
        assert not extra.marker.evaluate({"extra": ""})


def test_kernel_has_no_entry_points(built: dict[str, Built]) -> None:
    assert built["echostream-core"].entry_points() == {}


def test_plugin_is_listed_once_and_indexed_under_the_same_reference(plugin: Built) -> None:
    groups = plugin.entry_points()
    if plugin.name in LIBRARIES:
        assert groups == {}, "a library: it has no hooks"
        return
    assert groups.pop(PLUGINS_GROUP) == {plugin.folder.name: plugin.package}
    scripts = groups.pop("console_scripts", {})
    assert scripts == ({"echostream": "echostream_cli.main:main"} if plugin.name == "echostream-cli" else {})
    assert all(group.startswith("echostream.v1.") for group in groups)
    assert {reference for entries in groups.values() for reference in entries.values()} <= {plugin.package}


def test_no_key_is_offered_by_two_of_our_plugins(built: dict[str, Built]) -> None:
    offers = [
        (group, key)
        for distribution in built.values()
        for group, entries in distribution.entry_points().items()
        for key in entries
    ]
    assert len(offers) == len(set(offers))


def test_schemes_and_codecs_are_indexed(built: dict[str, Built]) -> None:
    offered = {
        (group.rpartition(".")[2], key): name
        for name, distribution in built.items()
        for group, entries in distribution.entry_points().items()
        for key in entries
        if group in {"echostream.v1.transports", "echostream.v1.codecs"}
    }
    assert offered == {
        ("transports", "sim"): "echostream-sim",
        ("transports", "tcp"): "echostream-tcp",
        ("transports", "tls"): "echostream-tcp",
        ("transports", "unix"): "echostream-tcp",
        ("transports", "quic"): "echostream-quic",
        ("transports", "ws"): "echostream-websocket",
        ("transports", "wss"): "echostream-websocket",
        ("transports", "wt"): "echostream-webtransport",
        ("codecs", "msgpack"): "echostream-codec-msgpack",
        ("codecs", "cbor"): "echostream-codec-cbor",
    }


# Installed alone beside the core: a folder with two unpacked wheels and links to the libraries they ask for.

LOAD_PLUGINS = """
import sys
sys.path[:0] = [sys.argv[1]]
import echostream_core
assert echostream_core.__file__.startswith(sys.argv[1]), echostream_core.__file__
from importlib_metadata import entry_points
found = {item.value: item.load() for item in entry_points(group=sys.argv[2])}
print(*sorted(found))
"""


def link_library(name: str, folder: Path) -> None:
    """Put a library of this environment, and those it requires, into ``folder`` without copying them."""
    library = importlib.metadata.distribution(name)
    tops = {path.parts[0] for path in library.files or [] if path.parts[0] not in {"..", "__pycache__"}}
    for top in tops:
        link = folder / top
        if link.is_symlink():
            continue
        link.symlink_to(str(library.locate_file(top)))
    for line in library.requires or []:
        requirement = Requirement(line)
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and canonicalize_name(requirement.name) not in linked(folder):
            link_library(requirement.name, folder)


def linked(folder: Path) -> set[str]:
    """The distributions that stand in ``folder``."""
    return {canonicalize_name(path.name.partition("-")[0]) for path in folder.glob("*.dist-info")}


def here(requirement: Requirement) -> bool:
    """Whether a requirement holds for this Python, extras left out."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": ""})


def install(folder: Path, *distributions: Built) -> None:
    """Unpack the wheels into ``folder``, with what they require from elsewhere."""
    for distribution in distributions:
        with zipfile.ZipFile(distribution.wheel) as archive:
            archive.extractall(folder)
        for requirement in distribution.requirements():
            if here(requirement) and not requirement.name.startswith("echostream-"):
                link_library(requirement.name, folder)


def load_plugins_in(folder: Path) -> list[str]:
    """Import every plugin that a fresh interpreter finds there, where nothing else is installed."""
    command = [sys.executable, "-I", "-S", "-c", LOAD_PLUGINS, str(folder), PLUGINS_GROUP]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


def test_core_alone_imports_and_finds_no_plugin(built: dict[str, Built], tmp_path: Path) -> None:
    install(tmp_path, built["echostream-core"])
    assert load_plugins_in(tmp_path) == []


def test_plugin_installs_alone_beside_core(plugin: Built, built: dict[str, Built], tmp_path: Path) -> None:
    hosts = [built[name] for name in PLUGIN_NEEDS[plugin.name] if name in built]  # a plugin may stand on another
    install(tmp_path, built["echostream-core"], *hosts, plugin)
    expected = sorted(one.package for one in (*hosts, plugin) if one.name not in LIBRARIES)
    assert load_plugins_in(tmp_path) == expected
