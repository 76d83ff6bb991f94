"""Stories in text: commands above the line, what happened below it.

A script is a list of blocks. Each begins with commands, one per line, then `----`, then every event
the commands caused, in order, then an empty line. Comments (#) belong to the block that follows.

    cluster N [of=M] [learners=4,5] [leader=I] [option=value ...]
                           voters 1..N of M nodes, settled with I as leader, shown as status
    tick I [times]         campaign I           propose I a b ...     read I context
    conf I +4 -2 ~3 [joint|explicit]            add voter, remove, make learner; alone: leave joint
    transfer I to          forget I             leader I transfers; I reports all peers unreachable
    settle                 deliver and save until nothing happens
    run I                  let node I take its Readys; nothing is delivered
    deliver [from=I] [to=J] [type=MsgApp]       what is on the way now, oldest first, once
    lose [from=I] [to=J] [type=MsgApp]          what is on the way now is lost
    repeat                 everything on the way is sent a second time, in reverse order
    drop [from=I] [to=J] [type=MsgApp]          from now on such messages are lost
    cut I J ...            these and the others cannot reach each other        heal    all drops end
    disk I stop|one|go     saves of I stay under way | the oldest finishes | finish as they come
    crash I [written]      I stops; so many saves under way had made it to disk        start I
    wipe I                 I starts with an empty disk, under its old id
    checkpoint I keep      snapshot of I's state; its log keeps so many entries before
    snapshot I to ok|failed                     I reports the fate of a snapshot
    status                 one line for all
    log I                  the entries in I's log

Events:  n1 -> n2 message   n1 -x n2 lost message   n1 saves ..   n1 saved ..   n1 applies ..
         n1 is leader of term 2   n1 reads ctx at 3   n1 refuses ..
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from raft_cluster import Cluster, FixedRng, Member

from raftkv.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfState,
    Entry,
    EntryType,
    Message,
    MessageType,
    RaftError,
    Ready,
    decode_conf_change,
)

_NAMES: Mapping[MessageType, str] = {kind: "Msg" + kind.name.title().replace("_", "") for kind in MessageType}
_CHANGES = {"+": ConfChangeType.ADD_VOTER, "-": ConfChangeType.REMOVE, "~": ConfChangeType.ADD_LEARNER}
_SIGNS = {kind: sign for sign, kind in _CHANGES.items()}
_TRANSITIONS = {
    "joint": ConfChangeTransition.JOINT_IMPLICIT,
    "explicit": ConfChangeTransition.JOINT_EXPLICIT,
}


def show_entry(entry: Entry) -> str:
    text = f"{entry.index}@{entry.term}" if entry.index else ""
    if entry.type is EntryType.CONF_CHANGE:
        singles = decode_conf_change(entry.data).changes
        return f"{text} conf({' '.join(_SIGNS[s.type] + str(s.node_id) for s in singles) or 'leave'})".strip()
    return f"{text} {entry.data.decode()}".strip()


def show_entries(entries: Iterable[Entry]) -> str:
    return "[" + ", ".join(map(show_entry, entries)) + "]"


def show_conf(conf: ConfState) -> str:
    text = f"({' '.join(map(str, conf.voters))})"
    if conf.voters_outgoing:
        text += f"&({' '.join(map(str, conf.voters_outgoing))})"
    if conf.learners:
        text += f" learners=({' '.join(map(str, conf.learners))})"
    if conf.learners_next:
        text += f" next=({' '.join(map(str, conf.learners_next))})"
    return text


def show_message(m: Message) -> str:
    """Only what the kind of message makes use of."""
    name = f"{_NAMES[m.type]} t{m.term}" if m.term else _NAMES[m.type]
    reject = " reject" if m.reject else ""
    round_ = f" round={m.round}" if m.round else ""
    return (
        name
        + {
            MessageType.PROP: lambda: f" {show_entries(m.entries)}",
            MessageType.APP: lambda: (
                f" prev={m.index}@{m.log_term} {show_entries(m.entries)} commit={m.commit}{round_}"
            ),
            MessageType.APP_RESP: lambda: (
                (f" reject {m.index} hint={m.hint}@{m.log_term}" if m.reject else f" {m.index}") + round_
            ),
            MessageType.VOTE: lambda: f" last={m.index}@{m.log_term}{' transfer' if m.transfer else ''}",
            MessageType.PRE_VOTE: lambda: f" last={m.index}@{m.log_term}",
            MessageType.VOTE_RESP: lambda: reject,
            MessageType.PRE_VOTE_RESP: lambda: reject,
            MessageType.HEARTBEAT: lambda: f" commit={m.commit}{round_}",
            MessageType.HEARTBEAT_RESP: lambda: round_,
            MessageType.SNAP: lambda: (
                f" {m.snapshot.index}@{m.snapshot.term} {show_conf(m.snapshot.conf_state)}" if m.snapshot else ""
            ),
            MessageType.READ_INDEX: lambda: f" {m.context.decode()}",
            MessageType.READ_INDEX_RESP: lambda: f" {m.context.decode()} at {m.index}",
            MessageType.TRANSFER_LEADER: lambda: f" to n{m.index}",
            MessageType.TIMEOUT_NOW: lambda: "",
        }[m.type]()
    )


def _option(text: str) -> bool | int:
    return {"on": True, "off": False}[text] if text in ("on", "off") else int(text)


class Filter:
    """from=, to= and type= of a command."""

    def __init__(self, words: Iterable[str]) -> None:
        given = dict(word.split("=") for word in words)
        self.sender = int(given.pop("from", 0))
        self.to = int(given.pop("to", 0))
        self.kind = given.pop("type", "")
        assert not given, f"unknown filter {given}"

    def takes(self, m: Message) -> bool:
        return self.sender in (0, m.sender) and self.to in (0, m.to) and self.kind in ("", _NAMES[m.type])


class Script:
    def __init__(self) -> None:
        self.events: list[str] = []
        self.drops: list[Filter] = []
        self.cut: set[int] = set()
        self.stopped_disks: set[int] = set()
        self.quiet = False

    # -- the frame ---------------------------------------------------------------------------------

    def rewrite(self, text: str) -> str:
        """The same script with what really happens below each line."""
        blocks = []
        for block in re.split(r"\n\s*\n", text.strip()):
            commands = block.split("\n----")[0].strip("\n")
            if not [line for line in commands.splitlines() if line and not line.startswith("#")]:
                blocks.append(commands)
                continue
            self.events = []
            for line in commands.splitlines():
                if line and not line.startswith("#"):
                    self._command(line.split())
            blocks.append("\n".join([commands, "----", *self.events]))
        return "\n\n".join(blocks) + "\n"

    def _command(self, words: list[str]) -> None:
        command: Callable[..., None] = getattr(self, "do_" + words[0])
        try:
            command(*words[1:])
        except RaftError as e:
            self._say(f"{'n' + words[1] if len(words) > 1 else words[0]} refuses: {type(e).__name__}: {e}")

    def _say(self, event: str) -> None:
        if not self.quiet:
            self.events.append(event)

    def _member(self, number: str) -> Member:
        return self.cluster.members[int(number)]

    # -- commands ------------------------------------------------------------------------------------

    def do_cluster(self, voters: str, *words: str) -> None:
        given = dict(word.split("=") for word in words)
        learners = tuple(int(i) for i in given.pop("learners", "").split(",") if i)
        nodes = int(given.pop("of", int(voters) + len(learners)))
        leader = given.pop("leader", None)
        conf = ConfState(tuple(range(1, int(voters) + 1)), learners)
        self.cluster = Cluster(
            range(1, nodes + 1),
            conf,
            rng=FixedRng,
            bootstrapped=nodes > int(voters) + len(learners),
            **{name: _option(value) for name, value in given.items()},
        )
        if leader is not None:
            self.quiet = True
            self._member(leader).node.campaign()
            self.do_settle()
            self.quiet = False
        self.do_status()

    def do_tick(self, number: str, times: str = "1") -> None:
        for _ in range(int(times)):
            self._member(number).node.tick()

    def do_campaign(self, number: str) -> None:
        self._member(number).node.campaign()

    def do_propose(self, number: str, *payloads: str) -> None:
        self._member(number).node.propose([p.encode() for p in payloads])

    def do_read(self, number: str, context: str) -> None:
        if not self._member(number).node.read_index(context.encode()):
            self._say(f"n{number} drops the read: no leader")

    def do_conf(self, number: str, *words: str) -> None:
        transition = ConfChangeTransition.AUTO
        changes = []
        for word in words:
            if word in _TRANSITIONS:
                transition = _TRANSITIONS[word]
            else:
                changes.append(ConfChangeSingle(_CHANGES[word[0]], int(word[1:])))
        self._member(number).node.propose_conf_change(ConfChange(tuple(changes), transition))

    def do_transfer(self, number: str, to: str) -> None:
        self._member(number).node.transfer_leader(int(to))

    def do_forget(self, number: str) -> None:
        for peer in self.cluster.members:
            self._member(number).node.report_unreachable(peer)

    def do_settle(self) -> None:
        for _ in range(1000):
            for member in self.cluster.members.values():
                self._run(member)
            if not self.cluster.queue:
                return
            self._deliver(self.cluster.queue.pop(0))
        raise AssertionError("the story does not end")

    def do_run(self, number: str) -> None:
        self._run(self._member(number))

    def do_deliver(self, *words: str) -> None:
        wanted = Filter(words)
        chosen = [m for m in self.cluster.queue if wanted.takes(m)]
        self.cluster.queue = [m for m in self.cluster.queue if not wanted.takes(m)]
        for message in chosen:
            self._deliver(message)

    def do_lose(self, *words: str) -> None:
        wanted = Filter(words)
        for message in self.cluster.queue:
            if wanted.takes(message):
                self._say(f"n{message.sender} -x n{message.to} {show_message(message)}")
        self.cluster.queue = [m for m in self.cluster.queue if not wanted.takes(m)]

    def do_repeat(self) -> None:
        self.cluster.queue += self.cluster.queue[::-1]

    def do_drop(self, *words: str) -> None:
        self.drops.append(Filter(words))

    def do_cut(self, *numbers: str) -> None:
        self.cut = {int(number) for number in numbers}

    def do_heal(self) -> None:
        self.drops, self.cut = [], set()

    def do_disk(self, number: str, what: str) -> None:
        member = self._member(number)
        self.stopped_disks.discard(member.id)
        if what == "stop":
            self.stopped_disks.add(member.id)
        elif what == "one":
            self.stopped_disks.add(member.id)
            self._save_one(member)
            self._collect(member)
        else:
            self._run(member)

    def do_crash(self, number: str, written: str = "0") -> None:
        self._member(number).crash(int(written))
        self.stopped_disks.discard(int(number))

    def do_start(self, number: str) -> None:
        member = self._member(number)
        member.start()
        self._say(f"n{number} starts: {self._status(member)}")

    def do_wipe(self, number: str) -> None:
        old = self._member(number)
        conf = old.conf
        self.cluster.members[old.id] = Member(old.id, conf, FixedRng(old.id), False, **old.options)

    def do_checkpoint(self, number: str, keep: str) -> None:
        self._member(number).checkpoint(int(keep))

    def do_snapshot(self, number: str, to: str, fate: str) -> None:
        self._member(number).node.report_snapshot(int(to), fate == "ok")

    def do_status(self) -> None:
        self._say(" | ".join(self._status(member) for member in self.cluster.members.values()))

    def do_log(self, number: str) -> None:
        log = self._member(number).node._raft.log
        self._say(f"n{number} {show_entries(log.entries(log.first_index, 1 << 30))}")

    # -- what happens ----------------------------------------------------------------------------------

    def _status(self, member: Member) -> str:
        if not member.up:
            return f"n{member.id} down"
        s = member.node.status()
        lead = f"({'n' + str(s.lead) if s.lead else '?'})" if s.role.value != "leader" else ""
        return f"n{member.id} {s.role.value}{lead} term={s.term} last={s.last_index} commit={s.committed}"

    def _run(self, member: Member) -> None:
        """Readys, and saves unless the disk is stopped, until the node has nothing more to do."""
        while member.up:
            conf = member.conf
            ready = member.take_ready()
            if ready is not None:
                self._report(member, ready)
            if member.conf != conf:
                self._say(f"n{member.id} is in {show_conf(member.conf)}")
            self._collect(member)
            if member.saving and member.id not in self.stopped_disks:
                self._save_one(member)
                self._collect(member)
            elif ready is None:
                return

    def _report(self, member: Member, ready: Ready) -> None:
        if ready.soft_state is not None:
            lead, role = ready.soft_state
            whom = f" of n{lead}" if lead and role.value == "follower" else ""
            self._say(f"n{member.id} is {role.value}{whom} in term {member.node.term}")
        if ready.needs_save:
            self._say(f"n{member.id} saves {self._save_text(ready)}")
        if ready.committed_entries:
            self._say(f"n{member.id} applies {show_entries(ready.committed_entries)}")
        for read in member.reads:
            self._say(f"n{member.id} reads {read.context.decode()} at {read.index}")
        member.reads.clear()

    def _save_text(self, ready: Ready) -> str:
        parts = []
        if ready.snapshot is not None:
            parts.append(f"snapshot {ready.snapshot.index}@{ready.snapshot.term}")
        if ready.entries:
            parts.append(show_entries(ready.entries))
        if ready.hard_state is not None:
            term, vote, commit = ready.hard_state
            parts.append(f"term={term} vote={vote} commit={commit}")
        return " ".join(parts) or "nothing, behind what it is saving"

    def _save_one(self, member: Member) -> None:
        ready = member.finish_save()
        if member.id in self.stopped_disks:
            self._say(f"n{member.id} saved {self._save_text(ready)}")

    def _collect(self, member: Member) -> None:
        for message in self.cluster.collect(member):
            if self._lost(message):
                self.cluster.queue.remove(message)
                self._say(f"n{message.sender} -x n{message.to} {show_message(message)}")

    def _lost(self, message: Message) -> bool:
        apart = (message.sender in self.cut) != (message.to in self.cut)
        return apart or any(drop.takes(message) for drop in self.drops)

    def _deliver(self, message: Message) -> None:
        arrow = "->" if self.cluster.members[message.to].up else "-x"
        self._say(f"n{message.sender} {arrow} n{message.to} {show_message(message)}")
        try:
            self.cluster.deliver(message)
        except RaftError as e:
            self._say(f"n{message.to} refuses: {type(e).__name__}: {e}")
