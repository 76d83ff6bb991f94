"""Lock and Election calls for contract tests: begun in the background where they wait, and what must refuse them.

Knows no rule. etcd answers every refusal of these services as UNKNOWN; raftkv sends the code that the same refusal has
in its own service (contract section 8).
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Sequence
from typing import Any, Final

import grpc
from contract_support import TIMEOUT_S, Client, Code, prefix_end
from helpers.waiting import wait_until

from raftkv.pb import election_pb2, kv_pb2, lock_pb2

_ETCD: Final = os.environ.get("RAFTKV_TEST_SUBJECT") == "etcd"

Status = tuple[grpc.StatusCode, str]


def as_here(status: Status) -> Status:
    """A refusal of the KV or Lease service, as Lock and Election pass it on."""
    return (Code.UNKNOWN, status[1]) if _ETCD else status


def claim_of(name: bytes, lease: int) -> bytes:
    return name + b"/%x" % lease


def claims(client: Client, name: bytes) -> list[kv_pb2.KeyValue]:
    """The oldest first."""
    prefix = name + b"/"
    return sorted(client.range(prefix, prefix_end(prefix)).kvs, key=lambda kv: kv.create_revision)


def claim_keys(client: Client, name: bytes) -> list[bytes]:
    return [kv.key for kv in claims(client, name)]


class Waiting:
    """A call that has been sent, and may wait for as long as it likes."""

    def __init__(self, future: Any) -> None:
        self._future = future

    def done(self) -> bool:
        return bool(self._future.done())

    def result(self) -> Any:
        """The response. Raises grpc.RpcError."""
        return self._future.result(TIMEOUT_S)

    def cancel(self) -> None:
        self._future.cancel()


class Locks:
    """Clients of one name: a lock, an election, or both."""

    def __init__(self, client: Client, name: bytes) -> None:
        self.client = client
        self.name = name

    def lease(self, ttl_s: int = 60) -> int:
        return self.client.grant(ttl_s).ID

    def lock(self, lease: int = 0, timeout_s: float = TIMEOUT_S) -> lock_pb2.LockResponse:
        response = self.client.calls.Lock.Lock(self._lock_request(lease), timeout=timeout_s)
        assert isinstance(response, lock_pb2.LockResponse)
        return response

    def begin_lock(self, lease: int) -> Waiting:
        """A Lock call whose claim is there."""
        waiting = Waiting(self.client.calls.Lock.Lock.future(self._lock_request(lease), timeout=TIMEOUT_S))
        self.wait_claimed(lease)
        return waiting

    def unlock(self, key: bytes) -> lock_pb2.UnlockResponse:
        response = self.client.calls.Lock.Unlock(lock_pb2.UnlockRequest(key=key), timeout=TIMEOUT_S)
        assert isinstance(response, lock_pb2.UnlockResponse)
        return response

    def campaign(self, lease: int, value: bytes = b"v", timeout_s: float = TIMEOUT_S) -> election_pb2.CampaignResponse:
        response = self.client.calls.Election.Campaign(self._campaign_request(lease, value), timeout=timeout_s)
        assert isinstance(response, election_pb2.CampaignResponse)
        return response

    def begin_campaign(self, lease: int, value: bytes = b"v") -> Waiting:
        """A Campaign call whose claim is there, with this value."""
        request = self._campaign_request(lease, value)
        waiting = Waiting(self.client.calls.Election.Campaign.future(request, timeout=TIMEOUT_S))
        self.wait_claimed(lease, value)
        return waiting

    def proclaim(self, leader: election_pb2.LeaderKey | None, value: bytes) -> election_pb2.ProclaimResponse:
        request = election_pb2.ProclaimRequest(leader=leader, value=value)
        response = self.client.calls.Election.Proclaim(request, timeout=TIMEOUT_S)
        assert isinstance(response, election_pb2.ProclaimResponse)
        return response

    def leader(self) -> election_pb2.LeaderResponse:
        request = election_pb2.LeaderRequest(name=self.name)
        response = self.client.calls.Election.Leader(request, timeout=TIMEOUT_S)
        assert isinstance(response, election_pb2.LeaderResponse)
        return response

    def resign(self, leader: election_pb2.LeaderKey | None) -> election_pb2.ResignResponse:
        response = self.client.calls.Election.Resign(election_pb2.ResignRequest(leader=leader), timeout=TIMEOUT_S)
        assert isinstance(response, election_pb2.ResignResponse)
        return response

    def observe(self, metadata: Sequence[tuple[str, str]] = ()) -> Observed:
        return Observed(self.client, self.name, metadata)

    def wait_claimed(self, lease: int, value: bytes = b"") -> None:
        key = claim_of(self.name, lease)

        def there() -> bool:
            return any((kv.key, kv.value) == (key, value) for kv in claims(self.client, self.name))

        wait_until("the claim is made", there)

    def wait_claims(self, *leases: int) -> None:
        """Until the claims are those of these leases, the oldest first."""
        wanted = [claim_of(self.name, lease) for lease in leases]
        wait_until(f"the claims are {wanted}", lambda: claim_keys(self.client, self.name) == wanted)

    def _lock_request(self, lease: int) -> lock_pb2.LockRequest:
        return lock_pb2.LockRequest(name=self.name, lease=lease)

    def _campaign_request(self, lease: int, value: bytes) -> election_pb2.CampaignRequest:
        return election_pb2.CampaignRequest(name=self.name, lease=lease, value=value)


class Observed:
    """An Observe call; what it is sent is collected by a thread. A context manager, so that none outlives its test."""

    def __init__(self, client: Client, name: bytes, metadata: Sequence[tuple[str, str]] = ()) -> None:
        request = election_pb2.LeaderRequest(name=name)
        self._call = client.calls.Election.Observe(request, timeout=3 * TIMEOUT_S, metadata=metadata)
        self._received: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            for response in self._call:
                self._received.put(response)
        except grpc.RpcError as error:
            end: Any = error
            self._received.put((end.code(), end.details()))

    def next(self) -> election_pb2.LeaderResponse:
        response = self._received.get(timeout=TIMEOUT_S)
        assert isinstance(response, election_pb2.LeaderResponse), f"the stream ended: {response}"
        return response

    def values(self, count: int) -> list[tuple[bytes, bytes]]:
        """Key and value of the next responses."""
        return [(kv.key, kv.value) for kv in (self.next().kv for _ in range(count))]

    def end(self) -> Status:
        """How the stream ended, which must be the next thing on it."""
        status = self._received.get(timeout=TIMEOUT_S)
        assert isinstance(status, tuple), f"the stream goes on: {status}"
        return status

    def is_quiet(self) -> bool:
        return self._received.empty()

    def __enter__(self) -> Observed:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._call.cancel()
        self._thread.join()
