"""The pipeline: immutable, and silent about secrets."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from echostream_core import Limits
from echostream_core.builtin.json_codec import JsonCodec
from echostream_core.engine.handlers import collect_routes
from echostream_core.engine.pipeline import Pipeline
from tests.support.handlers import BASIC


def made() -> Pipeline:
    return Pipeline(
        routes=collect_routes(BASIC), codecs=(JsonCodec(),), credentials={"token": "correct horse"}, name="public"
    )


def test_it_has_sensible_defaults() -> None:
    pipeline = made()
    assert pipeline.limits == Limits()
    assert pipeline.authenticator is None
    assert pipeline.server_middleware == pipeline.client_middleware == ()


def test_it_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        made().name = "other"  # type: ignore[misc]  # that is the point


def test_its_repr_shows_no_credentials() -> None:
    assert "horse" not in repr(made())
