"""What members say, put together and shown: to people, in a pipe, to programs."""

import json
from pathlib import Path
from typing import Any

import pytest

from raftkv.cli.local import table
from raftkv.cli.local.directory import LocalCluster
from raftkv.cli.local.story import MAX_LINES, Story
from raftkv.cli.local.view import Answer, View, make_view

IDS = {"m1": "a1", "m2": "b2", "m3": "c3"}


@pytest.fixture
def cluster(tmp_path: Path) -> LocalCluster:
    return LocalCluster.plan(tmp_path / "cluster", 3, 4000)


def page(name: str, role: str = "follower", term: int = 4, commit: int = 120, **fields: Any) -> dict[str, Any]:
    """What GET /raftkv/member answers."""
    peers = [
        {
            "id": id_,
            "name": peer,
            "rtt_s": 0.00042,
            "progress": {"match_index": 100} if role == "leader" else None,
        }
        for peer, id_ in IDS.items()
        if peer != name
    ]
    return {
        "name": name,
        "id": IDS[name],
        "role": role,
        "is_learner": False,
        "term": term,
        "commit_index": commit,
        "applied_index": commit,
        "db": {"size_bytes": 73_728},
        "alarms": [],
        "peers": peers,
    } | fields


def view_of(cluster: LocalCluster, *answers: str | dict[str, Any]) -> View:
    """A page, or the state of a member that has none."""
    made: list[Answer] = []
    for member, answer in zip(cluster.members, answers, strict=True):
        pid = None if answer == "dead" else 1000 + member.client_port
        if isinstance(answer, str):
            made.append((member, pid, answer, None))
        else:
            made.append((member, pid, "running", answer))
    return make_view(made)


@pytest.fixture
def failover(cluster: LocalCluster) -> View:
    """m2 leads, m3 is behind, m1 is dead."""
    return view_of(cluster, "dead", page("m2", "leader", commit=123), page("m3", applied_index=118))


def test_as_text(failover: View) -> None:
    assert table.as_text(failover) == (
        "MEMBER  STATE    ROLE      TERM  INDEX  APPLIED  LAG  DB SIZE     RTT   PID  ID\n"
        "m1      dead     -            -      -        -   23        -       -     -  a1\n"
        "m2      running  leader       4    123      123    0    74 kB       -  5002  b2\n"
        "m3      running  follower     4    120      118    5    74 kB  0.4 ms  5004  c3\n"
        "m2 leads in term 4, 2 of 3 members serve\n"
    )


def test_as_json(failover: View, cluster: LocalCluster) -> None:
    text = table.as_json(failover, cluster)
    assert text.count("\n") == 1
    whole = json.loads(text)
    assert (whole["leader"], whole["term"], whole["alarms"]) == ("m2", 4, [])
    dead, _, behind = whole["members"]
    assert (dead["state"], dead["pid"], dead["role"], dead["page"]) == ("dead", None, None, None)
    assert (behind["name"], behind["id"], behind["lag"], behind["rtt_s"]) == ("m3", "c3", 5, 0.00042)
    assert behind["client_url"] == "http://127.0.0.1:4004"
    assert behind["page"]["db"] == {"size_bytes": 73_728}


@pytest.mark.parametrize(("width", "ids"), [(80, False), (120, True)])
def test_on_a_terminal(width: int, ids: bool, failover: View) -> None:
    """Nothing is cut off in the usual 80 columns: the ids are left out."""
    text = rendered(failover, width)
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["MEMBER", "STATE", "ROLE", "TERM", "INDEX", "APPLIED", "LAG", "DB", "SIZE", "RTT", "PID"] + (
        ["ID"] if ids else []
    )
    assert lines[3][:3] == ["m3", "running", "follower"]
    assert "…" not in text
    assert "m2 leads in term 4" in text


def rendered(view: View, width: int, *story: str) -> str:
    from rich.console import Console

    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(table.as_rich(view, width, story))
    return captured.get()


def test_no_leader(cluster: LocalCluster) -> None:
    view = view_of(cluster, page("m1", "pre-candidate"), "starting", "dead")
    assert (view.leader, [row.lag for row in view.rows]) == (None, [None, None, None])
    assert table.as_text(view).endswith("no leader, 1 of 3 members serve\n")
    assert "no leader" in rendered(view, 80)


def test_nobody_answers(cluster: LocalCluster) -> None:
    view = view_of(cluster, "no answer", "paused", "dead")
    assert (view.leader, view.term) == (None, None)
    assert [row.state for row in view.rows] == ["no answer", "paused", "dead"]


def test_a_leader_that_was_asleep_does_not_lead(cluster: LocalCluster) -> None:
    """RF-30: it has not heard of the new one yet, and says that it leads; the higher term is right."""
    view = view_of(cluster, page("m1", "leader", term=4, commit=90), page("m2", "leader", term=5), page("m3", term=5))
    assert (view.leader, view.term) == ("m2", 5)
    assert view.row("m1").lag == 30


def test_lag_is_never_below_nothing(cluster: LocalCluster) -> None:
    """Members are not asked in the same moment."""
    view = view_of(cluster, page("m1", "leader", commit=100), page("m2", commit=130), "dead")
    assert view.row("m2").lag == 0


def test_lag_of_a_dead_member_that_the_leader_never_met_is_unknown(cluster: LocalCluster) -> None:
    leader = page("m1", "leader")
    leader["peers"][1]["progress"]["match_index"] = 0
    view = view_of(cluster, leader, page("m2"), "dead")
    assert (view.row("m3").lag, view.row("m3").id) == (None, "c3")


def test_learner_and_alarm(cluster: LocalCluster) -> None:
    """AL-11."""
    alarms = [{"alarm": "CORRUPT", "member": "c3"}, {"alarm": "NOSPACE", "member": "ffff"}]
    view = view_of(cluster, page("m1", "leader", alarms=alarms), page("m2", is_learner=True, alarms=alarms), "dead")
    assert view.row("m2").role == "learner"
    assert view.alarms == ("CORRUPT at m3", "NOSPACE at ffff")
    assert "\nalarm: CORRUPT at m3\nalarm: NOSPACE at ffff\n" in table.as_text(view)
    assert "alarm: CORRUPT at m3" in rendered(view, 80)


@pytest.mark.parametrize(
    ("size_bytes", "text"), [(0, "0 B"), (999, "999 B"), (4096, "4.1 kB"), (73_728, "74 kB"), (2_500_000_000, "2.5 GB")]
)
def test_sizes(size_bytes: int, text: str, cluster: LocalCluster) -> None:
    view = view_of(cluster, page("m1", "leader", db={"size_bytes": size_bytes}), page("m2"), page("m3"))
    assert f" {text}  " in table.as_text(view).splitlines()[1]


# --- from one look to the next ----------------------------------------------------------------------------------------


def test_story_of_a_failover(cluster: LocalCluster) -> None:
    story = Story()
    before = view_of(cluster, page("m1", "leader"), page("m2"), page("m3"))
    between = view_of(cluster, "dead", page("m2"), page("m3"))
    after = view_of(cluster, "dead", page("m2", "leader", term=5), page("m3", term=5))
    assert story.tell(before, "12:00:00", 0.0) == []
    assert story.tell(before, "12:00:01", 0.5) == []
    assert story.tell(between, "12:00:01", 1.0) == ["12:00:01  m1 is dead", "12:00:01  no leader"]
    assert story.tell(between, "12:00:02", 1.5) == []
    assert story.tell(after, "12:00:02", 2.1) == ["12:00:02  m2 leads in term 5; none was seen to lead for 1.1 s"]
    assert rendered(after, 80, *story.lines).endswith("none was seen to lead for 1.1 s\n")


def test_story_of_a_change_too_quick_to_be_seen(cluster: LocalCluster) -> None:
    story = Story()
    story.tell(view_of(cluster, page("m1", "leader"), page("m2"), page("m3")), "12:00:00", 0.0)
    moved = view_of(cluster, page("m1", term=5), page("m2", "leader", term=5), page("m3", term=5))
    assert story.tell(moved, "12:00:01", 0.5) == ["12:00:01  m2 leads in term 5"]


def test_story_forgets(cluster: LocalCluster) -> None:
    story = Story()
    for number in range(3 * MAX_LINES):
        state = "paused" if number % 2 else "running"
        story.tell(make_view([(cluster.members[0], 1, state, None)]), f"{number}", float(number))
    assert len(story.lines) == MAX_LINES
    assert story.lines[-1] == f"{3 * MAX_LINES - 1}  m1 is paused"
