"""Plain data into option structs, with every wrong key named in full and the nearest right one suggested."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Final, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

import msgspec

from echostream_core.errors import ConfigError

__all__ = ["OptionProblem", "convert_options", "option_problems", "struct_in", "suggestion"]

T = TypeVar("T", bound=msgspec.Struct)

_PATH: Final = r" - at `\$\.?(.*)`$"
_WRONG_TYPE: Final = re.compile(r"Expected `([^`]*)`, got `([^`]*)`")
_WORDS: Final = {"object": "table", "array": "list"}
"""JSON's words, which msgspec takes, in TOML's."""
_UNIONS: Final = (Union, UnionType)
_WRONG_CHOICE: Final = re.compile(r"Invalid enum value '(.*)'", re.DOTALL)


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
        nested = struct_in(field.type) or (_table_in(field.type) if isinstance(value, Mapping) else None)
        if nested is not None and isinstance(value, Mapping):
            for problem in option_problems(nested, value):
                problems.append(OptionProblem(f"{name}.{problem.path}" if problem.path else name, problem.text))
            continue
        try:
            msgspec.convert(value, field.type)
        except (msgspec.ValidationError, ConfigError) as error:
            problems += _in_table(name, value, field.type) or [_located(name, error, field.type)]
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
    if origin in _UNIONS:
        members = [member for member in get_args(annotation) if member is not NoneType]
        return struct_in(members[0]) if len(members) == 1 else None
    return annotation if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct) else None


def _table_in(annotation: object) -> type[msgspec.Struct] | None:
    """What a table stands for where something else may stand too: the only struct of a union."""
    members = [struct_in(member) for member in get_args(annotation)] if get_origin(annotation) in _UNIONS else []
    structs = [member for member in members if member is not None]
    return structs[0] if len(structs) == 1 else None


def _in_table(name: str, value: object, annotation: object) -> list[OptionProblem]:
    """The problems of a table with keys of the user's own, each with its key; msgspec only says ``[...]``."""
    if not isinstance(value, Mapping):
        return []
    problems = []
    for key, item in value.items():
        try:
            msgspec.convert({key: item}, annotation)
        except (msgspec.ValidationError, ConfigError) as error:
            problem = _located(name, error, annotation)
            problems.append(problem._replace(path=problem.path.replace("[...]", f".{key}", 1)))
    return problems


def _located(path: str, error: Exception, annotation: object = None) -> OptionProblem:
    text = str(error)
    match = re.search(_PATH, text)
    if match is not None:
        inner, text = match[1], text[: match.start()]
        separator = "." if path and inner and not inner.startswith("[") else ""
        path = f"{path}{separator}{inner}"
        if inner:  # an element of what is annotated
            annotation = get_args(annotation)[0] if get_origin(annotation) in (list, tuple) else None
    return OptionProblem(path, _plain(text, annotation))


def _plain(text: str, annotation: object) -> str:
    """The sentence of msgspec in the words of TOML, with what to write instead."""
    choices = " or ".join(_choices(annotation))
    wrong = _WRONG_CHOICE.fullmatch(text)
    if wrong is not None and choices:
        return f"must be {choices}, not {wrong[1][:80]!r}"
    wrong = _WRONG_TYPE.fullmatch(text)
    if wrong is None:
        return text[:1].lower() + text[1:] if text.startswith(("Expected ", "Object ")) else text
    expected = [_WORDS.get(name, name) for name in wrong[1].split(" | ")]
    got = _WORDS.get(wrong[2], wrong[2])
    hint = ""
    if "list" in expected and got == "str":
        hint = '; write it in brackets: ["…"]'
    elif "str" in expected and got not in ("list", "table", "null"):
        hint = f"; write {choices or 'it in quotes'}"
    return f"expected `{' | '.join(expected)}`, got `{got}`{hint}"


def _choices(annotation: object) -> list[str]:
    """What may stand where ``annotation`` names some texts only, as it is written; empty: any text."""
    if annotation is bool:
        return ["true", "false"]
    if get_origin(annotation) is Literal:
        return [repr(value) for value in get_args(annotation)]
    parts = get_args(annotation)
    inner = [choice for part in parts for choice in _choices(part)]
    if get_origin(annotation) in (list, tuple):
        return inner or ["a list"]
    return [] if str in parts else inner
