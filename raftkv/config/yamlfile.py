"""The --config-file: YAML whose keys are the flag names (rules F-03 to F-05).

Works on YAML's node tree instead of loaded values, because only the nodes know their lines, and a text like
 `name: 0123` or `auto-compaction-retention: 1:30` must arrive as it was written.
Stricter than etcd in one point: an unknown key is an error, not ignored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from raftkv.config.errors import ConfigError
from raftkv.config.inputs import SPELLINGS, Inputs, Spelling, unknown_name_hint
from raftkv.config.kinds import BOOL, DURATION, INT, LIST, STRING, URLS, parse_bool, parse_duration, parse_int

_TAG: Final = "tag:yaml.org,2002:"
_NULL, _BOOL, _INT = (_TAG + name for name in ("null", "bool", "int"))
_NODE_NAMES: Final[Mapping[type, str]] = {yaml.SequenceNode: "a list", yaml.MappingNode: "a map"}
_YAML_BOOLS: Final = {"yes": "true", "on": "true", "no": "false", "off": "false"}
MAX_FILE_BYTES: Final = 1024 * 1024


def _places() -> dict[str, Spelling]:
    places = {name: spelling for name, spelling in SPELLINGS.items() if name != "config-file"}
    for name, spelling in SPELLINGS.items():
        if spelling.setting is not None and name == spelling.setting.name:
            places |= dict.fromkeys(spelling.setting.yaml, spelling)
    return places


PLACES: Final[Mapping[str, Spelling]] = _places()
"""Dotted place in the file -> what it sets: "name", "client-transport-security.cert-file"."""

_MAPS: Final = frozenset(place[:end] for place in PLACES for end in range(len(place)) if place[end] == ".")
"""Dotted places that hold maps: "client-transport-security", "discovery-config.client"."""


def read_yaml(path: Path) -> Inputs:
    """Everything the file sets. Keys without a value count as not there.

    Raises ConfigError, with the line, when the file cannot be read, is no YAML map, names an unknown key,
    names one twice, or has a value of the wrong type.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except OSError as why:
        raise ConfigError(f"--config-file {path} cannot be read: {why.strerror}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"--config-file {path} is larger than 1 MiB, so it is no configuration")
    try:
        root = yaml.compose(raw, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as why:
        raise ConfigError(f"--config-file {path} is not YAML: {_one_line(why)}") from None
    inputs = Inputs()
    if root is None or root.tag == _NULL:
        return inputs
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"--config-file {path} is not a map of settings", "Write lines of the form name: value.")
    for place, node in _leaves(path, root, ""):
        spelling = PLACES[place]
        try:
            value = _value(spelling, node)
        except ValueError as why:
            raise ConfigError(f"{_at(path, node)}: {place}: {why}") from None
        inputs.add(spelling, value, f"{place} ({_at(path, node)})")
    return inputs


def _leaves(path: Path, node: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, yaml.Node]]:
    """(place, value) of everything that has a value, in file order. Depth is bounded by `_MAPS`."""
    seen: set[str] = set()
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{_at(path, key)}: a key must be the name of a setting")
        if key.value in seen:
            raise ConfigError(f"{_at(path, key)}: {prefix}{key.value} is there twice", "Keep one of the two.")
        seen.add(key.value)
        place = prefix + key.value
        if place not in PLACES and place not in _MAPS:
            raise _unknown_key(path, key, prefix)
        if value.tag == _NULL:
            continue
        if place not in _MAPS:
            yield place, value
        elif isinstance(value, yaml.MappingNode):
            yield from _leaves(path, value, place + ".")
        else:
            raise ConfigError(f"{_at(path, value)}: {place} must be a map of settings")


def _unknown_key(path: Path, key: yaml.ScalarNode, prefix: str) -> ConfigError:
    siblings = {place.removeprefix(prefix).partition(".")[0] for place in PLACES if place.startswith(prefix)}
    where = f" in {prefix.removesuffix('.')}" if prefix else ""
    return ConfigError(
        f"{_at(path, key)}: unknown setting {key.value!r}{where}", unknown_name_hint(key.value, siblings)
    )


def _value(spelling: Spelling, node: yaml.Node) -> Any:
    value = _READERS[spelling.kind.name](node)
    return spelling.setting.check(value) if spelling.setting is not None else value


def _scalar(node: yaml.Node, wanted: str) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError(f"{wanted} is needed here, not {_NODE_NAMES[type(node)]}")
    if "\0" in node.value:
        raise ValueError("a NUL character can be part of no setting")
    return str(node.value)


def _read_string(node: yaml.Node) -> str:
    return _scalar(node, "a text")


def _read_bool(node: yaml.Node) -> bool:
    text = _scalar(node, "true or false")
    if node.tag != _BOOL:
        raise ValueError(f"{text!r} is neither true nor false; write it without quotes")
    return parse_bool(_YAML_BOOLS.get(text.lower(), text))


def _read_int(node: yaml.Node) -> int:
    text = _scalar(node, "a whole number")
    if node.tag != _INT:
        raise ValueError(f"{text!r} is not a whole number; write it without quotes and units")
    return parse_int(text)


def _read_duration(node: yaml.Node) -> int:
    """Whole nanoseconds (rule F-04). A text with a unit is refused as in etcd; the error has the number."""
    text = _scalar(node, "a number of nanoseconds")
    if node.tag == _INT:
        return parse_int(text)
    try:
        meant = f"write {parse_duration(text)} for {text}"
    except ValueError:
        meant = "write for example 1000000000 for 1s"
    raise ValueError(f"durations in the file are whole nanoseconds; {meant}")


def _read_urls(node: yaml.Node) -> Any:
    return URLS.parse(_scalar(node, "one text with commas between the URLs"))


def _read_list(node: yaml.Node) -> tuple[str, ...]:
    """A YAML list; a single text is taken as the comma-separated form of the flag."""
    if isinstance(node, yaml.ScalarNode):
        return tuple(LIST.parse(node.value))
    if not isinstance(node, yaml.SequenceNode):
        raise ValueError("a list is needed here")
    return tuple(dict.fromkeys(_scalar(item, "a text") for item in node.value if item.tag != _NULL))


_READERS: Final[Mapping[str, Callable[[yaml.Node], Any]]] = {
    STRING.name: _read_string,
    BOOL.name: _read_bool,
    INT.name: _read_int,
    DURATION.name: _read_duration,
    URLS.name: _read_urls,
    LIST.name: _read_list,
}


def _at(path: Path, node: yaml.Node) -> str:
    return f"{path} line {node.start_mark.line + 1}"


def _one_line(why: Exception) -> str:
    return " ".join(str(why).split())
