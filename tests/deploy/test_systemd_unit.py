"""deploy/systemd: what the unit and its example of settings say is what raftkv and systemd understand (F-09)."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from raftkv.config import load
from raftkv.config.inputs import SPELLINGS
from raftkv.config.settings import env_name

HERE = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = HERE / "raftkv.service"
EXAMPLE = HERE / "raftkv.env.example"
KNOWN = {env_name(name) for name in SPELLINGS}

MAX_EXPOSURE = 1.5
"""Of systemd-analyze security, 0 to 10. It was 1.4; what makes it worse should be noticed."""


def lines_of(section: str) -> dict[str, list[str]]:
    """Key -> values in their order."""
    found: dict[str, list[str]] = {}
    current = ""
    for line in UNIT.read_text().splitlines():
        if line.startswith("["):
            current = line.strip("[]")
        elif line and not line.startswith("#") and current == section:
            key, equals, value = line.partition("=")
            assert equals, line
            found.setdefault(key, []).append(value)
    return found


def environment_of(text: str) -> dict[str, str]:
    """As EnvironmentFile= is read, as far as the example goes."""
    pairs = (line.partition("=") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def own_environment() -> dict[str, str]:
    return dict(each.split("=", 1) for line in lines_of("Service")["Environment"] for each in shlex.split(line))


def test_flags_and_variables_are_known() -> None:
    """Together as systemd puts them together."""
    program, command, *flags = shlex.split(lines_of("Service")["ExecStart"][0])
    assert (Path(program).name, command) == ("raftkv", "serve")
    config = load(flags, own_environment() | environment_of(EXAMPLE.read_text()))
    assert config.notices == ()
    assert (config.name, str(config.data_dir), config.log.format) == ("db1", "/var/lib/raftkv", "json")
    assert config.initial_advertise_peer_urls == config.initial_cluster["db1"]


def test_what_the_example_leaves_out_is_known_as_well() -> None:
    """With the lines for TLS taken in, and https in the place of http."""
    text = re.sub(r"^# (ETCD_)", r"\1", EXAMPLE.read_text(), flags=re.MULTILINE).replace("http://", "https://")
    environment = own_environment() | environment_of(text)
    assert environment.keys() <= KNOWN
    assert len(environment) > 18
    config = load([], environment)
    assert config.notices == ()
    assert config.client_tls.client_cert_auth
    assert config.peer_tls.client_cert_auth


def test_the_data_is_where_systemd_lets_it_be() -> None:
    service = lines_of("Service")
    assert own_environment()["ETCD_DATA_DIR"] == f"/var/lib/{service['StateDirectory'][0]}"
    assert service["EnvironmentFile"] == ["/etc/raftkv/raftkv.env"]
    assert f"u {service['User'][0]} " in (HERE / "raftkv.sysusers").read_text()


def test_it_is_told_and_waits() -> None:
    """READY=1 comes with a leader, which may take as long as another machine."""
    service = lines_of("Service")
    assert service["Type"] == ["notify"]
    assert service["TimeoutStartSec"] == ["infinity"]
    assert service["Restart"] == ["on-failure"]


def analyze(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze on the PATH: it is in Debian's package systemd")
    return subprocess.run([program, *map(str, argv)], capture_output=True, text=True, timeout=60, check=False)


def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    """With a program that is there: /opt/raftkv is made by whoever installs."""
    copy = tmp_path / UNIT.name
    program = shlex.split(lines_of("Service")["ExecStart"][0])[0]
    copy.write_text(UNIT.read_text().replace(program, shutil.which("true") or "/bin/true"))
    done = analyze("verify", "--man=no", "--recursive-errors=no", copy)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_mistake_would_be_found(tmp_path: Path) -> None:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("NoNewPrivileges=", "NoNewPriviledges="))
    assert "NoNewPriviledges" in analyze("verify", "--man=no", "--recursive-errors=no", copy).stderr


def test_exposure() -> None:
    done = analyze("security", "--offline=true", "--no-pager", UNIT)
    if "Unknown" in done.stderr or "unrecognized option" in done.stderr:
        pytest.skip(f"this systemd-analyze judges no files: {done.stderr.strip()}")
    exposure = re.search(r"Overall exposure level for raftkv.service: ([0-9.]+)", done.stdout)
    assert exposure is not None, done.stdout + done.stderr
    assert float(exposure[1]) <= MAX_EXPOSURE
