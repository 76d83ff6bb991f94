"""The Compose files under deploy/ as Compose reads them: `extends`, files laid over others, `!override`, variables.

Knows the part of Compose's rules that our files use; where Compose itself is there, a test compares.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final, TypeAlias

import yaml

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
PROJECTS: Final = {
    "three": ("compose.yaml",),
    "five": ("compose.5.yaml",),
    "tls": ("compose.yaml", "compose.tls.yaml"),
}
"""Name -> the files given with -f."""

Tree: TypeAlias = dict[str, Any]
_VARIABLE: Final = re.compile(r"\$\{\w+:-([^}]*)\}")


class _Override(list[Any]):
    """What !override was written before: a list, or the items of a mapping."""


class _Loader(yaml.SafeLoader):
    pass


def _override(loader: _Loader, node: yaml.Node) -> _Override:
    if isinstance(node, yaml.MappingNode):
        return _Override(loader.construct_mapping(node, deep=True).items())
    assert isinstance(node, yaml.SequenceNode)
    return _Override(loader.construct_sequence(node, deep=True))


_Loader.add_constructor("!override", _override)


def read(file: str) -> Tree:
    """One file as it is written, variables replaced by their defaults."""
    text = _VARIABLE.sub(r"\1", (DEPLOY / file).read_text())
    parsed: Tree = yaml.load(text, _Loader)  # a SafeLoader
    return {key: value for key, value in parsed.items() if not key.startswith("x-")}


def project(name: str) -> Tree:
    """What Compose makes of the files of a project."""
    merged: Tree = {}
    for file in PROJECTS[name]:
        tree = read(file)
        tree["services"] = {key: _extended(service) for key, service in tree["services"].items()}
        merged = _laid_over(merged, tree, ())
    return merged


def _extended(service: Tree) -> Tree:
    base = service.pop("extends", None)
    if base is None:
        return service
    whole: Tree = _laid_over(_extended(read(base["file"])["services"][base["service"]]), service, ("services", ""))
    return whole


_REPLACED: Final = ("command", "entrypoint", "test", "cap_drop", "cap_add")


def _laid_over(lower: Any, upper: Any, path: tuple[str, ...]) -> Any:
    if isinstance(upper, _Override):
        return dict(upper) if isinstance(lower, dict) else list(upper)
    if isinstance(lower, dict) and isinstance(upper, dict):
        both = {key: _laid_over(lower[key], upper[key], (*path, key)) for key in upper if key in lower}
        return {**lower, **upper, **both}
    if isinstance(lower, list) and isinstance(upper, list) and path[-1] not in _REPLACED:
        if path[-1] == "volumes":
            return list({_target(each): each for each in (*lower, *upper)}.values())
        return list(dict.fromkeys((*lower, *upper)))
    return lower if upper is None else upper


def _target(mount: str) -> str:
    return mount.split(":")[1]


def members(tree: Tree) -> dict[str, Tree]:
    return {name: service for name, service in tree["services"].items() if name.startswith("node")}


def number_of(member: str) -> str:
    return member.removeprefix("node")


def aliases(service: Tree, network: str) -> list[str]:
    networks = service["networks"]
    settings = networks[network] if isinstance(networks, dict) else None
    return list((settings or {}).get("aliases", ()))


def image_environment() -> dict[str, str]:
    """The ETCD_* settings that the image brings along."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    (line,) = (each for each in text.splitlines() if each.startswith("ENV ") and "ETCD_" in each)
    words = (word.partition("=") for word in line.split()[1:])
    return {name: value for name, _, value in words if name.startswith("ETCD_")}


def compose_command() -> list[str] | None:
    """`docker compose`, if it is there; it need not have a daemon."""
    if shutil.which("docker") is None:
        return None
    found = subprocess.run(("docker", "compose", "version", "--short"), capture_output=True, text=True)
    return ["docker", "compose"] if found.returncode == 0 else None


def as_compose_reads(command: list[str], name: str) -> Tree:
    """What `docker compose config` makes of a project. Raises CalledProcessError when it takes the files for wrong."""
    files = [word for file in PROJECTS[name] for word in ("-f", str(DEPLOY / file))]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("RAFTKV_", "COMPOSE_"))}
    done = subprocess.run(
        [*command, *files, "config", "--format", "json"], capture_output=True, text=True, check=True, env=clean
    )
    parsed: Tree = json.loads(done.stdout)
    return parsed
