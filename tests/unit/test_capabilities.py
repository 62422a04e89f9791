"""Capabilities as data, and needs checked against them."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from echostream_core import Capabilities, ConfigError

FULL = Capabilities(
    streams="native",
    datagrams="native",
    reset=True,
    half_close=True,
    flow_control=True,
    early_data="replayable",
    migration=True,
    peer_identity=True,
    encrypted=True,
    socket_handover=True,
    in_process=True,
    priorities=True,
)


def test_nothing_is_claimed_by_default() -> None:
    assert Capabilities().unmet(Capabilities().as_dict()) == list(Capabilities().as_dict())


def test_everything_is_met_by_a_record_that_claims_it() -> None:
    assert FULL.unmet(FULL.as_dict()) == []


@pytest.mark.parametrize(
    ("need", "met"),
    [
        ("streams", True),
        ("streams=muxed", True),
        ("streams=native", False),
        ("streams=none", False),
        ("datagrams", False),
        ("datagrams=none", True),
        ("reset", True),
        ("reset=true", True),
        ("reset=false", False),
        ("encrypted", False),
        ("encrypted=false", True),
    ],
)
def test_a_need_is_a_name_or_a_level(need: str, met: bool) -> None:
    record = Capabilities(streams="muxed", reset=True)
    assert record.unmet([need]) == ([] if met else [need])


def test_unmet_needs_keep_their_order() -> None:
    needs = ["priorities", "streams", "encrypted", "datagrams=native"]
    assert Capabilities(streams="native").unmet(needs) == ["priorities", "encrypted", "datagrams=native"]


@pytest.mark.parametrize(
    ("need", "problem"),
    [
        ("stream", "did you mean 'streams'"),
        ("zzz", "known are streams, datagrams"),
        ("", "there is no capability"),
        ("streams=fast", "'streams' has no level 'fast'; known are native, muxed, none"),
        ("reset=maybe", "known are true, false"),
        ("reset=", "has no level"),
    ],
)
def test_a_need_that_makes_no_sense_names_its_key(need: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        FULL.unmet([need], key="server.public.require")
    assert caught.value.key == "server.public.require"
    assert str(caught.value).startswith("server.public.require: ")


def test_a_record_is_data() -> None:
    assert list(FULL.as_dict())[:2] == ["streams", "datagrams"]
    assert Capabilities(**FULL.as_dict()) == FULL  # type: ignore[arg-type]  # what as_dict gives
    with pytest.raises(FrozenInstanceError):
        FULL.reset = False  # type: ignore[misc]  # that is the point


def test_only_a_pipe_without_datagrams_can_emulate_them() -> None:
    pipe = Capabilities(streams="muxed", reset=True)
    assert pipe.with_emulated_datagrams() == Capabilities(streams="muxed", reset=True, datagrams="emulated")
    for other in (Capabilities(streams="native"), Capabilities(streams="muxed", datagrams="native"), FULL):
        assert other.with_emulated_datagrams() is other
    assert pipe.with_emulated_datagrams().unmet(["datagrams", "datagrams=emulated", "datagrams=native"]) == [
        "datagrams=native"
    ]
