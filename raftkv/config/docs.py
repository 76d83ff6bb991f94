"""docs/configuration.md, written from the table: `python -m raftkv.config.docs > docs/configuration.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final

from raftkv.config.capabilities import UNSUPPORTED
from raftkv.config.settings import Group, Setting, Status
from raftkv.config.tables import FEATURE_GATES, SETTINGS

_INTRODUCTION: Final = """\
# Configuration

<!-- Written by `python -m raftkv.config.docs`; edit the tables in raftkv/config/tables instead. -->

`raftkv serve` takes etcd's settings under etcd's names. There are three ways to give them:

| Way | Example |
|---|---|
| Flag, with one or two dashes | `--name=n1`, `-name n1`; bool flags need `=`: `--pre-vote=false` |
| Environment variable | `ETCD_NAME=n1` |
| YAML file | `--config-file=raftkv.yml` (or `ETCD_CONFIG_FILE`) with the line `name: n1` |

- **One way per setting.** The same setting by flag and by environment variable is a start error, as is an old
  `--experimental-` name beside its successor. An empty variable counts as not set.
- **A file stands alone.** With a configuration file all other flags and variables are ignored; the log says
  which.
- **Nothing is ignored silently.** An unknown flag ends the start with exit code 2, an unknown key in the file
  with exit code 1, both with the nearest known name. An unknown `ETCD_*` variable is logged. A setting that
  raftkv accepts but has no use for is logged with the reason.
- **Durations** are written `1h30m`, `10s`, `100ms` in flags and variables, and as whole nanoseconds in the
  file: `10000000000` for 10s. `heartbeat-interval` and `election-timeout` are milliseconds everywhere.
- **URLs** are `http://host:port`, `https://host:port` or `unix:///path`, comma-separated, also in the file.
  Listen URLs need an IP address or `localhost`.
- **Lists** are comma-separated in flags and variables, YAML lists in the file.

Exit codes: 0 stopped as asked, 1 a setting cannot be used, 2 the command line cannot be read.

## Where raftkv differs from etcd

- An unknown key in the configuration file, or one that is there twice, is an error. etcd ignores it, so a
  misspelt security setting goes unnoticed.
- `log-format` is `auto` by default: lines for people. etcd's default is `json`.
- Texts in the file may be written without quotes even when they look like numbers, and the TLS settings may
  also stand at the top level under their flag names.
- `rpc-server` is raftkv's own.
- Settings marked *refused until supported* end the start when they are set to anything but their default.
"""

_GATES: Final = """\
## Feature gates

`--feature-gates=Name=true,Other=false`. `AllAlpha` and `AllBeta` switch all gates of that stage that are not
named. An unknown name is a start error.

| Gate | Default | Stage | What it does | Old flag |
|---|---|---|---|---|
"""


_COLUMNS: Final = """\
| Setting | Type | Default | What it does | Status |
|---|---|---|---|---|
"""


def render() -> str:
    """The whole page."""
    parts = [_INTRODUCTION]
    for group in Group:
        rows = "".join(_row(setting) for setting in SETTINGS.values() if setting.group is group)
        parts.append(f"## {group.value}\n\n{_COLUMNS}{rows}")
    parts.append(_GATES + "".join(_gate_rows()))
    return "\n".join(parts)


def _row(setting: Setting) -> str:
    choices = ", ".join(f"`{choice}`" for choice in setting.choices if choice)
    cells = (
        f"`--{setting.name}`<br>`{setting.env}`",
        setting.kind.name,
        f"`{setting.default_note or setting.default or '(empty)'}`",
        setting.help + (f" One of {choices}." if choices else "") + _other_names(setting),
        _status(setting),
    )
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |\n"


def _other_names(setting: Setting) -> str:
    notes = [f" Old name: `--{alias}`." for alias in setting.aliases]
    if setting.yaml:
        notes.append(f" In the file also `{setting.yaml[0]}`.")
    if setting.deprecated:
        notes.append(f" Deprecated: {setting.deprecated}.")
    return "".join(notes)


def _status(setting: Setting) -> str:
    status = setting.status()
    if status is Status.NO_EFFECT:
        return f"{status.value}: {setting.why_no_effect()}"
    if status is Status.REFUSED:
        assert setting.needs is not None
        return f"{status.value}: {setting.needs.value}. {UNSUPPORTED[setting.needs]}"
    return str(status.value)


def _gate_rows() -> Iterator[str]:
    for gate in FEATURE_GATES.values():
        reason = gate.why_no_effect()
        text = gate.help + (f" Accepted, without effect: {reason}." if reason else "")
        alias = f"`--{gate.alias}`" if gate.alias else ""
        default = str(gate.default).lower()
        yield f"| `{gate.name}` | {default} | {gate.stage} | {_cell(text)} | {alias} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(render())
