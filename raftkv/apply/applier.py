"""Committed entries in, results out: the only room that joins the state machines below.

Deterministic: the same entries give the same state and the same results on every member (RF-52). No clock, no chance,
no local setting decides anything here. Owns the consistent index, which every commit carries, so that each entry takes
effect exactly once over crashes (RF-50), the rolling hash of what the entries did, and consensus' configuration as of
the last of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, cast

from raftkv.apply import txn as transactions
from raftkv.apply.access import Caller, check_access
from raftkv.apply.alarms import CORRUPT, NOSPACE, Alarms
from raftkv.apply.auth_changes import CHANGES, AuthChange
from raftkv.apply.batch import AUTH_CHANGES, Kind, count_requests, decode_as_user, decode_batch
from raftkv.apply.errors import ApplyError, CorruptAlarm, MalformedEntry, NoSpaceAlarm
from raftkv.apply.member_change import change_members, decode_member_change, leave_joint, members_body
from raftkv.apply.quota import txn_cost
from raftkv.apply.state_hash import RecentHashes, mix
from raftkv.auth import AuthError, AuthStore, UserEmpty
from raftkv.backend import Meta, SchemaError
from raftkv.backend.schema import pack_consistent_index, pack_u64, unpack_consistent_index, unpack_u64
from raftkv.lease import LeaseError, LeaseNotFound, Lessor, NotPrimaryLessor
from raftkv.membership import Members, MembershipError
from raftkv.mvcc import MvccError, Store, Writer
from raftkv.pb import peer_pb2, rpc_pb2
from raftkv.pb.splice import framed, varint
from raftkv.raft import ConfState, EntryType
from raftkv.wire import WireError, decode_conf_state, encode_conf_state

if TYPE_CHECKING:
    from raftkv.apply.member_change import MemberChange
    from raftkv.backend import Backend, WriteTxn
    from raftkv.mvcc.watch import RevisionEvents
    from raftkv.raft import ConfChange, Entry

Result: TypeAlias = "tuple[int, bytes] | Exception"
"""(header revision, response body without its header), or the refusal."""

Handler: TypeAlias = Callable[[bytes], "tuple[int, bytes]"]
Refuse: TypeAlias = Callable[[bytes], None]
"""Raises one of REFUSALS, or lets the message pass."""

REFUSALS: Final = (ApplyError, MvccError, LeaseError, MembershipError, AuthError)
"""What a handler may raise as a result. Anything else stops the member (RF-53)."""

COPIES_OF_VALUE: Final = 3
"""A value stands in `current` and in `events`; the third part is what large values waste at the end of their pages."""
SMALLEST_PAGE_BYTES: Final = 4096
PAGES_PER_REQUEST: Final = 4
"""Leaves that a put copies, in `current`, `history`, `events` and one more for a block counter or a lease."""

_put_request = rpc_pb2.PutRequest.FromString


class Applied(NamedTuple):
    """One entry's results. One without requests is nobody's: proposer and number are 0."""

    proposer: int
    number: int
    results: list[Result]
    change: ConfChange | None = None
    """What took effect in consensus' configuration, for `RawNode.apply_conf_change`; None for a refused change too
    (RF-61, RF-62)."""


class Applier:
    """Applies entries to the store, the lessor, the members, the alarms, and the users and their rights."""

    def __init__(
        self, backend: Backend, store: Store, lessor: Lessor, members: Members, alarms: Alarms, auth: AuthStore
    ) -> None:
        self._backend = backend
        self._store = store
        self._lessor = lessor
        self._members = members
        self._alarms = alarms
        self._auth = auth
        self.index = 0
        """Index of the last applied entry (the consistent index); its effect is in the backend, committed or open."""
        self.term = 0
        """Term of that entry (G-12)."""
        self.cluster_version = ""
        """Empty until the leader has decided it (F-76)."""
        self.conf_state = ConfState()
        """Consensus' configuration as of that entry (RF-65). Agrees with the members (CL-53)."""
        self.state_hash = 0
        """What that entry and all before it did, as a rolling hash (`state_hash.mix`)."""
        self.hashes = RecentHashes()
        """The same after each of the last entries."""
        self._entry_term = 0
        """Of the entry that is being applied."""
        self._txn: WriteTxn
        self._writer: Writer
        self._normal: dict[int, Handler] = {
            Kind.PUT: self._put,
            Kind.DELETE_RANGE: self._delete_range,
            Kind.TXN: self._run_txn,
            Kind.COMPACT: self._compact,
            Kind.LEASE_GRANT: self._lease_grant,
            Kind.LEASE_REVOKE: self._lease_revoke,
            Kind.LEASE_EXPIRE: self._lease_expire,
            Kind.LEASE_CHECKPOINT: self._lease_checkpoint,
            Kind.ALARM: self._alarm,
            Kind.PUBLISH: self._publish,
            Kind.CLUSTER_VERSION: self._set_cluster_version,
            Kind.MEMBER_UPDATE: self._update_member,
            Kind.AUTHENTICATE: self._authenticate,
            Kind.AS_USER: self._as_user,
        }
        for kind, change in CHANGES.items():
            self._normal[kind] = partial(self._change_auth, change)
        self._alarmed: dict[int, Refuse] = {}
        """Kind -> what raises the refusal that an active alarm demands."""
        self._handlers = self._normal
        """Kind -> what does it for one who says nothing of who asks, or refuses to."""
        backend.before_commit = self._before_commit
        auth.before_write = self._reserve_record

    def load(self) -> None:
        """Take the state from the backend: after opening it, and after its store was replaced by a snapshot, when the
        state machines have been given the new tables (`rebind`). Nothing stays of what was before.

        Raises SchemaError for what cannot be.
        """
        txn, meta = self._backend.read(), self._backend.tables.meta
        self.index, self.term = unpack_consistent_index(txn.get(Meta.CONSISTENT_INDEX, bytes(16), meta))
        self.cluster_version = txn.get(Meta.CLUSTER_VERSION, b"", meta).decode("ascii")
        self.conf_state = _decode_conf_state(txn.get(Meta.CONF_STATE, None, meta))
        self._load_hash(unpack_u64(txn.get(Meta.STATE_HASH, bytes(8), meta)))
        self._store.load(txn)
        self._lessor.load(txn)
        self._members.load(txn)
        self._alarms.load(txn)
        self._auth.load(txn)
        self._choose_handlers()

    def _load_hash(self, state_hash: int) -> None:
        """What is older was another store's, or is not known any more."""
        self.state_hash = state_hash
        self.hashes.clear()
        if self.index:
            self.hashes.note(self.index, state_hash)

    @staticmethod
    def growth(entries: Sequence[Entry]) -> tuple[int, int]:
        """What applying these may add to the file: (bytes of values, pages touched), for `Backend.reserve_batch`.

        An estimate on the high side for single puts; what else a request may touch is reserved when it is applied.
        """
        data_bytes = requests = 0
        for entry in entries:
            data_bytes += len(entry.data)
            requests += count_requests(entry.data) if entry.type is EntryType.NORMAL else 1
        return COPIES_OF_VALUE * data_bytes, PAGES_PER_REQUEST * requests

    def foresee(self, entry: Entry, proposer: int) -> Applied | None:
        """What `apply` is going to return for the next entry, if that is certain; else None.

        It is for a single plain put of that proposer, which nothing can refuse: it takes the next revision. Once it is
        committed its client may be answered, though the store has yet to get it (docs/adr/0010).
        """
        if self._alarmed or self._auth.enabled or entry.type is not EntryType.NORMAL:
            return None
        # A new leader's term is known to headers (G-12) when its first entry has been applied.
        if entry.index <= self.index or entry.term != self.term or count_requests(entry.data) != 1:
            return None
        batch = decode_batch(entry.data)
        [(kind, message)] = batch.requests
        if batch.proposer != proposer or kind != Kind.PUT or not _is_plain(message):
            return None
        return Applied(proposer, batch.number, [(self._store.current_revision + 1, b"")])

    def apply(self, entries: Sequence[Entry]) -> tuple[list[Applied], Sequence[RevisionEvents]]:
        """Apply committed entries in the backend's open transaction.

        Returns each entry's results, and the events of all new revisions for the watch hub. Raises MalformedEntry, and
        whatever the disk raises: all since the last commit is then undone, and the member must stop.
        """
        txn = self._txn = self._backend.begin_write()
        try:
            writer = self._writer = self._store.writer(txn)
            applied = [self._apply_entry(entry) for entry in entries if entry.index > self.index]
            writer.finish()
        except Exception as failure:
            self._backend.poison(failure)
            raise
        return applied, writer.events

    def _before_commit(self, txn: WriteTxn) -> None:
        """What a commit must carry: how far it goes, exactly (RF-50), and what the store holds back between commits."""
        self._store.flush(txn)
        meta = self._backend.tables.meta
        txn.put(Meta.CONSISTENT_INDEX, pack_consistent_index(self.index, self.term), db=meta)
        txn.put(Meta.STATE_HASH, pack_u64(self.state_hash), db=meta)

    def _apply_entry(self, entry: Entry) -> Applied:
        assert entry.index == self.index + 1, "entries are applied in order, each once"
        if entry.type is EntryType.CONF_CHANGE:
            return self._apply_conf_change(entry)
        if not entry.data:  # a new leader's first entry (RF-07), or a change that came before its turn (RF-60)
            self._end_entry(entry, (), ())
            return Applied(0, 0, [])
        batch = decode_batch(entry.data)
        self._entry_term = entry.term
        results: list[Result] = []
        append, begin = results.append, self._writer.begin
        earlier_events = len(self._writer.events)
        for kind, message in batch.requests:
            handler = self._handlers.get(kind)
            if handler is None:
                raise MalformedEntry(f"entry {entry.index} has a request of unknown kind {kind}: upgrade this raftkv")
            begin()
            try:
                append(handler(message))
            except REFUSALS as refusal:
                append(refusal)
        self._end_entry(entry, self._writer.events[earlier_events:], results)
        return Applied(batch.proposer, batch.number, results)

    def _end_entry(self, entry: Entry, events: Sequence[RevisionEvents], results: Sequence[Result]) -> None:
        self.index, self.term = entry.index, entry.term
        self.state_hash = mix(self.state_hash, entry.index, entry.term, self._store.current_revision, events, results)
        self.hashes.note(entry.index, self.state_hash)

    # --- consensus' configuration -------------------------------------------------------------------------------------

    def _apply_conf_change(self, entry: Entry) -> Applied:
        """Members and configuration change together, or the reason why not is the result (CL-53, RF-62). No alarm is
        in the way (CL-54), and no revision is used."""
        change, request = decode_member_change(entry.data)
        result: Result
        effect: ConfChange | None = None
        try:
            conf_state, body = self._next_membership(change, request)
        except MembershipError as refusal:
            result = refusal
        else:
            result, effect = (0, body), change
            self.conf_state = conf_state
            self._txn.put(Meta.CONF_STATE, encode_conf_state(conf_state), db=self._backend.tables.meta)
        self._end_entry(entry, (), (result, (0, encode_conf_state(self.conf_state))))
        return Applied(request.proposer, request.number, [result], effect)

    def _next_membership(self, change: ConfChange, request: MemberChange) -> tuple[ConfState, bytes]:
        if change.leaves_joint:
            return leave_joint(self.conf_state), b""
        return change_members(self._txn, self._members, self.conf_state, change, request)

    # --- key-value ----------------------------------------------------------------------------------------------------

    def _put(self, message: bytes) -> tuple[int, bytes]:
        request = _put_request(message)
        writer = self._writer
        lease = request.lease
        if lease and lease not in self._lessor:
            raise LeaseNotFound
        if request.ignore_value or request.ignore_lease:
            body = transactions.put(writer, request)
        else:
            prev_frame = writer.put(request.key, request.value, lease)
            body = prev_frame if prev_frame is not None and request.prev_kv else b""
        if writer.lease_moves:
            self._move_leases()
        return writer.end(), body

    def _delete_range(self, message: bytes) -> tuple[int, bytes]:
        request = rpc_pb2.DeleteRangeRequest.FromString(message)
        self._reserve_deletes(request)
        body = transactions.delete(self._writer, request)
        self._move_leases()
        return self._writer.end(), body

    def _run_txn(self, message: bytes) -> tuple[int, bytes]:
        writer = self._writer
        choice = transactions.choose(writer, rpc_pb2.TxnRequest.FromString(message))
        transactions.check(writer, self._store, self._lessor, choice)
        self._reserve_txn(choice)
        if transactions.operations(choice) > 1:
            self._store.transactions += 1
        body = transactions.run(writer, choice)
        self._move_leases()
        return writer.end(), body

    def _reserve_txn(self, choice: transactions.Choice) -> None:
        """`growth` counts a transaction as one request."""
        self._backend.reserve_more(PAGES_PER_REQUEST * len(choice.steps))
        for field, message in choice.steps:
            if field == "request_delete_range":
                self._reserve_deletes(message)
            elif field == "request_txn":
                self._reserve_txn(message)

    def _reserve_deletes(self, request: rpc_pb2.DeleteRangeRequest) -> None:
        """`growth` does not know how many keys an interval has. Without blocks for them the disk would kill us."""
        if request.range_end:
            self._backend.reserve_more(self.pages_to_delete(request.key, request.range_end))

    def pages_to_delete(self, key: bytes, range_end: bytes) -> int:
        """An upper bound of the pages that deleting an interval touches."""
        return PAGES_PER_REQUEST * self._store.most_keys(key, range_end)

    def _compact(self, message: bytes) -> tuple[int, bytes]:
        self._store.schedule_compaction(self._txn, rpc_pb2.CompactionRequest.FromString(message).revision)
        return self._writer.end(), b""

    def _move_leases(self) -> None:
        moves = self._writer.lease_moves
        if moves:
            self._lessor.move(self._txn, moves)
            moves.clear()

    # --- leases -------------------------------------------------------------------------------------------------------

    def _lease_grant(self, message: bytes) -> tuple[int, bytes]:
        request = rpc_pb2.LeaseGrantRequest.FromString(message)
        ttl_s = self._lessor.grant(self._txn, request.ID, request.TTL)
        return self._writer.end(), b"\x10" + varint(request.ID) + b"\x18" + varint(ttl_s)

    def _lease_revoke(self, message: bytes) -> tuple[int, bytes]:
        return self._end_lease(rpc_pb2.LeaseRevokeRequest.FromString(message).ID)

    def _lease_expire(self, message: bytes) -> tuple[int, bytes]:
        """A member that was suspended, and deposed meanwhile, finds leases run out that the next leader has renewed.
        What it proposes then reaches the log under another term than it speaks of, and is void (L-50)."""
        expiry = peer_pb2.LeaseExpiry.FromString(message)
        if expiry.term != self._entry_term:
            raise NotPrimaryLessor
        return self._end_lease(expiry.ID)

    def _lease_checkpoint(self, message: bytes) -> tuple[int, bytes]:
        """Void in another term, as an expiry is: the lease may have been renewed by the leader of that one. Leases that
        are gone meanwhile need none."""
        request = peer_pb2.LeaseCheckpoints.FromString(message)
        if request.term != self._entry_term:
            raise NotPrimaryLessor
        self._backend.reserve_more(PAGES_PER_REQUEST * len(request.leases))
        for lease in request.leases:
            if lease.ID in self._lessor:
                self._lessor.checkpoint(self._txn, lease.ID, lease.remaining_s)
        return self._writer.end(), b""

    def _end_lease(self, lease_id: int) -> tuple[int, bytes]:
        """Delete all attached keys, sorted, in one revision, and the lease with them (L-11)."""
        count = len(self._lessor.keys(self._txn, lease_id))
        self._backend.reserve_more(PAGES_PER_REQUEST * count)
        if count > 1:
            self._store.transactions += 1
        for key in self._lessor.revoke(self._txn, lease_id):
            self._writer.delete_range(key, b"")
        self._writer.lease_moves.clear()  # the lease took its attachments along
        return self._writer.end(), b""

    # --- the cluster --------------------------------------------------------------------------------------------------

    def _alarm(self, message: bytes) -> tuple[int, bytes]:
        request = rpc_pb2.AlarmRequest.FromString(message)
        if request.action == rpc_pb2.AlarmRequest.ACTIVATE:
            alarms = self._alarms.activate(self._txn, request.memberID, request.alarm)
        elif request.action == rpc_pb2.AlarmRequest.DEACTIVATE:
            alarms = self._alarms.deactivate(self._txn, request.memberID, request.alarm)
        else:
            alarms = self._alarms.active(request.alarm)
        self._choose_handlers()
        messages = (rpc_pb2.AlarmMember(memberID=member, alarm=cast("Any", kind)) for member, kind in alarms)
        return self._writer.end(), b"".join(framed(b"\x12", each.SerializeToString()) for each in messages)

    def _publish(self, message: bytes) -> tuple[int, bytes]:
        member = peer_pb2.MemberRecord.FromString(message)
        self._members.publish(self._txn, member.ID, member.name, member.clientURLs, member.data_id)
        return self._writer.end(), b""

    def _update_member(self, message: bytes) -> tuple[int, bytes]:
        request = rpc_pb2.MemberUpdateRequest.FromString(message)
        self._members.update(self._txn, request.ID, request.peerURLs)
        return self._writer.end(), members_body(self._members)

    def _set_cluster_version(self, message: bytes) -> tuple[int, bytes]:
        self._txn.put(Meta.CLUSTER_VERSION, message, db=self._backend.tables.meta)
        self.cluster_version = message.decode("ascii")
        return self._writer.end(), b""

    # --- users and their rights ---------------------------------------------------------------------------------------

    def _as_user(self, data: bytes) -> tuple[int, bytes]:
        """Whether anybody may do it now comes before whether this user may, as in etcd 3.6."""
        identity, kind, message = decode_as_user(data)
        refuse = self._alarmed.get(kind)
        if refuse is not None:
            refuse(message)
        if self._auth.enabled:
            check_access(Caller(identity, self._auth, self._lessor, self._txn), kind, message)
        return self._normal[kind](message)

    def _change_auth(self, change: AuthChange, message: bytes) -> tuple[int, bytes]:
        change(self._auth, self._txn, message)
        self._choose_handlers()
        return self._writer.end(), b""

    def _authenticate(self, message: bytes) -> tuple[int, bytes]:
        request = peer_pb2.Authentication.FromString(message)
        index = self.index + 1
        token = self._auth.authenticated(request.name, request.auth_revision, request.nonce, index)
        return self._writer.end(), framed(b"\x12", token.encode()) if token else b""

    def _reserve_record(self, size_bytes: int) -> None:
        """`growth` knows the request, not the whole of what it changes, nor how many users had a role."""
        self._backend.reserve_more(PAGES_PER_REQUEST + COPIES_OF_VALUE * (size_bytes // SMALLEST_PAGE_BYTES))

    # --- what alarms and missing rights forbid ------------------------------------------------------------------------

    def _choose_handlers(self) -> None:
        """With an alarm active some kinds of requests are refused, and with authentication on, some that come from
        nobody: on every member alike. Otherwise nobody checks."""
        alarmed: dict[int, Refuse] = {}
        if self._alarms.active(NOSPACE):
            alarmed = {Kind.PUT: _refuse_no_space, Kind.LEASE_GRANT: _refuse_no_space, Kind.TXN: _refuse_puts}
        if self._alarms.active(CORRUPT):
            alarmed |= dict.fromkeys(_REFUSED_WHEN_CORRUPT, _refuse_corrupt)
        handlers = self._normal
        if self._auth.enabled:
            handlers = handlers | dict.fromkeys(_USERS_ONLY, _refuse_nobody)
        self._alarmed = alarmed
        self._handlers = handlers | {kind: partial(_guarded, alarmed[kind], handlers[kind]) for kind in alarmed}


def _is_plain(message: bytes) -> bool:
    """A put that always succeeds and whose answer has nothing of the store's but the revision."""
    request = _put_request(message)
    return not (request.lease or request.prev_kv or request.ignore_value or request.ignore_lease)


_REFUSED_WHEN_CORRUPT: Final = (
    Kind.PUT,
    Kind.DELETE_RANGE,
    Kind.TXN,
    Kind.COMPACT,
    Kind.LEASE_GRANT,
    Kind.LEASE_REVOKE,
    Kind.LEASE_EXPIRE,
)
"""AL-10."""

_USERS_ONLY: Final = AUTH_CHANGES | {Kind.PUT, Kind.DELETE_RANGE, Kind.TXN, Kind.LEASE_GRANT, Kind.LEASE_REVOKE}
"""What members ask for as well, in nobody's name, stays allowed (AU-77). Such a request of a client was proposed before
auth was on."""


def _refuse_no_space(_message: bytes) -> None:
    raise NoSpaceAlarm


def _refuse_puts(message: bytes) -> None:
    if txn_cost(rpc_pb2.TxnRequest.FromString(message)):
        raise NoSpaceAlarm


def _refuse_corrupt(_message: bytes) -> None:
    raise CorruptAlarm


def _guarded(refuse: Refuse, handler: Handler, message: bytes) -> tuple[int, bytes]:
    refuse(message)
    return handler(message)


def _refuse_nobody(_message: bytes) -> Any:
    raise UserEmpty


def _decode_conf_state(raw: bytes | None) -> ConfState:
    if raw is None:
        return ConfState()
    try:
        return decode_conf_state(raw)
    except WireError as damage:
        raise SchemaError(f"meta: the configuration cannot be read: {damage}") from damage
