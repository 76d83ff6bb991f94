"""deploy/compose*.yaml: the parts fit together, every link between members has its proxy, and nothing is left open."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_support import (
    DEPLOY,
    PROJECTS,
    Tree,
    aliases,
    as_compose_reads,
    compose_command,
    image_environment,
    members,
    number_of,
    project,
)

from raftkv.config import load
from raftkv.config.bootstrap import verify_bootstrap
from raftkv.config.inputs import SPELLINGS
from raftkv.config.model import Config
from raftkv.config.settings import env_name
from raftkv.version import RAFTKV_VERSION

SIZES = {"three": 3, "five": 5, "tls": 3}
ONE_SHOT = "certificates"
KNOWN = {env_name(name) for name in SPELLINGS}


@pytest.fixture(params=list(PROJECTS))
def name(request: pytest.FixtureRequest) -> str:
    chosen: str = request.param
    return chosen


@pytest.fixture
def tree(name: str) -> Tree:
    return project(name)


def lasting(tree: Tree) -> dict[str, Tree]:
    """All services but the one that ends when it is done."""
    return {name: service for name, service in tree["services"].items() if name != ONE_SHOT}


def settings_of(service: Tree) -> Config:
    """As the member reads them: the image's environment, and over it that of the service."""
    given = image_environment() | {key: str(value) for key, value in service["environment"].items()}
    assert set(given) <= KNOWN
    return load([], given)


def proxies(tree: Tree) -> list[dict[str, Any]]:
    """The file that this project's Toxiproxy is given."""
    (mount,) = tree["services"]["toxiproxy"]["volumes"]
    source, target, _ = mount.split(":")
    assert f"-config={target}" in tree["services"]["toxiproxy"]["command"]
    parsed: list[dict[str, Any]] = json.loads((DEPLOY / source).read_text())
    return parsed


def test_size(tree: Tree, name: str) -> None:
    assert list(members(tree)) == [f"node{number}" for number in range(1, SIZES[name] + 1)]


def test_settings_are_understood_and_agree(tree: Tree) -> None:
    configs = {member: settings_of(service) for member, service in members(tree).items()}
    for member, config in configs.items():
        assert config.name == member
        assert set(config.initial_cluster) == set(configs)
        verify_bootstrap(config, resolver=lambda host: frozenset((host,)))
        assert {url.host for url in config.advertise_client_urls} == {member}
        assert {url.is_tls for url in (*config.listen_client_urls, *config.listen_peer_urls)} == {
            url.is_tls for url in (*config.advertise_client_urls, *config.initial_advertise_peer_urls)
        }
        assert not any(url.is_tls for url in config.listen_metrics_urls)  # what probes and Prometheus ask
    assert len({config.initial_cluster_token for config in configs.values()}) == 1


def test_every_ordered_pair_has_one_proxy(tree: Tree) -> None:
    """It listens where the dialler looks for the other's peer URL, and leads to the other."""
    by_name = {proxy["name"]: proxy for proxy in proxies(tree)}
    pairs = list(itertools.permutations(members(tree), 2))
    assert sorted(by_name) == sorted(f"{dialler}-{listener}" for dialler, listener in pairs)
    assert len(by_name) == len(proxies(tree))
    toxiproxy = tree["services"]["toxiproxy"]
    for dialler, listener in pairs:
        proxy = by_name[f"{dialler}-{listener}"]
        (url,) = settings_of(members(tree)[listener]).initial_advertise_peer_urls
        (listens,) = settings_of(members(tree)[listener]).listen_peer_urls
        assert proxy["enabled"] is True
        assert proxy["listen"] == f"from-{dialler}.internal:{url.port}"
        assert proxy["upstream"] == f"{listener}.self.internal:{listens.port}"
        here = aliases(toxiproxy, f"links{number_of(dialler)}")
        assert f"from-{dialler}.internal" in here
        assert url.host in here
        assert aliases(members(tree)[listener], f"links{number_of(listener)}") == [f"{listener}.self.internal"]


def test_no_way_leads_around_the_proxies(tree: Tree) -> None:
    """A member shares its links' network with Toxiproxy alone, and elsewhere nobody bears a name of a peer URL."""
    for member in members(tree):
        network = f"links{number_of(member)}"
        there = {name for name, service in tree["services"].items() if network in service.get("networks", ())}
        assert there == {member, "toxiproxy"}
        assert f"{member}.peer.internal" not in aliases(tree["services"]["toxiproxy"], network)
    for service in tree["services"].values():
        if "clients" in service.get("networks", ()):
            assert not aliases(service, "clients")


def test_ports_are_this_machines_own_and_no_two_are_equal(tree: Tree) -> None:
    published = [port for service in lasting(tree).values() for port in service["ports"]]
    matches = [re.fullmatch(r"127\.0\.0\.1:(\d+):(\d+)", port) for port in published]
    assert all(matches), published
    outside = [match[1] for match in matches if match]
    assert len(set(outside)) == len(outside) == len(lasting(tree))


def test_images_are_pinned_and_ours_bears_the_version(tree: Tree) -> None:
    for name, service in tree["services"].items():
        image, _, tag = service["image"].rpartition(":")
        assert image, name
        assert re.search(r"\d+\.\d+\.\d+$", tag), f"{name}: {service['image']}"
        if name.startswith("node") or name == ONE_SHOT:
            assert service["image"] == f"raftkv:{RAFTKV_VERSION}"
    assert f"ARG VERSION={RAFTKV_VERSION}\n" in (DEPLOY / "Dockerfile").read_text()


def test_everything_is_watched_and_comes_back(tree: Tree) -> None:
    for name, service in lasting(tree).items():
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] == "CMD", name


def test_members_may_do_nothing_but_write_their_data(tree: Tree) -> None:
    for member, service in members(tree).items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "cap_add" not in service
        assert service["security_opt"] == ["no-new-privileges:true"]
        writable = [mount for mount in service["volumes"] if not mount.endswith(":ro")]
        assert writable == [f"data{number_of(member)}:{image_environment()['ETCD_DATA_DIR']}"]


def test_each_member_sees_its_own_key_alone() -> None:
    tree = project("tls")
    made = dict(mount.split(":") for mount in tree["services"][ONE_SHOT]["volumes"])
    holders = dict(word.partition("=")[::2] for word in tree["services"][ONE_SHOT]["command"])
    for member, service in members(tree).items():
        secret = f"tls{number_of(member)}"
        mounts = [mount for mount in service["volumes"] if mount.split(":")[0] in made]
        assert mounts == [f"{secret}:/etc/raftkv:ro"]
        assert made[secret] == f"/certificates/{member}"
        config = settings_of(service)
        (peer,) = config.initial_advertise_peer_urls
        assert {member, peer.host, "localhost", "127.0.0.1"} == set(holders[member].split(","))
        assert config.client_tls.client_cert_auth
        assert config.peer_tls.client_cert_auth
    assert holders["client"] == ""


def test_what_is_mounted_is_there_and_what_is_declared_is_used(tree: Tree) -> None:
    mounts = [mount.split(":")[0] for service in tree["services"].values() for mount in service["volumes"]]
    for source in mounts:
        if source.startswith("."):
            assert (DEPLOY / source).exists(), source
    assert {source for source in mounts if not source.startswith(".")} == set(tree["volumes"])
    networks = {network for service in tree["services"].values() for network in service.get("networks", ())}
    assert networks == set(tree["networks"])


def test_prometheus_scrapes_every_member_and_loads_the_rules(tree: Tree) -> None:
    mounts = dict(mount.split(":")[1::-1] for mount in tree["services"]["prometheus"]["volumes"])
    config = yaml.safe_load((DEPLOY / mounts["/etc/prometheus"] / "prometheus.yaml").read_text())
    (rules,) = config["rule_files"]
    assert list((DEPLOY / mounts["/etc/prometheus"]).glob(Path(rules).name))
    job = next(each for each in config["scrape_configs"] if each["job_name"] == "etcd")
    (file,) = job["file_sd_configs"][0]["files"]
    (group,) = yaml.safe_load((DEPLOY / mounts[file]).read_text())
    ports = {member: settings_of(service).listen_metrics_urls[0].port for member, service in members(tree).items()}
    assert group["targets"] == [f"{member}:{port}" for member, port in ports.items()]


def test_grafana_finds_what_is_provisioned() -> None:
    service = project("three")["services"]["grafana"]
    mounts = dict(mount.split(":")[1::-1] for mount in service["volumes"])
    provisioning = DEPLOY / mounts["/etc/grafana/provisioning"]
    (sources,) = (yaml.safe_load(file.read_text()) for file in (provisioning / "datasources").glob("*.yaml"))
    assert [source["url"] for source in sources["datasources"]] == ["http://prometheus:9090"]
    (dashboards,) = (yaml.safe_load(file.read_text()) for file in (provisioning / "dashboards").glob("*.yaml"))
    for provider in dashboards["providers"]:
        assert list((DEPLOY / mounts[provider["options"]["path"]]).glob("*.json"))


def test_compose_reads_the_files_as_these_tests_do(name: str, tree: Tree) -> None:
    command = compose_command()
    if command is None:
        pytest.skip("no `docker compose` on this machine: the files were judged by this module's own reading of them")
    theirs = as_compose_reads(command, name)
    assert set(theirs["services"]) == set(tree["services"])
    assert set(theirs["networks"]) == set(tree["networks"])
    assert set(theirs["volumes"]) == set(tree["volumes"])
    for service, ours in tree["services"].items():
        read = theirs["services"][service]
        assert read["image"] == ours["image"]
        assert read.get("environment", {}) == {key: str(each) for key, each in ours.get("environment", {}).items()}
        assert set(read.get("networks", ())) == set(ours.get("networks", ()))
        for network in read.get("networks", ()):
            assert set((read["networks"][network] or {}).get("aliases", ())) == set(aliases(ours, network))
        assert sorted(f"{each['host_ip']}:{each['published']}:{each['target']}" for each in read.get("ports", ())) == (
            sorted(ours.get("ports", ()))
        )
        assert sorted(each["target"] for each in read["volumes"]) == sorted(
            mount.split(":")[1] for mount in ours["volumes"]
        )
        assert sorted(Path(each["source"]).name for each in read["volumes"]) == sorted(
            Path(mount.split(":")[0]).name for mount in ours["volumes"]
        )
        assert set(read.get("depends_on", ())) == set(ours.get("depends_on", ()))
