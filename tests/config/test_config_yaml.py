"""The configuration file: F-03, F-04, F-05."""

import contextlib
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raftkv.config import Config, ConfigError, load
from raftkv.config.yamlfile import MAX_FILE_BYTES, PLACES, read_yaml


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "raftkv.yml"


def load_file(file: Path, text: str) -> Config:
    file.write_text(text)
    return load([f"--config-file={file}"], {})


def problem(file: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_file(file, text)
    assert caught.value.exit_code == 1
    return str(caught.value).replace(f"{file} ", "")


def test_file_by_flag_or_by_variable(file: Path) -> None:
    """F-03."""
    assert load_file(file, "name: n1").name == "n1"
    assert load([], {"ETCD_CONFIG_FILE": str(file)}).name == "n1"


def test_flags_and_variables_beside_a_file_are_ignored_and_named(file: Path) -> None:
    """F-03."""
    file.write_text("name: n1")
    argv = [f"--config-file={file}", "--name=n2", "--experimental-initial-corrupt-check"]
    config = load(argv, {"ETCD_DATA_DIR": "/elsewhere"})
    assert (config.name, str(config.data_dir)) == ("n1", "n1.etcd")
    (notice,) = config.notices
    assert notice.fields["ignored"] == [
        "flag --name",
        "flag --experimental-initial-corrupt-check",
        "environment variable ETCD_DATA_DIR",
    ]


def test_file_by_flag_and_by_variable(file: Path) -> None:
    file.write_text("name: n1")
    with pytest.raises(ConfigError, match="ETCD_CONFIG_FILE set the same thing"):
        load([f"--config-file={file}"], {"ETCD_CONFIG_FILE": str(file)})


def test_security_maps(file: Path) -> None:
    """F-05."""
    file.write_text(
        """
client-transport-security:
  cert-file: c
  key-file: k
  client-cert-file: cc
  client-key-file: ck
  client-cert-auth: true
  trusted-ca-file: ca
  auto-tls: true
  allowed-hostname: [h1, h2]
peer-transport-security:
  cert-file: pc
  client-cert-auth: true
  allowed-cn: [x]
  skip-client-san-verification: true
socket-options: {reuse-port: true, reuse-address: true}
discovery-config:
  token: t
  client: {endpoints: [a, b], dial-timeout: 1, secure: {insecure-transport: false}, auth: {username: u}}
"""
    )
    values = {name: given.value for name, given in read_yaml(file).values.items()}
    assert values == {
        "cert-file": "c",
        "key-file": "k",
        "client-cert-file": "cc",
        "client-key-file": "ck",
        "client-cert-auth": True,
        "trusted-ca-file": "ca",
        "auto-tls": True,
        "client-cert-allowed-hostname": ("h1", "h2"),
        "peer-cert-file": "pc",
        "peer-client-cert-auth": True,
        "peer-cert-allowed-cn": ("x",),
        "peer-skip-client-san-verification": True,
        "socket-reuse-port": True,
        "socket-reuse-address": True,
        "discovery-token": "t",
        "discovery-endpoints": ("a", "b"),
        "discovery-dial-timeout": 1,
        "discovery-insecure-transport": False,
        "discovery-user": "u",
    }


def test_catch_up_entries_has_its_own_spelling(file: Path) -> None:
    """F-04."""
    assert load_file(file, "experimental-snapshot-catch-up-entries: 9").snapshot_catchup_entries == 9


def test_feature_gates_are_a_text(file: Path) -> None:
    """F-04."""
    assert load_file(file, "feature-gates: LeaseCheckpoint=true").feature_gates["LeaseCheckpoint"]


@pytest.mark.parametrize("value", ["1", '"1"', "01"])
def test_texts_arrive_as_written(file: Path, value: str) -> None:
    config = load_file(file, f"auto-compaction-retention: {value}\ninitial-cluster-token: 12:30\nname: 0123")
    assert config.auto_compaction is not None
    assert config.auto_compaction.period_s == 3600
    assert (config.initial_cluster_token, config.name) == ("12:30", "0123")


def test_keys_without_a_value_are_not_set(file: Path) -> None:
    """As in the sample file that etcd ships."""
    config = load_file(file, "name: n1\ndata-dir:\ncors:\nclient-transport-security:\n  cert-file:\npre-vote: ~")
    assert (str(config.data_dir), config.pre_vote) == ("n1.etcd", True)
    assert set(config.given) == {"name", "config-file"}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}"])
def test_empty_file_is_all_defaults(file: Path, text: str) -> None:
    assert load_file(file, text).name == "default"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name: a\nheartbeat-intervall: 1",
            "line 2: unknown setting 'heartbeat-intervall'. Did you mean heartbeat-interval?",
        ),
        ("config-file: x", "line 1: unknown setting 'config-file'"),
        (
            "proxy: 'off'",
            "line 1: unknown setting 'proxy'. It does not exist any more: etcd removed its v2 proxy.",
        ),
        (
            "client-transport-security:\n  cert_file: x",
            "line 2: unknown setting 'cert_file' in client-transport-security. Did you mean cert-file?",
        ),
        ("client-transport-security: x", "line 1: client-transport-security must be a map of settings"),
        ("name: a\nname: b", "line 2: name is there twice. Keep one of the two."),
        ("pre-vote: 'false'", "line 1: pre-vote: 'false' is neither true nor false; write it without quotes"),
        ("max-wals: '5'", "line 1: max-wals: '5' is not a whole number; write it without quotes and units"),
        ("max-wals: 1:30", "line 1: max-wals: '1:30' is not a whole number"),
        ("max-wals: -5", "line 1: max-wals: -5 is less than 0, the least allowed"),
        (
            "grpc-keepalive-timeout: 20s",
            ("line 1: grpc-keepalive-timeout: durations in the file are whole nanoseconds; write 20000000000 for 20s"),
        ),
        ("name: [a]", "line 1: name: a text is needed here, not a list"),
        ("log-outputs: {a: b}", "line 1: log-outputs: a list is needed here"),
        ("log-outputs: [[a]]", "line 1: log-outputs: a text is needed here, not a list"),
        ("? [a]\n: b", "line 1: a key must be the name of a setting"),
        (
            "listen-peer-urls: localhost",
            ("line 1: listen-peer-urls: URL 'localhost' must start with http://, https://, unix:// or unixs://"),
        ),
        ('name: "a\\0b"', "line 1: name: a NUL character can be part of no setting"),
        ("log-level: loud", "line 1: log-level: 'loud' is not one of debug, info, warn, error, panic, fatal"),
    ],
)
def test_mistakes_are_named_with_their_line(file: Path, text: str, message: str) -> None:
    assert problem(file, text) == message


def test_one_thing_in_two_places(file: Path) -> None:
    """F-10: an old and a new name, a flag name and its place in a map."""
    assert "set the same thing" in problem(file, "max-learners: 1\nexperimental-max-learners: 1")
    assert "set the same thing" in problem(file, "key-file: a\nclient-transport-security: {key-file: a}")


@pytest.mark.parametrize("text", ["- a", "just text", "a: [", "\x00", "&a [*a]", "a: &b {c: *b}"])
def test_not_a_map_of_settings(file: Path, text: str) -> None:
    problem(file, text)


def test_unreadable_file(file: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load([f"--config-file={file}"], {})
    file.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match="is not YAML"):
        load([f"--config-file={file}"], {})
    file.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load([f"--config-file={file}"], {})


_KEYS = st.sampled_from(sorted(PLACES)) | st.text(max_size=8)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    text=st.dictionaries(_KEYS, _VALUES, max_size=4).map(lambda tree: yaml.safe_dump(tree).encode())
    | st.binary(max_size=60)
)
def test_no_file_does_worse_than_a_config_error(file: Path, text: bytes) -> None:
    file.write_bytes(text)
    with contextlib.suppress(ConfigError):
        load([f"--config-file={file}"], {}, unsupported={})
