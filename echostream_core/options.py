"""Plain data into option structs, with every wrong key named in full and the nearest right one suggested."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Final, NamedTuple, TypeVar, Union, get_args, get_origin

import msgspec

from echostream_core.errors import ConfigError

__all__ = ["OptionProblem", "convert_options", "option_problems", "struct_in", "suggestion"]

T = TypeVar("T", bound=msgspec.Struct)

_PATH: Final = r" - at `\$\.?(.*)`$"


class OptionProblem(NamedTuple):
    """What is wrong with one option; ``path`` is dotted, below the struct, "" for the struct as a whole."""

    path: str
    text: str

    def at(self, key: str) -> tuple[str, str]:
        """The full key and the whole sentence for a struct that stands at ``key``."""
        full = f"{key}.{self.path}" if self.path else key
        return full, self.text if self.text.startswith(f"{full}") else f"{full}: {self.text}"


def suggestion(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?``, or the list of what is known."""
    known = sorted(known)
    near = get_close_matches(name, known, 1)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; known are {', '.join(known)}" if known else "; there are none"


def convert_options(schema: type[T], mapping: Mapping[str, object] | msgspec.Struct, *, key: str) -> T:
    """An instance of ``schema``; ConfigError lists every problem, its ``key`` being that of the first."""
    if isinstance(mapping, schema):
        return mapping
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{key}: write a table of options, not {type(mapping).__name__}", key=key)
    problems = [problem.at(key) for problem in option_problems(schema, mapping)]
    if problems:
        raise ConfigError("\n".join(text for _, text in problems), key=problems[0][0])
    return msgspec.convert(dict(mapping), schema)


def option_problems(
    schema: type[msgspec.Struct], mapping: Mapping[str, object], *, hidden: Container[str] = ()
) -> list[OptionProblem]:
    """What keeps ``mapping`` from being ``schema``: unknown, missing and mistyped keys, at any depth.

    ``hidden`` are fields that are never suggested: they are not written but filled in.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(schema)}
    known = [name for name in fields if name not in hidden]
    problems: list[OptionProblem] = []
    if schema.__struct_config__.forbid_unknown_fields:
        problems += [
            OptionProblem(name, f"there is no such setting{suggestion(name, known)}")
            for name in mapping
            if name not in fields
        ]
    for name, field in fields.items():
        if name not in mapping:
            if field.required:
                problems.append(OptionProblem(name, "is missing"))
            continue
        value = mapping[name]
        nested = struct_in(field.type)
        if nested is not None and isinstance(value, Mapping):
            for problem in option_problems(nested, value):
                problems.append(OptionProblem(f"{name}.{problem.path}" if problem.path else name, problem.text))
            continue
        try:
            msgspec.convert(value, field.type)
        except (msgspec.ValidationError, ConfigError) as error:
            problems.append(_located(name, error))
    if not problems:
        try:
            msgspec.convert(dict(mapping), schema)
        except (msgspec.ValidationError, ConfigError) as error:  # a struct's own __post_init__
            problems.append(_located("", error))
    return problems


def struct_in(annotation: object) -> type[msgspec.Struct] | None:
    """The struct that ``annotation`` stands for: itself, annotated, or united with None only; else None."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return struct_in(get_args(annotation)[0])
    if origin in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not NoneType]
        return struct_in(members[0]) if len(members) == 1 else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct) else None


def _located(path: str, error: Exception) -> OptionProblem:
    text = str(error)
    match = re.search(_PATH, text)
    if match is not None:
        inner, text = match[1], text[: match.start()]
        separator = "." if path and inner and not inner.startswith("[") else ""
        path = f"{path}{separator}{inner}"
    return OptionProblem(path, text[:1].lower() + text[1:] if text.startswith(("Expected ", "Object ")) else text)
