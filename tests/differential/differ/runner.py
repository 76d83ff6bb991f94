"""Plays one script on both servers, one operation at a time on both at once, and stops at the first difference.

Owns the order of things: when members must have caught up, when watchers must have told everything, how a script is
cleaned up. What differs is decided in `compare`; whether that is expected, in `known`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from differ import checks, known, streams
from differ.client import METHODS, Answer, Moment, Side
from differ.compare import Finding, answer_text, compare_answers
from differ.ops import (
    AddedMember,
    Call,
    Claim,
    Expire,
    Fields,
    GrantedLease,
    KeepAlive,
    MemberId,
    MoveLeader,
    Observe,
    Op,
    Script,
    Settle,
    Snapshot,
    WatchCancel,
    WatchCreate,
    WatchEmpty,
    WatchOpen,
    WatchProgress,
    describe,
)
from differ.strategies.auth import ROOT, ROOT_PASSWORD
from differ.watchplay import WatchPlay

_RECENT: Final = 8
TESTER: Final = "(the tester)"
"""Root, with a token of the tester's own."""

# Answered from what the asked member has applied: it must have applied what the others have (three members).
LOCAL_METHODS: Final = frozenset(
    {
        "Lease.LeaseTimeToLive", "Lease.LeaseLeases", "Cluster.MemberList", "Maintenance.Status", "Maintenance.Hash",
        "Maintenance.HashKV", "Maintenance.Downgrade", "Maintenance.MoveLeader", "Auth.AuthStatus", "Auth.UserGet",
        "Auth.UserList", "Auth.RoleGet", "Auth.RoleList", "Auth.Authenticate", "KV.Range", "KV.Txn",
    }
)  # fmt: skip


class Different(Exception):
    """The two differed and no row of the table of known differences says why."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.signature)
        self.finding = finding


class Diverged(Exception):
    """A known difference after which the two stores are not the same any more. The pair must be replaced."""


@dataclass(slots=True)
class Outcome:
    """What became of a script. `finding` is the unexplained difference."""

    finding: Finding | None = None
    played: int = 0
    diverged: bool = False
    known: dict[str, int] = field(default_factory=dict)

    @property
    def pair_is_usable(self) -> bool:
        return self.finding is None and not self.diverged


class Runner:
    """Of one pair of servers, for as long as the pair lives: revisions go on from script to script."""

    def __init__(self, etcd: Side, raftkv: Side, absent: frozenset[str] = frozenset()) -> None:
        """`absent`: calls that raftkv does not know yet; the clean-up does without them."""
        self._absent = absent
        self.sides = (etcd, raftkv)
        self.moment = Moment()
        self.etcd_version = tuple(int(part) for part in etcd.version.split("."))
        self.hash_tainted = False
        """A key had a lease id that a server chose: the hashes cannot be equal until that history is compacted."""
        self.watches = WatchPlay(self)
        self.op: Op = Call("KV.Range")
        self.place = -1
        self._outcome = Outcome()
        self.recent: deque[tuple[int, Call, list[str]]] = deque(maxlen=_RECENT)
        """The latest calls and their answers, for a finding that cannot be had again."""

    async def run(self, script: Script) -> Outcome:
        """Play the script and clean up. Never raises for what a server did."""
        self._outcome = outcome = Outcome()
        self.moment.start = self.moment.now
        self.moment.leading.clear()
        self.moment.alarmed = False
        for side in self.sides:
            side.begin_script()
        try:
            for self.place, self.op in enumerate(script.ops):
                left_out = known.avoided(self.op, self.etcd_version, self.moment, self.sides[0].size)
                if left_out is not None:
                    self._count(left_out)
                    continue
                await _PLAYERS[type(self.op)](self, self.op)
                outcome.played += 1
            self.place = -1
            await self._clean_up(script.compact_at_end)
        except Different as different:
            outcome.finding = different.finding
        except Diverged:
            outcome.diverged = True
        finally:
            await self.watches.abandon()
        return outcome

    def has(self, method: str) -> bool:
        return method not in self._absent

    # --- differences --------------------------------------------------------------------------------------------------

    def judge(self, finding: Finding) -> None:
        """Strike out what is known; raise Different for the rest."""
        if not finding.differences:
            return
        finding.facts.setdefault("auth_on", self.auth_on)
        finding.facts.setdefault("members", self.sides[0].size)
        verdict = known.explain(finding, self.etcd_version)
        for name in verdict.rows:
            self._count(name)
        if verdict.unexplained:
            finding.differences = verdict.unexplained
            finding.recent = [
                f"{place}: {describe(op)}\n     etcd   {etcd}\n     raftkv {raftkv}"
                for place, op, (etcd, raftkv) in self.recent
            ]
            raise Different(finding)
        if verdict.diverges:
            raise Diverged

    def _count(self, row: str) -> None:
        self._outcome.known[row] = self._outcome.known.get(row, 0) + 1

    def without_lost_tombstones(self, etcd: list[Any], raftkv: list[Any]) -> list[Any]:
        kept = known.without_lost_tombstones(etcd, raftkv, self.moment.compacted, self.etcd_version)
        if len(kept) < len(raftkv):
            self._count(known.TOMBSTONE_ROW.name)
        return kept

    def finding(self, where: str, differences: list[Any], etcd: str = "", raftkv: str = "", **facts: Any) -> Finding:
        return Finding(self.op, self.place, where, differences, etcd, raftkv, facts=facts)

    # --- calls --------------------------------------------------------------------------------------------------------

    async def play_call(self, op: Call) -> None:
        if op.method == "KV.Compact" and not await self.watches.settle():
            return  # what a compaction does to a watcher that has not told everything yet is a race
        if op.method == "Maintenance.HashKV":
            if self.hash_tainted:
                return
            await checks.await_hash(self, op)
        await self.call(op, where="answer")

    async def call(self, op: Call, where: str, timeout_s: float = 20.0) -> tuple[Answer, Answer]:
        """Make one call on both sides and judge the answers. etcd's and raftkv's."""
        if op.method in LOCAL_METHODS or self.auth_on:
            await self.catch_up()
        if op.method in known.NEWLY_GUARDED and self.asks_for_fewer_rights:
            self._count(known.GUARD_ROW.name)
            op = replace(op, user=await self.as_root())
        bodies = [side.encode(op.method, op.fields, self.moment) + op.tail for side in self.sides]
        answers = await self.ask(op, bodies, timeout_s)
        requests = [METHODS[op.method].request.FromString(body) for body in bodies]
        for side, answer in zip(self.sides, answers, strict=True):
            side.learn_reply(op.method, op.fields, answer)
        facts = {"method": op.method, "request": requests[0], "answers": answers, "call": op, "now": self.moment.now}
        self._learn(op, requests[0], answers[0])
        if op.method in ("Auth.AuthEnable", "Auth.AuthDisable"):
            await self.catch_up()  # a member that has not applied it yet asks for more, or for less, than the others
        texts = [answer_text(answer) for answer in answers]
        self.recent.append((self.place, op, texts))
        differences = compare_answers(op.method, (requests[0], requests[1]), answers, self.sides)
        self.judge(self.finding(where, differences, *texts, **facts))
        return answers

    async def ask(self, op: Call, bodies: list[bytes], timeout_s: float = 20.0) -> tuple[Answer, Answer]:
        op = replace(op, user=self.user_of_call(op.user))
        etcd, raftkv = await asyncio.gather(
            *(
                side.unary(op.method, body, op.member, side.metadata(op.user) + op.metadata, timeout_s)
                for side, body in zip(self.sides, bodies, strict=True)
            )
        )
        return etcd, raftkv

    @property
    def auth_on(self) -> bool:
        return self.moment.auth_on

    @property
    def asks_for_fewer_rights(self) -> bool:
        return self.auth_on and self.etcd_version < known.GUARDED

    def user_of_call(self, user: str) -> str:
        """The user with whose token a call is made."""
        if user and not self.auth_on and self.etcd_version < known.TOKENS_IGNORED:
            self._count(known.TOKEN_ROW.name)
            return ""
        return user

    def _learn(self, op: Call, request: Any, answer: Answer) -> None:
        """Note from etcd's answer where the script has got to."""
        if answer.message is None:
            return
        if "header" in answer.message.DESCRIPTOR.fields_by_name:
            self.moment.now = max(self.moment.now, answer.message.header.revision)
        if op.method == "KV.Compact":
            self.moment.compacted = max(self.moment.compacted, request.revision)
        elif op.method == "Auth.AuthEnable":
            self.moment.auth_on = True
        elif op.method == "Auth.AuthDisable":
            self.moment.auth_on = False
        elif op.method == "Maintenance.Alarm" and request.action == 1:
            self.moment.alarmed = True
        if self.sides[0].leases:
            self.hash_tainted = True

    async def catch_up(self) -> None:
        """All members of both have applied everything that was answered."""
        if self.sides[0].size > 1:
            request = self.sides[0].encode("KV.Range", {"key": b"\0", "count_only": True}, self.moment)
            await asyncio.gather(
                *(side.unary("KV.Range", request, member) for side in self.sides for member in range(side.size))
            )

    async def as_root(self) -> str:
        """The user to act as for the tester's own calls: root, logged in anew, while authentication is on."""
        if not self.auth_on:
            return ""
        login = Call("Auth.Authenticate", {"name": ROOT, "password": ROOT_PASSWORD})
        of_the_script = [side.tokens.get(ROOT) for side in self.sides]
        await self.call(login, "logging in as root")
        for side, token in zip(self.sides, of_the_script, strict=True):
            side.tokens[TESTER] = side.tokens.pop(ROOT, "")
            if token is not None:
                side.tokens[ROOT] = token
        return TESTER

    # --- the end of a script ------------------------------------------------------------------------------------------

    async def _clean_up(self, compact: bool) -> None:
        """Compare all that there is, then leave nothing behind. Every step of it is compared as well."""
        user = await self._end_restrictions()
        # One more write: what is hashed at the compacted revision itself is another question to etcd (MT-20).
        self.op = Call("KV.Put", {"key": b"the end", "value": b"of the script"}, user=user)
        await self.call(self.op, "clean-up")
        await self.watches.settle()
        await checks.compare_state(self, user)
        await self.watches.close_all()
        await self._end_objects(user)
        self.op = Call("KV.DeleteRange", {"key": b"\0", "range_end": b"\0", "prev_kv": True}, user=user)
        await self.call(self.op, "clean-up")
        if compact or self.hash_tainted:
            await self.call(Call("KV.Compact", {"revision": self.moment.now, "physical": True}, user=user), "clean-up")
            self.hash_tainted = False

    async def _end_restrictions(self) -> str:
        user = await self.as_root()
        if user:
            self.op = Call("Auth.AuthDisable", user=user)
            await self.call(self.op, "clean-up")
            user = await self.as_root()
        alarms, _ = await self.call(Call("Maintenance.Alarm", {"action": 0}), "clean-up: alarms")
        for alarm in alarms.message.alarms if alarms.message else ():
            fields = {"action": 2, "memberID": self._as_fields(alarm.memberID), "alarm": alarm.alarm}
            await self.call(Call("Maintenance.Alarm", fields), "clean-up: disarm")
        return user

    def _as_fields(self, member_id: int) -> Any:
        """A member id of etcd's as the stand-in that means the same on both sides."""
        ids = self.sides[0].member_ids
        return MemberId(ids.index(member_id)) if member_id in ids else member_id

    async def _end_objects(self, user: str) -> None:
        leases, _ = await self.call(Call("Lease.LeaseLeases", user=user), "clean-up: leases")
        chosen = self.sides[0].leases
        for lease in sorted(each.ID for each in leases.message.leases):
            ref = GrantedLease(chosen[lease]) if lease in chosen else lease
            await self.call(Call("Lease.LeaseRevoke", {"ID": ref}, user=user), "clean-up: revoke")
        if self.sides[0].added:
            members, _ = await self.ask_fields("Cluster.MemberList", {"linearizable": True})
            present = {member.ID for member in members.message.members}
            for member_id, number in self.sides[0].added.items():
                if member_id in present:
                    await self.call(Call("Cluster.MemberRemove", {"ID": AddedMember(number)}), "clean-up: member")
        if not self.has("Auth.UserList"):
            return
        await self._end_named(user, "Auth.UserList", "users", "Auth.UserDelete", "name")
        await self._end_named(user, "Auth.RoleList", "roles", "Auth.RoleDelete", "role")

    async def _end_named(self, user: str, list_method: str, names: str, delete_method: str, name_field: str) -> None:
        listed, _ = await self.call(Call(list_method, user=user), "clean-up")
        if listed.message is not None:
            for name in getattr(listed.message, names):
                await self.call(Call(delete_method, {name_field: name}, user=user), "clean-up")

    async def ask_fields(self, method: str, fields: Fields, member: int = 0, user: str = "") -> tuple[Answer, Answer]:
        """Ask without comparing."""
        bodies = [side.encode(method, fields, self.moment) for side in self.sides]
        return await self.ask(Call(method, fields, member, user), bodies)


_PLAYERS: Final[dict[type, Callable[[Runner, Any], Awaitable[None]]]] = {
    Call: Runner.play_call,
    WatchOpen: lambda runner, op: runner.watches.open(op),
    WatchCreate: lambda runner, op: runner.watches.create(op),
    WatchCancel: lambda runner, op: runner.watches.cancel(op),
    WatchProgress: lambda runner, op: runner.watches.progress(op),
    WatchEmpty: lambda runner, op: runner.watches.send_empty(op),
    Settle: lambda runner, op: runner.watches.settle_op(op),
    KeepAlive: streams.keep_alive,
    Expire: streams.expire,
    MoveLeader: streams.move_leader,
    Snapshot: streams.snapshot,
    Claim: streams.claim,
    Observe: streams.observe,
}
