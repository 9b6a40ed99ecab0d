"""Reading `gateway.yaml`: from its bytes to a `GatewayConfig`, or to complaints that name their line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from yaml.reader import ReaderError

from service.environment import read_secret
from service.errors import ConfigurationError
from service.settings import GatewayConfig

_DEEPEST: Final = 20
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_TAGS: Final = {f"tag:yaml.org,2002:{name}" for name in ("map", "seq", "str", "int", "float", "bool", "null")}
_VARIABLE: Final = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong in `gateway.yaml` and where. `line` counts from 1."""

    line: int
    where: str
    what: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.where}: {self.what}" if self.where else f"line {self.line}: {self.what}"


class BadConfig(ConfigurationError):
    """`gateway.yaml` is wrong; `complaints` says what and where."""

    def __init__(self, path: str, complaints: list[Complaint]) -> None:
        super().__init__("\n".join([f"{path} is not usable:", *(f"  {complaint}" for complaint in complaints)]))
        self.complaints = complaints


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """`gateway.yaml`, read and usable. It still knows where each setting stands."""

    config: GatewayConfig
    _root: yaml.Node = field(repr=False)

    @classmethod
    def load(cls, path: Path, environ: Mapping[str, str]) -> ConfigFile:
        """Read the file. `${NAME}` in a value is replaced by the environment variable of that name.

        Where there is only NAME_FILE, it is replaced by the content of the file at that path.

        Raises:
            BadConfig: with every complaint and its line.
            ConfigurationError: there is no such file.
        """
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise ConfigurationError(
                f"{path} cannot be read ({error.strerror}): set SMS_GATEWAY_CONFIG to your gateway.yaml."
            ) from error
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise BadConfig(str(path), [Complaint(line, "", "not UTF-8: save the file in that encoding")]) from error
        return cls.parse(text, environ, name=str(path))

    @classmethod
    def parse(cls, text: str, environ: Mapping[str, str], *, name: str = "gateway.yaml") -> ConfigFile:
        """What `text` says; see `load`."""
        try:
            root = _compose(text)
        except _Unreadable as error:
            raise BadConfig(name, [error.complaint]) from error
        complaints: list[Complaint] = []
        values = _plain(root, environ, complaints)
        if complaints:
            raise BadConfig(name, complaints)
        try:
            return cls(GatewayConfig.model_validate(values), root)
        except ValidationError as error:
            raise BadConfig(name, [_translated(root, details) for details in error.errors()]) from error

    def complaint(self, where: Sequence[str | int], what: str) -> Complaint:
        """`what`, said of the setting at `where`: `("providers", "acme")`, `("routes", 0)`."""
        return _placed(self._root, where, what)


class _Unreadable(Exception):
    def __init__(self, line: int, what: str) -> None:
        self.complaint = Complaint(line, "", what)


class _Loader(yaml.SafeLoader):
    """Composes only what a configuration needs: text, numbers, lists, and sections with text for keys."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        line: int = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise _Unreadable(line, "anchors and aliases (`&name`, `*name`) are not known here: write it out")
        if self._depth == _DEEPEST:
            raise _Unreadable(line, "nested too deeply")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and node.tag not in _TAGS:
            raise _Unreadable(line, "neither text nor a number: if it is text, put it in quotes")
        if isinstance(node, yaml.ScalarNode) and _SURROGATE.search(node.value):
            raise _Unreadable(line, "half a character (a surrogate)")
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        section = super().compose_mapping_node(anchor)
        for key, _ in section.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Unreadable(key.start_mark.line + 1, "a setting's name must be plain text")
        return section


def _compose(text: str) -> yaml.Node:
    """The tree of the text, in which every node knows its line."""
    try:
        loader = _Loader(text)
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _Unreadable(line, f"not YAML: the character U+{ord(text[error.position]):04X}") from error
    try:
        root: yaml.Node | None = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line if error.problem_mark else loader.line
        raise _Unreadable(line + 1, f"not YAML: {error.problem}") from error
    except (ValueError, OverflowError) as error:  # a number in an escape or a directive
        raise _Unreadable(loader.line + 1, "not YAML: a number that is too large") from error
    if root is None:
        raise _Unreadable(1, "the file is empty")
    return root


def _plain(node: yaml.Node, environ: Mapping[str, str], complaints: list[Complaint]) -> Any:
    """The node as plain Python, with variables replaced and repeated keys found (YAML takes the last in silence)."""
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            if key in values:
                complaints.append(Complaint(_line(key_node), key, "is given twice"))
            values[key] = _plain(value_node, environ, complaints)
        return values
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, environ, complaints) for child in node.value]
    try:
        value = yaml.SafeLoader("").construct_object(node)
    except (ValueError, LookupError, OverflowError):  # each comes from some number that looks like one and is none
        complaints.append(Complaint(_line(node), "", "no number: if it is text, put it in quotes"))
        return None
    if not isinstance(value, str):
        return value

    try:
        return _VARIABLE.sub(lambda match: _variable(match[1], environ), value)
    except ConfigurationError as error:
        complaints.append(Complaint(_line(node), "", str(error)))
        return value


def _variable(name: str, environ: Mapping[str, str]) -> str:
    if name in environ:
        return environ[name]
    path = f"{name}_FILE"
    if path in environ:
        return read_secret(path, environ[path])
    raise ConfigurationError(f"the variable {name} is not set")


def _translated(root: yaml.Node, details: ErrorDetails) -> Complaint:
    """What pydantic says, in our words."""
    what = details["msg"].removeprefix("Value error, ")
    if details["type"] == "extra_forbidden":
        what = "there is no such setting"
    return _placed(root, (*details["loc"], *details.get("ctx", {}).get("where", ())), what)


def _placed(root: yaml.Node, where: Sequence[str | int], what: str) -> Complaint:
    """A complaint of the setting at `where`. What is missing is complained of at the section that should have it."""
    node, line = root, _line(root)
    for depth, part in enumerate(where, 1):
        found = _child(node, part)
        if found is None:
            return Complaint(line, ".".join(map(str, where[:depth])), what)
        line, node = found
    return Complaint(line, ".".join(map(str, where)), what)


def _child(node: yaml.Node, part: str | int) -> tuple[int, yaml.Node] | None:
    """The part of a section or list and the line where it begins; a setting begins with its name."""
    if isinstance(node, yaml.MappingNode):
        return next(((_line(key), value) for key, value in node.value if key.value == str(part)), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return _line(node.value[part]), node.value[part]
    return None


def _line(node: yaml.Node) -> int:
    line: int = node.start_mark.line + 1
    return line
