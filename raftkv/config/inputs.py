"""What was given by flags, environment or file, each value with where it came from.

Owns the conflict rules between two ways of giving the same thing (F-02, F-10) and the hints for
misspelt names.
Checks values one by one; how they fit together is `checks`' business.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from raftkv.config.errors import ConfigError
from raftkv.config.kinds import BOOL, Kind
from raftkv.config.settings import FeatureGate, Setting, env_name
from raftkv.config.tables import FEATURE_GATES, RETIRED, SETTINGS


class Notice(NamedTuple):
    """A warning found before there is a log to write it to; the server logs it first thing."""

    text: str
    """A constant sentence."""
    fields: Mapping[str, Any]


class Given(NamedTuple):
    """A value somebody wrote."""

    value: Any
    origin: str
    """How a message names the place: `--name`, `ETCD_NAME`, `name (etcd.yml line 3)`."""


@dataclass(frozen=True, slots=True)
class Spelling:
    """What a flag name stands for: a setting, or (etcd 3.5's bool flags) a feature gate."""

    kind: Kind
    parse: Callable[[str], Any]
    setting: Setting | None
    gate: FeatureGate | None
    deprecated: str
    """What to write instead, empty when the name is current."""


def _spellings() -> dict[str, Spelling]:
    names: dict[str, Spelling] = {}
    for setting in SETTINGS.values():
        names[setting.name] = Spelling(setting.kind, setting.parse, setting, None, setting.deprecated)
        for alias in setting.aliases:
            names[alias] = Spelling(setting.kind, setting.parse, setting, None, f"use --{setting.name}")
    for gate in FEATURE_GATES.values():
        if gate.alias:
            instead = f"use --feature-gates={gate.name}=true"
            names[gate.alias] = Spelling(BOOL, BOOL.parse, None, gate, instead)
    return names


SPELLINGS: Final[Mapping[str, Spelling]] = _spellings()
"""Every flag name there is, aliases included -> what it stands for."""


@dataclass(slots=True)
class Inputs:
    """Everything given, gathered while reading. One instance per start."""

    values: dict[str, Given] = field(default_factory=dict)
    """Setting name -> value."""
    gates: dict[str, Given] = field(default_factory=dict)
    """Feature gate name -> bool, from the old flags only; --feature-gates is in `values`."""
    notices: list[Notice] = field(default_factory=list)

    def add(self, spelling: Spelling, value: Any, origin: str) -> None:
        """Raises ConfigError when the same thing was already given in another way."""
        if spelling.setting is not None:
            target, key = self.values, spelling.setting.name
        else:
            assert spelling.gate is not None
            target, key = self.gates, spelling.gate.name
        earlier = target.get(key)
        if earlier is not None and earlier.origin != origin:
            raise ConfigError(
                f"{earlier.origin} and {origin} set the same thing", "Keep one of the two and drop the other."
            )
        if earlier is not None and earlier.value != value:
            self.notices.append(Notice("a flag is given twice; the last value counts", {"flag": origin}))
        target[key] = Given(value, origin)
        if spelling.deprecated and earlier is None:
            fields = {"setting": origin, "instead": spelling.deprecated}
            self.notices.append(Notice("a deprecated setting is used", fields))


def read_environ(environ: Mapping[str, str], inputs: Inputs) -> None:
    """Adds every known ETCD_* variable that is not empty; unknown ones become notices (F-02).

    Raises ConfigError for an unreadable value and for a setting that a flag has set as well.
    """
    known = {env_name(name): spelling for name, spelling in SPELLINGS.items()}
    for variable in sorted(environ):
        text = environ[variable]
        if not variable.startswith("ETCD_") or not text:
            continue
        spelling = known.get(variable)
        if spelling is None:
            inputs.notices.append(Notice("an environment variable is not a known setting", {"variable": variable}))
            continue
        try:
            value = spelling.parse(text)
        except ValueError as why:
            raise ConfigError(f"environment variable {variable}: {why}") from None
        inputs.add(spelling, value, f"environment variable {variable}")


def nearest(name: str, names: Iterable[str]) -> str:
    """The known name that `name` was probably meant to be, or empty."""
    matches = difflib.get_close_matches(name.replace("_", "-").lower(), sorted(names), n=1, cutoff=0.7)
    return matches[0] if matches else ""


def unknown_name_hint(name: str, names: Iterable[str], prefix: str = "") -> str:
    if name in RETIRED:
        return f"It does not exist any more: {RETIRED[name]}."
    match = nearest(name, names)
    return f"Did you mean {prefix}{match}?" if match else ""
