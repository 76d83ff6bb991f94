"""Takes out of an answer what two servers with the same history cannot share, and nothing more.

Replaced by words: ids of the cluster, of members and of leases that a server chose, addresses, names, versions of the
program, Raft terms and indexes, file sizes, tokens, the hash of a whole file. Forgiven: the order among keys that sort
alike (RNG-16), of attached keys and of leases, and three seconds of a lease's remaining time more than have gone by.
Everything else stays: codes, texts, keys, values, revisions, versions, counts, hashes, flags, which fields are there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any, Final

from differ.client import Side

Flat = dict[str, Any]
"""Path of a field ("responses[0].response_put.header.revision") -> its value. Fields that are not set are not there."""

PRESENT: Final = "(there)"
"""Value of a message field's own path."""

_TTL_SLACK_S: Final = 3
_TOKEN: Final = re.compile(r"[A-Za-z]{16}\.\d+")
_NUMBER: Final = re.compile(r"\d{6,}")
_HEX_TAIL: Final = re.compile(rb"/([0-9a-f]{1,16})$")

RANGE, TXN = "KV.Range", "KV.Txn"
_KEY, _VERSION, _CREATE, _MOD, _VALUE = range(5)
_SORT_FIELDS: Final = {_VERSION: "version", _CREATE: "create_revision", _MOD: "mod_revision", _VALUE: "value"}


def tidy_header(message: Any, side: Side) -> None:
    """Ids and term of the header become words (as numbers); the revision stays."""
    if not message.HasField("header"):
        return
    header = message.header
    if header.cluster_id == side.cluster_id:
        header.cluster_id = 1
    if header.member_id in side.member_ids:
        header.member_id = side.member_ids.index(header.member_id) + 1
    if header.raft_term:
        header.raft_term = 1


def flat_answer(method: str, request: Any, message: Any, side: Side) -> Flat:
    """An answer as comparable leaves. Changes the message."""
    if method == RANGE:
        _forgive_ties(request, message)
    elif method == TXN:
        _forgive_ties_in_txn(request, message)
    return flat(message, side)


def flat(message: Any, side: Side) -> Flat:
    leaves: Flat = {}
    _flatten(message, "", side, leaves)
    return leaves


def _flatten(message: Any, prefix: str, side: Side, leaves: Flat) -> None:
    rewrite_message = _MESSAGES.get(message.DESCRIPTOR.full_name)
    if rewrite_message is not None:
        rewrite_message(side, message)
    for descriptor, value in message.ListFields():
        path = prefix + descriptor.name
        rewrite = _LEAVES.get(descriptor.full_name)
        if descriptor.is_repeated:
            _flatten_list(descriptor, value, path, side, leaves, rewrite)
        elif descriptor.message_type is not None:
            leaves[path] = PRESENT
            _flatten(value, path + ".", side, leaves)
        else:
            leaves[path] = rewrite(side, value) if rewrite is not None else value


def _flatten_list(descriptor: Any, values: Any, path: str, side: Side, leaves: Flat, rewrite: _Rewrite | None) -> None:
    if descriptor.message_type is None:
        items = [rewrite(side, value) if rewrite is not None else value for value in values]
        if descriptor.full_name in _UNORDERED:
            items.sort()
        leaves.update((f"{path}[{number}]", item) for number, item in enumerate(items))
        return
    parts: list[Flat] = []
    for value in values:
        part: Flat = {}
        _flatten(value, "", side, part)
        parts.append(part)
    if descriptor.full_name in _UNORDERED:
        parts.sort(key=lambda part: sorted((name, repr(leaf)) for name, leaf in part.items()))
    for number, part in enumerate(parts):
        leaves[f"{path}[{number}]"] = PRESENT
        leaves.update((f"{path}[{number}].{name}", leaf) for name, leaf in part.items())


# --- leaves -----------------------------------------------------------------------------------------------------------

_Rewrite = Callable[[Side, Any], Any]


def _cluster(side: Side, value: int) -> Any:
    return "<cluster>" if value in (side.cluster_id, 1) else value


def _member(side: Side, value: int) -> Any:
    if value in side.member_ids:
        return f"<member {side.member_ids.index(value)}>"
    if value in side.added:
        return f"<added member {side.added[value]}>"
    return f"<member {value - 1}>" if 0 < value <= side.size else value


def _lease(side: Side, value: int) -> Any:
    return f"<lease {side.leases[value]}>" if value in side.leases else value


def _key(side: Side, value: bytes) -> Any:
    """A key of a lock or campaign with a lease that the server chose has a word for it."""
    if not side.leases:
        return value
    found = _HEX_TAIL.search(value)
    lease = int(found[1], 16) if found else 0
    return value[: found.start()] + b"/<lease %d>" % side.leases[lease] if found and lease in side.leases else value


def _url(side: Side, value: str) -> str:
    for rank in range(side.size):
        if value == side.peer_url(rank):
            return f"<peer URL {rank}>"
        if value == f"http://{side.endpoint(rank)}":
            return f"<client URL {rank}>"
    return value


def _name(side: Side, value: str) -> str:
    return f"<name {side.names.index(value)}>" if value in side.names else value


def _error_line(side: Side, value: str) -> str:
    """A line of Status.errors: an alarm with a decimal member id."""
    return _NUMBER.sub(lambda found: str(_member(side, int(found[0]))), value)


def _token(_side: Side, value: str) -> str:
    return "<token>" if _TOKEN.fullmatch(value) else value


def _version(side: Side, value: str) -> str:
    return "<version>" if value == side.version else value


def _cluster_version(side: Side, value: str) -> str:
    return "<cluster version>" if value == "{}.{}".format(*side.cluster_version) else value


def _some(_side: Side, value: Any) -> Any:
    """Numbers of which only that they are there is comparable."""
    return "<some>" if value else value


_HEADER: Final = "etcdserverpb.ResponseHeader."
_STATUS: Final = "etcdserverpb.StatusResponse."
_LEAVES: Final[dict[str, _Rewrite]] = {
    _HEADER + "cluster_id": _cluster,
    _HEADER + "member_id": _member,
    _HEADER + "raft_term": _some,
    _STATUS + "version": _version,
    _STATUS + "dbSize": _some,
    _STATUS + "dbSizeInUse": _some,
    _STATUS + "leader": _member,
    _STATUS + "raftIndex": _some,
    _STATUS + "raftTerm": _some,
    _STATUS + "raftAppliedIndex": _some,
    _STATUS + "errors": _error_line,
    "etcdserverpb.Member.ID": _member,
    "etcdserverpb.Member.name": _name,
    "etcdserverpb.Member.peerURLs": _url,
    "etcdserverpb.Member.clientURLs": _url,
    "etcdserverpb.AlarmMember.memberID": _member,
    "etcdserverpb.HashResponse.hash": _some,
    "etcdserverpb.DowngradeResponse.version": _cluster_version,
    "etcdserverpb.AuthenticateResponse.token": _token,
    "etcdserverpb.LeaseGrantResponse.ID": _lease,
    "etcdserverpb.LeaseKeepAliveResponse.ID": _lease,
    "etcdserverpb.LeaseTimeToLiveResponse.ID": _lease,
    "etcdserverpb.LeaseTimeToLiveResponse.keys": _key,
    "etcdserverpb.LeaseStatus.ID": _lease,
    "mvccpb.KeyValue.lease": _lease,
    "mvccpb.KeyValue.key": _key,
    "v3lockpb.LockResponse.key": _key,
    "v3electionpb.LeaderKey.key": _key,
    "v3electionpb.LeaderKey.lease": _lease,
}

_UNORDERED: Final = frozenset(
    {
        "etcdserverpb.LeaseTimeToLiveResponse.keys",
        "etcdserverpb.LeaseLeasesResponse.leases",
        "etcdserverpb.AlarmResponse.alarms",
        # Sorted by ids, which are words here (CL-03).
        *(f"etcdserverpb.Member{call}Response.members" for call in ("List", "Add", "Remove", "Update", "Promote")),
    }
)


def _fresh_ttl(side: Side, message: Any) -> None:
    """Time that may have gone by since the lease was granted is none."""
    if 0 <= message.grantedTTL - message.TTL <= _TTL_SLACK_S + side.seconds_of_script():
        message.TTL = message.grantedTTL


_MESSAGES: Final[dict[str, Callable[[Side, Any], None]]] = {"etcdserverpb.LeaseTimeToLiveResponse": _fresh_ttl}


# --- ties -------------------------------------------------------------------------------------------------------------


def _forgive_ties_in_txn(request: Any, response: Any) -> None:
    branch = request.success if response.succeeded else request.failure
    for op, answer in zip(branch, response.responses, strict=False):
        if op.HasField("request_range") and answer.HasField("response_range"):
            _forgive_ties(op.request_range, answer.response_range)
        elif op.HasField("request_txn") and answer.HasField("response_txn"):
            _forgive_ties_in_txn(op.request_txn, answer.response_txn)


def _forgive_ties(request: Any, response: Any) -> None:
    """Keys that sort alike in key order; of those that the limit may have cut, only how many there are."""
    target = request.sort_target
    field = _SORT_FIELDS.get(target)
    if field is None or len(response.kvs) == 0:
        return
    hidden = request.keys_only and target == _VALUE  # what it was sorted by is not shown
    kvs = list(_with_ties_sorted(response.kvs, field, hidden, response.more))
    del response.kvs[:]
    response.kvs.extend(kvs)


def _with_ties_sorted(kvs: Any, field: str, hidden: bool, more: bool) -> Iterator[Any]:
    groups = [
        sorted(group, key=lambda kv: kv.key)
        for _value, group in groupby(kvs, key=(lambda _kv: 0) if hidden else (lambda kv: getattr(kv, field)))
    ]
    if more:
        for kv in groups[-1]:
            _keep_only(kv, "" if hidden else field)
    for group in groups:
        yield from group


def _keep_only(kv: Any, field: str) -> None:
    for descriptor, _value in kv.ListFields():
        if descriptor.name != field:
            kv.ClearField(descriptor.name)
