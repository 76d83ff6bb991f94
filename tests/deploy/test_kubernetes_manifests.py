"""deploy/kubernetes: the objects fit together, and what they tell a member is what raftkv understands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from raftkv.config import load
from raftkv.config.inputs import SPELLINGS
from raftkv.config.model import Config
from raftkv.config.settings import env_name

DEPLOY = Path(__file__).parents[2] / "deploy"
HERE = DEPLOY / "kubernetes"
NAMESPACE = "stores"
SETTINGS = ("settings.yaml", "settings-tls.yaml")
REFERENCE = re.compile(r"\$\(([A-Z_]+)\)")

Object = dict[str, Any]


def objects(file: str) -> list[Object]:
    return list(yaml.safe_load_all((HERE / file).read_text()))


def one(file: str, kind: str, name: str = "raftkv") -> Object:
    (found,) = (each for each in objects(file) if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def stateful_set() -> Object:
    return one("statefulset.yaml", "StatefulSet")


def pod() -> Object:
    template: Object = stateful_set()["spec"]["template"]
    return template


def container() -> Object:
    (only,) = pod()["spec"]["containers"]
    assert isinstance(only, dict)
    return only


def named_ports() -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container()["ports"]}


# --- what a member is told --------------------------------------------------------------------------------------------


def value_of(entry: Object, pod_name: str, settings: Mapping[str, str], before: Mapping[str, str]) -> str:
    """As the kubelet computes it: references are to what stands before in the list, others stay as they are."""
    source = entry.get("valueFrom")
    if source is None:
        return REFERENCE.sub(lambda match: before.get(match[1], match[0]), entry["value"])
    if "fieldRef" in source:
        return {"metadata.name": pod_name, "metadata.namespace": NAMESPACE}[source["fieldRef"]["fieldPath"]]
    reference = source["configMapKeyRef"]
    assert reference["name"] == "raftkv"
    return settings[reference["key"]]


def environment(pod_name: str, settings_file: str) -> dict[str, str]:
    settings: dict[str, str] = one(settings_file, "ConfigMap")["data"]
    assert all(isinstance(value, str) for value in settings.values()), "Kubernetes takes only texts"
    assert [each["configMapRef"]["name"] for each in container()["envFrom"]] == ["raftkv"]
    own: dict[str, str] = {}
    for entry in container()["env"]:
        own[entry["name"]] = value_of(entry, pod_name, settings, own)
    return settings | own


def config(pod_name: str, settings_file: str) -> Config:
    program, command, *flags = container()["command"]
    assert (program, command) == ("raftkv", "serve")
    return load([*flags, *container().get("args", [])], environment(pod_name, settings_file))


def pods() -> list[str]:
    return [f"raftkv-{number}" for number in range(stateful_set()["spec"]["replicas"])]


@pytest.mark.parametrize("settings_file", SETTINGS)
def test_settings_are_known(settings_file: str) -> None:
    """Every variable is one of raftkv's, or is used by one; and raftkv has nothing to say about any of them."""
    told = environment("raftkv-0", settings_file)
    assert {name for name in told if not name.startswith("ETCD_")} == {"POD", "NAMESPACE", "SCHEME", "DOMAIN"}
    assert {name for name in told if name.startswith("ETCD_")} <= {env_name(name) for name in SPELLINGS}
    assert not any("$" in value for value in told.values()), "a reference to something that does not stand before it"
    assert config("raftkv-0", settings_file).notices == ()


@pytest.mark.parametrize("settings_file", SETTINGS)
def test_all_members_mean_the_same_cluster(settings_file: str) -> None:
    """Each is who the others take it for, and the names are those that the headless Service gives."""
    scheme = one(settings_file, "ConfigMap")["data"]["SCHEME"]
    service = stateful_set()["spec"]["serviceName"]
    configs = [config(name, settings_file) for name in pods()]
    assert len({str(each.initial_cluster) for each in configs}) == 1
    assert list(configs[0].initial_cluster) == pods()
    for name, each in zip(pods(), configs, strict=True):
        assert each.name == name
        assert each.initial_advertise_peer_urls == each.initial_cluster[name]
        assert [str(url) for url in each.initial_advertise_peer_urls] == [
            f"{scheme}://{name}.{service}.{NAMESPACE}.svc:2380"
        ]
        assert [str(url) for url in each.advertise_client_urls] == [f"{scheme}://{name}.{service}.{NAMESPACE}.svc:2379"]


@pytest.mark.parametrize("settings_file", SETTINGS)
def test_members_listen_where_the_ports_say(settings_file: str) -> None:
    told = config("raftkv-0", settings_file)
    listening = {
        "client": told.listen_client_urls,
        "peer": told.listen_peer_urls,
        "metrics": told.listen_metrics_urls,
    }
    assert {name: [url.port for url in urls] for name, urls in listening.items()} == {
        name: [port] for name, port in named_ports().items()
    }


def test_tls_is_all_that_differs() -> None:
    plain, secure = (one(file, "ConfigMap")["data"] for file in SETTINGS)
    more = {name for name in secure if name not in plain}
    assert {name for name in plain if plain[name] != secure.get(name)} == {"SCHEME"}
    files = [secure[name] for name in more if name.endswith("_FILE")]
    (mount,) = (each for each in container()["volumeMounts"] if each["name"] == "tls")
    assert {str(Path(file).parent) for file in files} == {mount["mountPath"]}
    told = config("raftkv-0", "settings-tls.yaml")
    assert told.client_tls.client_cert_auth
    assert told.peer_tls.client_cert_auth


# --- how the objects fit together -------------------------------------------------------------------------------------


def selectors() -> Iterator[tuple[str, dict[str, str]]]:
    for service in objects("services.yaml"):
        yield service["metadata"]["name"], service["spec"]["selector"]
    spec = stateful_set()["spec"]
    yield "StatefulSet", spec["selector"]["matchLabels"]
    yield "PodDisruptionBudget", one("disruption.yaml", "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
    policy = one("network-policy.yaml", "NetworkPolicy")["spec"]
    yield "NetworkPolicy", policy["podSelector"]["matchLabels"]
    yield "NetworkPolicy, from", policy["ingress"][0]["from"][0]["podSelector"]["matchLabels"]
    (rule,) = pod()["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    yield "anti-affinity", rule["labelSelector"]["matchLabels"]
    (spread,) = pod()["spec"]["topologySpreadConstraints"]
    yield "spread", spread["labelSelector"]["matchLabels"]


@pytest.mark.parametrize(("who", "selector"), list(selectors()))
def test_selectors_find_the_pods(who: str, selector: dict[str, str]) -> None:
    assert selector
    assert selector.items() <= pod()["metadata"]["labels"].items(), who


def test_ports_are_there() -> None:
    ports = named_ports()
    for service in objects("services.yaml"):
        for port in service["spec"]["ports"]:
            assert (port["targetPort"], port["port"]) == (port["name"], ports[port["targetPort"]])
    allowed = [
        port["port"]
        for rule in one("network-policy.yaml", "NetworkPolicy")["spec"]["ingress"]
        for port in rule["ports"]
    ]
    assert sorted(allowed) == sorted(ports)
    assert pod()["metadata"]["annotations"]["prometheus.io/port"] == str(ports["metrics"])


def test_probes_ask_the_plain_port() -> None:
    """H-55: alive without a quorum, ready only with one."""
    asked = {
        name: (container()[name]["httpGet"]["path"], container()[name]["httpGet"]["port"])
        for name in ("startupProbe", "livenessProbe", "readinessProbe")
    }
    assert asked == {
        "startupProbe": ("/livez", "metrics"),
        "livenessProbe": ("/livez", "metrics"),
        "readinessProbe": ("/readyz", "metrics"),
    }


def test_the_members_service_knows_members_that_are_not_ready() -> None:
    """Without it no member finds another, and none is ever ready."""
    spec = one("services.yaml", "Service", stateful_set()["spec"]["serviceName"])["spec"]
    assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", True)
    assert stateful_set()["spec"]["podManagementPolicy"] == "Parallel"


def test_a_quorum_stays_when_nodes_are_drained() -> None:
    unavailable = one("disruption.yaml", "PodDisruptionBudget")["spec"]["maxUnavailable"]
    assert unavailable <= (stateful_set()["spec"]["replicas"] - 1) // 2


def test_volumes_are_there_and_hold_the_data() -> None:
    volumes = {each["name"] for each in pod()["spec"]["volumes"]}
    claims = {each["metadata"]["name"]: each["spec"] for each in stateful_set()["spec"]["volumeClaimTemplates"]}
    mounts = {each["name"]: each["mountPath"] for each in container()["volumeMounts"]}
    assert mounts.keys() == volumes | claims.keys()
    told = config("raftkv-0", "settings.yaml")
    assert told.data_dir.is_relative_to(mounts["data"])
    requested = claims["data"]["resources"]["requests"]["storage"]
    assert told.quota_backend_bytes is not None
    assert int(requested.removesuffix("Gi")) << 30 > 2 * told.quota_backend_bytes


def test_nothing_that_a_member_does_not_need() -> None:
    security = pod()["spec"]["securityContext"] | container()["securityContext"]
    assert security["runAsNonRoot"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert pod()["spec"]["automountServiceAccountToken"] is False
    assert "cpu" not in container()["resources"]["limits"]
    user = re.search(r"^USER (\d+):(\d+)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    assert (security["runAsUser"], security["runAsGroup"]) == (int(user[1]), int(user[2]))


def test_an_api_server_is_told_all_members_over_tls() -> None:
    """The external etcd of kubeadm."""
    (cluster,) = objects("kubeadm.yaml")
    external = cluster["etcd"]["external"]
    assert len(set(external["endpoints"])) == 3
    assert all(re.fullmatch(r"https://[0-9.]+:2379", each) for each in external["endpoints"])
    assert {"caFile", "certFile", "keyFile"} <= external.keys()


def test_every_manifest_is_looked_at() -> None:
    """A new file needs a test."""
    assert sorted(each.name for each in HERE.iterdir()) == [
        "disruption.yaml",
        "kubeadm.yaml",
        "network-policy.yaml",
        "services.yaml",
        "settings-tls.yaml",
        "settings.yaml",
        "statefulset.yaml",
    ]
