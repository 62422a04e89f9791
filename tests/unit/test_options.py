"""Options: everything that is wrong, each with its full key."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
import pytest

from echostream_core.errors import ConfigError
from echostream_core.options import convert_options, option_problems, suggestion
from echostream_core.tls_options import TlsOptions


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    window_bytes: Annotated[int, msgspec.Meta(ge=1)] = 5
    mode: Literal["fast", "safe"] = "safe"
    names: list[str] = []
    tags: dict[str, str] = {}
    where: Literal["here", "there"] | tuple[str, ...] = "here"
    advertise: str | TlsOptions = ""
    tls: TlsOptions | None = None
    must: bool

    def __post_init__(self) -> None:
        if self.window_bytes == 13:
            raise ValueError("13 brings bad luck")
        if self.window_bytes == 14:
            raise ConfigError("transport.x.window_bytes: not 14", key="transport.x.window_bytes")


def problems_of(**mapping: object) -> list[str]:
    return [problem.at("transport.x")[1] for problem in option_problems(Options, mapping)]


def test_good_options_become_the_struct() -> None:
    made = convert_options(Options, {"must": True, "tls": {"dev": True}, "names": ["a"]}, key="k")
    assert made == Options(must=True, tls=TlsOptions(dev=True), names=["a"])
    assert convert_options(Options, made, key="k") is made


def test_all_problems_come_at_once_in_full() -> None:
    with pytest.raises(ConfigError) as caught:
        convert_options(
            Options,
            {"window_byte": 1, "mode": "slow", "names": ["a", 2], "tls": {"dve": 1}},
            key="transport.x",
        )
    assert str(caught.value).splitlines() == [
        "transport.x.window_byte: there is no such setting; did you mean 'window_bytes'?",
        "transport.x.mode: must be 'fast' or 'safe', not 'slow'",
        "transport.x.names[1]: expected `str`, got `int`; write it in quotes",
        "transport.x.tls.dve: there is no such setting; did you mean 'dev'?",
        "transport.x.must: is missing",
    ]
    assert caught.value.key == "transport.x.window_byte"


def test_types_and_bounds_name_their_key() -> None:
    assert problems_of(must=True, window_bytes=0) == ["transport.x.window_bytes: expected `int` >= 1"]
    assert problems_of(must="yes") == ["transport.x.must: expected `bool`, got `str`"]
    assert problems_of(must=True, tls={"dev": "yes"}) == ["transport.x.tls.dev: expected `bool`, got `str`"]
    assert problems_of(must=True, tls=3) == ["transport.x.tls: expected `table | null`, got `int`"]


def test_what_to_write_instead_is_said() -> None:
    assert problems_of(must=True, where="nowhere") == [
        "transport.x.where: must be 'here' or 'there' or a list, not 'nowhere'"
    ]
    assert problems_of(must=True, mode=1) == ["transport.x.mode: expected `str`, got `int`; write 'fast' or 'safe'"]
    assert problems_of(must=True, names="ada") == [
        'transport.x.names: expected `list`, got `str`; write it in brackets: ["…"]'
    ]
    assert problems_of(must=True, where=[1]) == ["transport.x.where[0]: expected `str`, got `int`; write it in quotes"]


def test_keys_of_the_users_own_are_named() -> None:
    assert problems_of(must=True, tags={"zone": "eu", "level": 2, "old": True}) == [
        "transport.x.tags.level: expected `str`, got `int`; write it in quotes",
        "transport.x.tags.old: expected `str`, got `bool`; write it in quotes",
    ]


def test_a_table_where_a_text_may_stand_too_has_its_keys_checked() -> None:
    assert problems_of(must=True, advertise={"dve": True}) == [
        "transport.x.advertise.dve: there is no such setting; did you mean 'dev'?"
    ]
    assert problems_of(must=True, advertise=3) == [
        "transport.x.advertise: expected `str | table`, got `int`; write it in quotes"
    ]
    made = convert_options(Options, {"must": True, "advertise": {"dev": True}}, key="k")
    assert made.advertise == TlsOptions(dev=True)


def test_a_structs_own_check_is_heard() -> None:
    assert problems_of(must=True, window_bytes=13) == ["transport.x: 13 brings bad luck"]
    assert problems_of(must=True, window_bytes=14) == ["transport.x.window_bytes: not 14"]


def test_a_section_must_be_a_table() -> None:
    with pytest.raises(ConfigError, match=r"transport\.x: write a table of options, not list"):
        convert_options(Options, [], key="transport.x")  # type: ignore[arg-type]  # as TOML might have it


def test_suggestions() -> None:
    assert suggestion("lisen", ["listen", "url"]) == "; did you mean 'listen'?"
    assert suggestion("zzz", ["b", "a"]) == "; known are a, b"
    assert suggestion("zzz", []) == "; there are none"
