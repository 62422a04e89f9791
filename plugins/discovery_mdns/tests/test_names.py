"""Names of instances as labels of the DNS."""

from __future__ import annotations

import pytest

from echostream_core.errors import ConfigError
from echostream_discovery_mdns.names import MAX_LABEL_BYTES, fits_label, instance_of, label_of, numbered


@pytest.mark.parametrize("instance", ["a", "Ada's machine (2)", "Büro 漢字", "x" * 58, "/", "a/b"])
def test_a_name_that_fits_is_in_the_label(instance: str) -> None:
    label = label_of("calc", instance)
    assert label == f"calc/{instance}" and fits_label(label)
    assert instance_of(label, "calc") == instance


@pytest.mark.parametrize("instance", ["node.eu-1.example", "x" * 59, "漢" * 40, "tab\t", "\x7f", ".", "a" * 5_000])
def test_a_name_that_does_not_fit_gets_a_label_with_a_hash(instance: str) -> None:
    label = label_of("calc", instance)
    assert fits_label(label) and label.startswith("calc/") and len(label.encode()) <= MAX_LABEL_BYTES
    assert label != label_of("calc", instance + "x"), "the hash tells names with the same beginning apart"
    assert instance_of(label, "calc") != instance, "so the TXT record tells the name"


def test_a_label_of_63_bytes_stays_and_one_of_64_does_not() -> None:
    assert len(label_of("calc", "x" * 58)) == MAX_LABEL_BYTES
    assert label_of("calc", "x" * 59) != "calc/" + "x" * 59


def test_service_and_instance_are_not_mixed() -> None:
    assert label_of("a", "b.c") != label_of("a/b", "c") != label_of("a.b", "c")
    assert label_of("_sub", "x") == label_of("_sub", "x") != "_sub/x"


def test_a_foreign_label_is_the_name() -> None:
    assert instance_of("Living Room", "calc") == "Living Room"
    assert instance_of("calc/", "calc") == "calc/"
    assert instance_of("calculator/x", "calc") == "calculator/x"


@pytest.mark.parametrize(
    ("service", "instance", "says"),
    [
        ("", "x", "without a name of its service"),
        ("x", "", "without a name of its instance"),
        ("x", "\udcff", "instance is no valid Unicode"),
        ("\udcff", "x", "service is no valid Unicode"),
    ],
    ids=["no-service", "no-instance", "surrogate-instance", "surrogate-service"],
)
def test_a_name_that_nothing_can_carry_is_a_config_error(service: str, instance: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        label_of(service, instance)


def test_numbers_begin_at_two() -> None:
    assert [numbered("calc", number) for number in (1, 2, 3)] == ["calc", "calc-2", "calc-3"]
