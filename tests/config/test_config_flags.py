"""Command line and environment: F-01, F-02, F-10, F-11."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftkv.config import ConfigError, UsageError, load
from raftkv.config.flags import read_flags
from raftkv.config.inputs import SPELLINGS
from raftkv.config.settings import env_name


def test_value_behind_a_space() -> None:
    values = read_flags(["--name", "n1", "-data-dir", "--odd"]).inputs.values
    assert values["name"].value == "n1"
    assert values["data-dir"].value == "--odd"


def test_bool_alone_is_true() -> None:
    values = read_flags(["--unsafe-no-fsync", "--pre-vote=F", "--name=x"]).inputs.values
    assert values["unsafe-no-fsync"].value is True
    assert values["pre-vote"].value is False


def test_bool_with_a_space_is_explained() -> None:
    with pytest.raises(ConfigError) as caught:
        read_flags(["--pre-vote", "false"])
    assert str(caught.value) == (
        "'false' is not a valid flag. A bool flag takes its value after an equals sign: --x=false."
    )
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("argv", [["start"], ["--name=a", "start"], ["--", "start"], ["-", "--name=a"]])
def test_positional_argument(argv: list[str]) -> None:
    """F-11."""
    with pytest.raises(ConfigError, match=r"'(start|-)' is not a valid flag"):
        read_flags(argv)


def test_lone_double_dash_ends_the_flags() -> None:
    assert read_flags(["--name=a", "--"]).inputs.values["name"].value == "a"


def test_last_of_repeated_flags_counts_and_is_mentioned() -> None:
    inputs = read_flags(["--name=a", "--name=b"]).inputs
    assert inputs.values["name"].value == "b"
    assert inputs.notices[0].text == "a flag is given twice; the last value counts"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--nmae=x"], "unknown flag --nmae. Did you mean --name?"),
        (["--listen_client_urls=x"], "unknown flag --listen_client_urls. Did you mean --listen-client-urls?"),
        (
            ["--enable-v2=true"],
            "unknown flag --enable-v2. It does not exist any more: etcd removed its v2 API.",
        ),
        (["--qqqqq"], "unknown flag --qqqqq"),
        (["--name"], "flag --name needs a value. Write --name=<string>."),
        (["---name=x"], "'---name=x' is not the form of a flag. Write --name=value."),
        (["--=x"], "'--=x' is not the form of a flag. Write --name=value."),
        (["--pre-vote=maybe"], "flag --pre-vote: 'maybe' is neither true nor false"),
        (["--max-wals=many"], "flag --max-wals: 'many' is not a whole number"),
        (["--max-wals=-1"], "flag --max-wals: -1 is less than 0, the least allowed"),
        (
            ["--log-level=loud"],
            "flag --log-level: 'loud' is not one of debug, info, warn, error, panic, fatal",
        ),
    ],
)
def test_unreadable_command_line(argv: list[str], text: str) -> None:
    """F-02: usage errors, exit code 2."""
    with pytest.raises(UsageError) as caught:
        read_flags(argv)
    assert str(caught.value) == text
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("flag", ["-h", "--help", "-help"])
def test_help_stops_reading(flag: str) -> None:
    """F-06."""
    assert read_flags(["--name=x", flag, "--nonsense"]).help


def test_help_behind_a_flag_is_its_value() -> None:
    line = read_flags(["--name", "--help"])
    assert not line.help
    assert line.inputs.values["name"].value == "--help"


def test_version_flag() -> None:
    """F-06."""
    assert read_flags(["--version"]).version


def test_flag_and_variable_conflict() -> None:
    """F-02."""
    with pytest.raises(ConfigError) as caught:
        load(["--name=a"], {"ETCD_NAME": "a"})
    assert caught.value.text == "flag --name and environment variable ETCD_NAME set the same thing"
    assert caught.value.exit_code == 1


@pytest.mark.parametrize(
    ("argv", "environ"),
    [
        (["--max-learners=1", "--experimental-max-learners=1"], {}),
        (["--max-learners=1"], {"ETCD_EXPERIMENTAL_MAX_LEARNERS": "1"}),
        ([], {"ETCD_MAX_LEARNERS": "1", "ETCD_EXPERIMENTAL_MAX_LEARNERS": "1"}),
        (["--experimental-initial-corrupt-check", "--feature-gates=InitialCorruptCheck=true"], {}),
    ],
)
def test_old_and_new_name_conflict(argv: list[str], environ: dict[str, str]) -> None:
    """F-10."""
    with pytest.raises(ConfigError, match="set the same thing"):
        load(argv, environ)


def test_empty_variable_is_not_set() -> None:
    assert load(["--name=a"], {"ETCD_NAME": "", "ETCD_LOG_LEVEL": ""}).name == "a"


def test_unreadable_variable_ends_with_exit_code_1() -> None:
    with pytest.raises(ConfigError, match="environment variable ETCD_MAX_WALS: 'x' is not") as caught:
        load([], {"ETCD_MAX_WALS": "x"})
    assert caught.value.exit_code == 1


def test_unknown_variable_is_only_mentioned() -> None:
    """F-02."""
    config = load(["--name=a"], {"ETCD_NMAE": "x", "ETCDCTL_API": "3", "PATH": "/bin"})
    assert [(notice.text, dict(notice.fields)) for notice in config.notices] == [
        ("an environment variable is not a known setting", {"variable": "ETCD_NMAE"})
    ]


def test_no_variable_is_ambiguous() -> None:
    """Two names may not collapse into one variable."""
    assert len({env_name(name) for name in SPELLINGS}) == len(SPELLINGS)


_FLAGS = st.sampled_from([f"--{name}" for name in sorted(SPELLINGS) if name != "config-file"])
_TEXTS = st.sampled_from(["", "0", "-1", "1s", "a=b", "http://h:1", "jwt", "[]", "1" * 5000]) | st.text(max_size=9)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.builds(lambda flag, text: f"{flag}={text}", _FLAGS, _TEXTS) | _FLAGS | _TEXTS, max_size=4))
def test_no_command_line_does_worse_than_a_config_error(argv: list[str]) -> None:
    with contextlib.suppress(ConfigError):
        load(argv, {}, unsupported={})
