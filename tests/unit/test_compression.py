"""The contract of compression: who is asked, in what order, and what is never compressed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

from echostream_core import (
    ConfigError,
    DecodeError,
    Kernel,
    LimitExceeded,
    Limits,
    PluginNotFound,
    RemoteProtocolError,
    StatusCode,
)
from echostream_core.builtin.json_codec import JsonCodec
from echostream_core.compression import (
    CREDENTIAL_KEYS,
    CompressionSpec,
    DecompressedTooLarge,
    carries_credentials,
)
from echostream_core.config import load_config
from echostream_core.engine.codecs import NEVER, SessionCodecs, status_of
from echostream_core.engine.endpoint import EndpointSettings
from echostream_core.hookspecs import hookimpl
from echostream_core.resolver import package_hint
from echostream_core.wire.frames import COMPRESSED, PACKED
from echostream_core.wire.metadata import check_metadata
from echostream_core.wire.setup import Setup, decode_setup, encode_setup
from tests.support.compression import Deflate

ROOT = Path(__file__).resolve().parents[2]


class DeflateOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[compression.deflate]``."""

    min_bytes: Annotated[int, msgspec.Meta(ge=1)] = 1_024


class DeflatePlugin:
    """Offers ``deflate`` as a plugin does."""

    @hookimpl
    def echostream_components(self) -> list[CompressionSpec]:
        def make(options: Any) -> Deflate:
            return Deflate(min_bytes=options.min_bytes)

        return [CompressionSpec(name="deflate", factory=make, options=DeflateOptions)]


def kernel() -> Kernel:
    made = Kernel()
    made.register(DeflatePlugin(), name="deflate-plugin")
    return made


def settled(*mine: str, theirs: tuple[str, ...], max_bytes: int = 10_000) -> SessionCodecs:
    """The codecs of a session in which both SETUPs are here."""
    codecs = SessionCodecs((JsonCodec(),), [Deflate(name) for name in mine], max_bytes)
    codecs.settle(("json",), theirs)
    return codecs


# Who is asked.


def test_a_plugin_offers_it_as_a_component() -> None:
    made = kernel()
    assert "deflate" in made.known("compression")
    assert made.component("compression", "deflate").kind == "compression"


def test_an_endpoint_names_them_in_code() -> None:
    mine = Deflate("mine", min_bytes=7)
    pipeline = EndpointSettings(kernel=kernel(), side="server", compression=["deflate", mine]).pipeline([])
    assert [(one.name, one.min_bytes) for one in pipeline.compression] == [("deflate", 1_024), ("mine", 7)]
    assert pipeline.compression[1] is mine


def test_without_the_setting_there_is_none() -> None:
    assert EndpointSettings(kernel=kernel(), side="client").pipeline([]).compression == ()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (["deflate", "deflate"], "'deflate' is listed twice"),
        (["deflate", Deflate()], "'deflate' is listed twice"),
        ("deflate", r"a list: compression=\['deflate'\]"),
    ],
    ids=["twice", "twice, one in person", "a text"],
)
def test_a_wrong_setting_is_refused(value: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        EndpointSettings(kernel=kernel(), side="server", compression=value).pipeline([])


def test_one_that_nobody_offers_says_so() -> None:
    with pytest.raises(PluginNotFound, match="no plugin provides the compression 'snappy'"):
        EndpointSettings(kernel=kernel(), side="server", compression=["snappy"]).pipeline([])


def test_the_package_hint_names_ours() -> None:
    assert package_hint("compression", "zstd") == "echostream-compression-zstd"


CONFIG = """
[server.public]
listen = "memory://x"
compression = "deflate"
[client.orders]
url = "memory://x"
compression = ["deflate"]
[compression.deflate]
min_bytes = 99
"""


def test_it_stands_in_the_configuration(tmp_path: Path) -> None:
    file = tmp_path / "echostream.toml"
    file.write_text(CONFIG, encoding="utf-8")
    config = load_config(file, environ={})
    assert config.check(kernel()) == []
    for side, section in (("server", config.server("public")), ("client", config.client("orders"))):
        settings = EndpointSettings(
            kernel=kernel(),
            side=side,  # type: ignore[arg-type]  # one of the two
            compression=section.compression,
            config=config,
            section=section,
        )
        assert [one.min_bytes for one in settings.pipeline([]).compression] == [99]


def test_the_environment_can_switch_it_off(tmp_path: Path) -> None:
    file = tmp_path / "echostream.toml"
    file.write_text(CONFIG, encoding="utf-8")
    config = load_config(file, environ={"ECHOSTREAM__SERVER__PUBLIC__COMPRESSION": "[]"})
    assert config.server("public").compression == ()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (('compression = "deflate"', 'compression = "snappy"'), "server.public.compression: "),
        (("min_bytes = 99", "min_bytes = 0"), "compression.deflate.min_bytes: "),
        (("min_bytes = 99", "min_byte = 9"), "compression.deflate.min_byte: "),
    ],
    ids=["unknown name", "wrong value", "unknown option"],
)
def test_the_check_of_a_configuration_names_what_is_wrong(
    tmp_path: Path, change: tuple[str, str], problem: str
) -> None:
    file = tmp_path / "echostream.toml"
    file.write_text(CONFIG.replace(*change), encoding="utf-8")
    problems = load_config(file, environ={}).check(kernel())
    assert len(problems) == 1 and problem in problems[0], problems


def test_more_than_sixteen_are_not_offered() -> None:
    names = tuple(f"c{number}" for number in range(17))
    setup = encode_setup(Setup(codecs=("json",), compression=names[1:]), Limits())
    assert decode_setup(setup[8:]).compression == names[1:]
    with pytest.raises(LimitExceeded, match="17 compressions, at most 16"):
        encode_setup(Setup(codecs=("json",), compression=names), Limits())


# What is used.


@pytest.mark.parametrize(
    ("mine", "theirs", "used"),
    [
        (("a", "b"), ("b", "a"), "a"),
        (("a", "b"), ("b",), "b"),
        (("a",), ("b",), ""),
        ((), ("a",), ""),
        (("a",), (), ""),
    ],
)
def test_ours_decides_about_what_we_send(mine: tuple[str, ...], theirs: tuple[str, ...], used: str) -> None:
    codecs = settled(*mine, theirs=theirs)
    assert codecs.compression_names == mine
    assert codecs.compression == used
    assert codecs.compress_from == (1_024 if used else NEVER)


def test_nothing_is_compressed_before_the_peers_setup() -> None:
    codecs = SessionCodecs((JsonCodec(),), [Deflate()])
    assert codecs.compress_from == NEVER
    with pytest.raises(RemoteProtocolError, match="no compression in common"):
        codecs.decoder(1 | PACKED)


def test_what_is_packed_is_read_again_in_its_codec() -> None:
    codecs = settled("a", theirs=("a",))
    body = JsonCodec().encode("x" * 5_000)
    flags, packed = codecs.pack(body)
    assert flags == COMPRESSED and len(packed) < 100
    decode = codecs.decoder(1 | PACKED)
    raw = codecs.decoder(PACKED)
    assert decode is not None and raw is not None
    assert decode(memoryview(packed)) == "x" * 5_000
    assert raw(packed) == body
    assert codecs.answer_id(1 | PACKED) == 1


def test_an_answer_has_the_codec_of_its_request_compressed_or_not() -> None:
    class Other(JsonCodec):
        name = "other"

    codecs = SessionCodecs((Other(), JsonCodec()), [Deflate()])
    codecs.settle(("json", "other"), ("deflate",))
    assert [codecs.answer_id(number) for number in (1, 2, 1 | PACKED, 2 | PACKED)] == [2, 1, 2, 1]


def test_what_gets_no_shorter_is_sent_as_it_is() -> None:
    codecs = settled("a", theirs=("a",))
    body = bytes(range(256))
    assert codecs.pack(body) == (0, body)
    assert codecs.compress(body) is None


def test_a_payload_over_the_limit_is_not_decompressed() -> None:
    codecs = settled("a", theirs=("a",), max_bytes=5_001)
    _, packed = codecs.pack(JsonCodec().encode("x" * 5_000))
    decode = codecs.decoder(1 | PACKED)
    assert decode is not None
    with pytest.raises(DecompressedTooLarge) as caught:
        decode(packed)
    assert status_of(caught.value) is StatusCode.RESOURCE_EXHAUSTED
    assert status_of(DecodeError("damaged")) is StatusCode.INVALID_ARGUMENT


# What is not.


@pytest.mark.parametrize("key", sorted(CREDENTIAL_KEYS))
def test_metadata_with_credentials_is_recognised(key: str) -> None:
    pairs = check_metadata([("tenant", "a"), (key, "secret")])
    assert carries_credentials(pairs)
    assert carries_credentials(check_metadata([(f"{key}-bin", b"secret")]))


@pytest.mark.parametrize("pairs", [None, [], [("tenant", "a")], [("x-authorization-time", "a")]])
def test_other_metadata_is_not(pairs: list[tuple[str, object]] | None) -> None:
    assert not carries_credentials(pairs)


@pytest.mark.parametrize("page", ["docs/wire.md", "docs/compression.md"])
def test_the_keys_are_documented(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [key for key in sorted(CREDENTIAL_KEYS) if f"`{key}`" not in text] == []
