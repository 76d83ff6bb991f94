"""What a setting is: one row of the one table of all of them.

The table (its rows are in `tables`) drives the flags, the ETCD_* environment, the YAML keys, the help and
docs/configuration.md: a setting that is not in it does not exist. Names, defaults and aliases are etcd's.
Knows nothing of where values come from (`inputs`, `yamlfile`) nor of how they must fit together (`checks`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from raftkv.config.capabilities import UNSUPPORTED, Capability, Unsupported
from raftkv.config.kinds import Kind


class Group(Enum):
    """Headings of the help, in its order."""

    MEMBER = "Member"
    LISTEN = "Addresses"
    REQUESTS = "Requests and connections"
    CLUSTER = "Clustering"
    DISCOVERY = "Discovery"
    COMPACTION = "Compaction and checks"
    SECURITY = "Security"
    AUTH = "Authentication"
    LOGGING = "Logging"
    MONITORING = "Monitoring"
    UNSAFE = "Unsafe"


class Status(Enum):
    SERVED = "served"
    NO_EFFECT = "accepted, without effect"
    REFUSED = "refused until supported"


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table."""

    name: str
    """The flag without dashes; also the YAML key, and the base of the environment variable."""
    kind: Kind
    default: str
    """As one would write it on the command line."""
    group: Group
    help: str
    """What it does: sentences for somebody who knows neither etcd nor raftkv."""
    default_note: str = ""
    """Shown instead of the default where that is computed from other settings."""
    choices: tuple[str, ...] = ()
    """For STRING: every value there is."""
    minimum: int | None = None
    """For INT and DURATION (ns): the smallest value there may be. """
    maximum: int | None = None
    """For INT: the largest value there may be."""
    experimental: bool = False
    """Also spelled --experimental-NAME, deprecated since etcd 3.6 (rule F-51)."""
    yaml: tuple[str, ...] = ()
    """Further places in the YAML file, dotted: "client-transport-security.cert-file" (rule F-05)."""
    needs: Capability | None = None
    """Any value but the default is refused while this capability is not supported."""
    idle_without: Capability | None = None
    """Any value is accepted, and none changes anything while this capability is not supported."""
    no_effect: str = ""
    """Why any value is accepted and none changes anything; completes "without effect because …"."""
    deprecated: str = ""
    """What to use instead; completes "deprecated: …"."""

    @property
    def env(self) -> str:
        return env_name(self.name)

    @property
    def aliases(self) -> tuple[str, ...]:
        return (f"experimental-{self.name}",) if self.experimental else ()

    def default_value(self) -> Any:
        return self.kind.parse(self.default)

    def status(self, unsupported: Unsupported = UNSUPPORTED) -> Status:
        if self.why_no_effect(unsupported):
            return Status.NO_EFFECT
        return Status.REFUSED if self.needs in unsupported else Status.SERVED

    def why_no_effect(self, unsupported: Unsupported = UNSUPPORTED) -> str:
        """Completes "without effect because …"; empty when the setting does something."""
        return _why_no_effect(self.idle_without, self.no_effect, unsupported)

    def parse(self, text: str) -> Any:
        """The checked value of a text. Raises ValueError with a sentence about the value."""
        return self.check(self.kind.parse(text))

    def check(self, value: Any) -> Any:
        """Bounds and choices, for a value that already has the right type. Raises ValueError."""
        if self.choices and value not in self.choices:
            raise ValueError(f"{value!r} is not one of {', '.join(self.choices)}")
        if self.minimum is not None and value < self.minimum:
            raise ValueError(
                f"{self.kind.format(value)} is less than {self.kind.format(self.minimum)}, the least allowed"
            )
        if self.maximum is not None and value > self.maximum:
            raise ValueError(
                f"{self.kind.format(value)} is more than {self.kind.format(self.maximum)}, the most allowed"
            )
        return value


def env_name(flag: str) -> str:
    """Rule F-01: foo-bar is ETCD_FOO_BAR."""
    return "ETCD_" + flag.upper().replace("-", "_")


@dataclass(frozen=True, slots=True)
class FeatureGate:
    """One name of --feature-gates (rule F-50)."""

    name: str
    default: bool
    help: str
    stage: str = "alpha"
    """alpha or beta: which of AllAlpha, AllBeta switches it."""
    alias: str = ""
    """The bool flag that sets it in etcd 3.5; deprecated."""
    idle_without: Capability | None = None
    """The gate has no effect while this is unsupported (a single member has nobody to compare with)."""
    no_effect: str = ""

    def why_no_effect(self, unsupported: Unsupported = UNSUPPORTED) -> str:
        return _why_no_effect(self.idle_without, self.no_effect, unsupported)


def _why_no_effect(idle_without: Capability | None, no_effect: str, unsupported: Unsupported) -> str:
    if idle_without is not None and idle_without in unsupported:
        return f"{idle_without.value} is not supported yet"
    return no_effect


def index_by_name(tables: Iterable[Iterable[Setting]]) -> Mapping[str, Setting]:
    index: dict[str, Setting] = {}
    for table in tables:
        for setting in table:
            assert setting.name not in index, setting.name
            index[setting.name] = setting
    return index


MIB: Final = 1024 * 1024
SECOND_NS: Final = 1_000_000_000
