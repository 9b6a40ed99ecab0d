"""From JSON to frozen dataclasses, by their type hints."""

from __future__ import annotations

import types
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import datetime
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class Unreadable(Exception):
    """The JSON is not what the type says. The message names the place, never the value."""


def read(kind: type[T], value: object, place: str = "") -> T:
    """`value`, which was JSON, as a `kind`. Fields that the dataclass does not have are ignored: the API may grow.

    A `Literal` is not held to its words for the same reason.

    Raises:
        Unreadable: a field is missing or of another type.
    """
    found: T = _read(kind, value, place)
    return found


def json_name(field: Field[Any]) -> str:
    """What the API calls the field: `from` is no name in Python."""
    name: str = field.metadata.get("json", field.name)
    return name


def _read(kind: Any, value: Any, place: str) -> Any:
    origin = get_origin(kind)
    if origin in {Union, types.UnionType}:
        (inner,) = (one for one in get_args(kind) if one is not type(None))
        found = None if value is None else _read(inner, value, place)
    elif is_dataclass(kind):
        found = _read_object(kind, _checked(value, dict, place), place)
    elif origin is tuple:
        found = tuple(_read(get_args(kind)[0], one, f"{place}[]") for one in _checked(value, list, place))
    elif origin is dict:
        inner, whole = get_args(kind)[1], _checked(value, dict, place)
        found = {name: _read(inner, one, f"{place}.{name}") for name, one in whole.items()}
    elif kind is datetime:
        found = _time(_checked(value, str, place), place)
    elif kind is float:
        found = float(_checked(value, (int, float), place))
    else:
        found = _checked(value, str if origin is Literal else kind, place)
    return found


def _read_object(kind: Any, value: dict[str, Any], place: str) -> Any:
    found = {}
    for field, hint in _hints(kind):
        name = json_name(field)
        if name in value:
            found[field.name] = _read(hint, value[name], f"{place}.{name}")
        elif field.default is MISSING:
            raise Unreadable(f"{place}.{name} is missing")
    return kind(**found)


@cache
def _hints(kind: Any) -> tuple[tuple[Field[Any], Any], ...]:
    hints = get_type_hints(kind)
    return tuple((field, hints[field.name]) for field in fields(kind))


def _checked(value: Any, kind: Any, place: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Unreadable(f"{place or 'the answer'} is of another type")
    return value


def _time(value: str, place: str) -> datetime:
    try:
        return datetime.fromisoformat(value)
    except ValueError:
        raise Unreadable(f"{place} is no time") from None
