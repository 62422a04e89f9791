"""From what a user asked for to transports, codecs, chain and limits: each mistake has its sentence."""

from __future__ import annotations

from typing import Any

import pytest

from echostream_core import Call, ConfigError, Handler, Kernel, Limits, PluginNotFound, Reply
from echostream_core.builtin.json_codec import JsonCodec
from echostream_core.engine.endpoint import EndpointSettings, make_limits
from tests.support.handlers import BASIC


def settings(**changes: Any) -> EndpointSettings:
    return EndpointSettings(kernel=Kernel(), **{"side": "server", **changes})


# Targets


def test_a_url_becomes_a_transport_with_its_options() -> None:
    (target,) = settings(transport={"memory": {"max_streams": 5}}).targets(["memory://here"])
    assert target.spec.scheme == "memory"
    assert target.options.max_streams == 5  # type: ignore[attr-defined]  # the options of memory


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("here", "write scheme://host:port"),
        ("memory://here:99999", "not a valid URL"),
        ("memory://user:secret@here", "must not carry a user name"),
        ("memory://here?a=b", "options belong in the configuration"),
    ],
)
def test_a_url_that_is_none_is_refused(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        settings().targets([url])
    assert "secret" not in str(caught.value)


def test_no_url_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="no URL given"):
        settings().targets([])


def test_a_scheme_that_nobody_offers_says_what_is_known() -> None:
    with pytest.raises(PluginNotFound) as caught:
        settings().targets(["carrier-pigeon://here"])
    assert caught.value.code == "E-NO-PROVIDER"
    assert "memory" in caught.value.known


def test_tls_for_a_transport_that_takes_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="tls= was given, but none of the transports takes it: memory"):
        settings(tls={"dev": True}).targets(["memory://here"])


def test_wrong_options_of_a_transport_are_named() -> None:
    with pytest.raises(ConfigError, match="did you mean 'max_streams'"):
        settings(transport={"memory": {"max_stream": 5}}).targets(["memory://here"])


def test_needs_that_a_transport_cannot_meet_are_refused_with_its_reason() -> None:
    with pytest.raises(ConfigError, match="memory:// cannot do early_data, priorities"):
        settings(require=["streams", "early_data", "priorities"]).targets(["memory://here"])


# Codecs


def names(**changes: Any) -> list[str]:
    return [codec.name for codec in settings(**changes).pipeline([]).codecs]


def test_json_is_always_among_the_codecs() -> None:
    assert "json" in names()
    assert names(codecs=["json"]) == ["json"]


def test_codecs_keep_the_order_they_were_given_in() -> None:
    class Other(JsonCodec):
        name = "other"

    assert names(codecs=[Other()]) == ["other", "json"]
    assert names(codecs=["json", Other()]) == ["json", "other"]


def test_a_codec_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="'json' is listed twice"):
        names(codecs=["json", JsonCodec()])


def test_a_codec_that_nobody_offers_is_named() -> None:
    with pytest.raises(PluginNotFound):
        names(codecs=["morse"])


# Middleware, handlers, the rest


async def layer(call: Call, following: Handler) -> Reply:
    return await following(call)


def test_middleware_belongs_to_the_side_of_its_endpoint() -> None:
    server = settings(middleware=[layer]).pipeline([])
    client = settings(side="client", middleware=[layer]).pipeline([])
    assert (server.server_middleware, server.client_middleware) == ((layer,), ())
    assert (client.server_middleware, client.client_middleware) == ((), (layer,))


def test_middleware_that_nobody_offers_is_named() -> None:
    with pytest.raises(PluginNotFound):
        settings(middleware=["no-such-layer"]).pipeline([])


def test_routes_are_kept_as_a_copy() -> None:
    handlers = list(BASIC)
    pipeline = settings().pipeline(handlers)
    handlers.clear()
    assert "echo" in pipeline.routes


def test_credentials_are_not_shown() -> None:
    made = settings(side="client", credentials={"token": "correct horse"})
    assert "horse" not in repr(made)
    assert "horse" not in repr(made.pipeline([]))


# Limits


def test_limits_are_changed_by_name() -> None:
    assert make_limits(None) == Limits()
    assert make_limits({"max_streams": 5}).max_streams == 5
    own = Limits(max_streams=9)
    assert make_limits(own) is own


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"max_stream": 5}, "did you mean 'max_streams'"),
        ({"max_streams": "many"}, "max_streams must be a (whole )?number, not 'many'"),
        ({"max_streams": True}, "must be a (whole )?number"),
        ({"max_streams": -1}, "must not be negative"),
        ({"max_concurrent_calls": 5}, "max_concurrent_calls must be at least 128"),
        ({"max_message_bytes": 5_000}, "inline_max_bytes must not be larger than max_message_bytes"),
        ({"max_streams": float("nan")}, "max_streams"),
        ({"max_streams": 5.5}, "max_streams"),
        ({"max_concurrent_calls": float("inf")}, "max_concurrent_calls"),
    ],
    ids=str,
)
def test_limits_that_make_no_sense_are_named(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        make_limits(changes)


def test_limits_as_an_object_are_checked_too() -> None:
    with pytest.raises(ConfigError, match="max_streams must not be negative"):
        make_limits(Limits(max_streams=-1))
