"""The codec suite passes what is right, and finds each fault by the check that is named for it."""

from __future__ import annotations

import base64
import json

import pytest

from echostream_core.codec import Codec, CodecSpec
from echostream_core.errors import DecodeError, EncodeError
from echostream_core.types import Buffer
from echostream_testkit.checks import applicable, checks_of
from echostream_testkit.codec_suite import CodecConformance
from plugins.testkit.tests.mutations.codec_mutants import MUTANTS, Mutant
from plugins.testkit.tests.reference_codec import SPEC
from plugins.testkit.tests.running import failure_of

LONG_FORM = b"u" + b"\0" * 7 + b"\1"


class TestReference(CodecConformance):
    """As a plugin's author writes it, but for a codec that is not installed."""

    name = "reference"
    hostile = (LONG_FORM, b"x", b"s\0\0\0\1")

    def spec(self) -> CodecSpec:
        return SPEC


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.fault}: {mutant.caught_by}")
def test_a_fault_is_found_by_the_check_that_names_it(mutant: Mutant) -> None:
    class Subject(CodecConformance):
        name = "reference"
        hostile = (LONG_FORM,)
        examples = 100
        shrink = False

        def spec(self) -> CodecSpec:
            return mutant.spec

    said = failure_of(Subject, mutant.caught_by)
    assert said is not None, f"{mutant.caught_by} lets a codec pass although {mutant.fault}"
    assert mutant.says in said


class FirstDraft(Codec):
    """What is written in a minute with the standard library, errors translated."""

    name = "draft"

    def encode(self, value: object) -> bytes:
        try:
            return json.dumps(value, default=lambda content: base64.b64encode(content).decode()).encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise EncodeError(str(error)) from error

    def decode(self, data: Buffer) -> object:
        try:
            return json.loads(bytes(data))
        except (ValueError, RecursionError) as error:
            raise DecodeError(str(error)) from error


def test_a_first_draft_is_told_what_it_lacks() -> None:
    class Draft(CodecConformance):
        name = "draft"
        examples = 30
        shrink = False

        def spec(self) -> CodecSpec:
            return CodecSpec(name="draft", factory=lambda options: FirstDraft(), carries_bytes=False, summary="A draft")

    checks = set(applicable(Draft)) - {"test_import_budget"}  # it is about a plugin's module, and this is a test's
    assert {check for check in checks if failure_of(Draft, check) is not None} == {
        "test_depth_beyond_the_limit_is_refused",
        "test_duplicate_keys",
        "test_invalid_utf8",
        "test_large_integers_are_refused",
        "test_lone_surrogates_are_refused",
        "test_mutated_messages",
        "test_other_keys_are_refused",
        "test_other_types_are_refused",
        "test_recursion_bombs",
        "test_views_with_gaps_are_refused",
    }


def test_every_check_has_a_fault_to_find() -> None:
    assert {mutant.caught_by for mutant in MUTANTS} == {*checks_of(CodecConformance)}
