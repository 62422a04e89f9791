"""One seed for all randomness inside, the system's own again outside."""

from __future__ import annotations

import os
import random
import secrets
import uuid
from pathlib import Path

import pytest

from echostream_core.errors import ConfigError
from echostream_sim import fixed_certificate, seeded, simulate


def draws() -> list[object]:
    """One of everything."""
    return [
        os.urandom(8),
        secrets.token_hex(8),
        uuid.uuid4(),
        random.random(),
        random.Random().random(),
        random.SystemRandom().random(),
    ]


def test_everything_random_follows_from_the_seed() -> None:
    with seeded(7):
        first = draws()
    with seeded(7):
        again = draws()
    with seeded(8):
        other = draws()
    assert first == again
    assert all(mine != theirs for mine, theirs in zip(first, other, strict=True))


def test_numbers_inside_are_not_all_the_same() -> None:
    with seeded(7):
        assert all(one != two for one, two in zip(draws(), draws(), strict=True))


def test_a_generator_with_a_seed_of_its_own_keeps_it() -> None:
    expected = random.Random(5).random()
    with seeded(7):
        assert random.Random(5).random() == expected
        assert random.Random(x=5).random() == expected


def test_afterwards_the_system_decides_again() -> None:
    random.seed(1)
    state = random.getstate()
    before = os.urandom
    with pytest.raises(KeyError), seeded(7):
        raise KeyError
    assert os.urandom is before
    assert random.getstate() == state
    assert draws() != draws()


def test_one_inside_another_ends_with_its_block() -> None:
    with seeded(7):
        expected = [os.urandom(4), os.urandom(4)]
    with seeded(7):
        first = os.urandom(4)
        with seeded(8):
            os.urandom(4)
        assert [first, os.urandom(4)] == expected


async def test_around_a_program_on_a_real_network_it_refuses() -> None:
    with pytest.raises(ConfigError, match="anybody can guess"), seeded(7):
        pass


def test_inside_a_simulation_it_works() -> None:
    async def main() -> bytes:
        with seeded(7):
            return os.urandom(4)

    with seeded(7):
        expected = os.urandom(4)
    assert simulate(main()) == expected


def test_the_certificate_is_the_same_every_time_and_its_signature_of_one_length(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
    first, again = (fixed_certificate(folder, ["server"]) for folder in folders[:2])
    other = fixed_certificate(folders[2], ["server"], seed=1)
    assert first["pin"] == again["pin"] != other["pin"]
    content = [Path(settings["certificate"]).read_bytes() for settings in (first, again, other)]
    assert content[0] == content[1] != content[2]
    assert len(content[0]) == len(content[2])
