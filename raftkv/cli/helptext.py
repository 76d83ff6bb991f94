"""`raftkv serve --help`, laid out from the table of settings."""

from __future__ import annotations

import textwrap
from typing import Final

from raftkv.config.settings import FeatureGate, Group, Setting, Status
from raftkv.config.tables import FEATURE_GATES, SETTINGS

_WIDTH: Final = 100
_INDENT: Final = " " * 6

_HEAD: Final = """\
Start a member of a raftkv cluster.

Usage:
  raftkv serve [flags]
  raftkv serve --config-file FILE

Flags take one or two dashes: --name=n1 or -name n1; a bool flag takes its value only after "=".
Every flag has an environment variable, shown in brackets; the same setting may not come from both.
Names and defaults are etcd's.

Examples:
  raftkv serve --name=n1 --data-dir=/var/lib/raftkv
  raftkv serve --listen-client-urls=http://0.0.0.0:2379 --advertise-client-urls=http://10.0.0.1:2379
  ETCD_AUTO_COMPACTION_RETENTION=1h raftkv serve
"""

_TYPES: Final = {"urls": "url,…", "list": "text,…", "string": "text", "int": "number"}


def serve_help() -> str:
    """The whole text. Plain, so that it reads the same in a pager and in a file."""
    parts = [_HEAD]
    for group in Group:
        settings = [setting for setting in SETTINGS.values() if setting.group is group]
        parts.append(f"{group.value}:\n" + "".join(_describe(setting) for setting in settings))
    parts.append("Feature gates:\n" + "".join(_describe_gate(gate) for gate in FEATURE_GATES.values()))
    return "\n".join(parts)


def _describe(setting: Setting) -> str:
    kind = setting.kind.name
    value = "|".join(choice for choice in setting.choices if choice) or _TYPES.get(kind, kind)
    default = setting.default_note or setting.default
    head = f"  --{setting.name} {value}" + (f" (default {default})" if default else "") + f"  [{setting.env}]\n"
    text = setting.help
    for alias in setting.aliases:
        text += f" Old name: --{alias}."
    if setting.deprecated:
        text += f" Deprecated: {setting.deprecated}."
    status = setting.status()
    if status is Status.NO_EFFECT:
        text += f" Without effect: {setting.why_no_effect()}."
    elif status is Status.REFUSED and setting.needs is not None:
        text += f" Refused for now: {setting.needs.value} is not supported yet."
    return head + _fill(text)


def _describe_gate(gate: FeatureGate) -> str:
    reason = gate.why_no_effect()
    note = f" Without effect: {reason}." if reason else ""
    return f"  {gate.name}\n" + _fill(f"{gate.help} Default: {str(gate.default).lower()}.{note}")


def _fill(text: str) -> str:
    return (
        textwrap.fill(
            text,
            _WIDTH,
            initial_indent=_INDENT,
            subsequent_indent=_INDENT,
            break_long_words=False,
            break_on_hyphens=False,
        )
        + "\n"
    )
