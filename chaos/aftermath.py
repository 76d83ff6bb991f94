"""After healing: the cluster must work again soon, through every member, and all members must hold the same.

Owns these demands and their bounds. Asks members as any client would.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from time import monotonic
from typing import Final, NamedTuple

from chaos.checkers.verdict import Result, Verdict, verdict
from chaos.client import CallError, Client, HashKV

WRITES_WITHIN_S: Final = 20.0
"""From healing to a write acknowledged by each member: restart, reconnecting with back-off, an election or two."""
AGREE_WITHIN_S: Final = 15.0
_AGAIN_S: Final = 0.1


class Aftermath(NamedTuple):
    alive: tuple[str, ...]
    """Members that take writes."""
    verdict: Verdict


async def writes_again(endpoints: Mapping[str, str], within_s: float = WRITES_WITHIN_S) -> Aftermath:
    """Put through every member until it answers."""

    async def until_written(member: str, endpoint: str) -> tuple[str, float | None, str]:
        client = Client(member, endpoint)
        began = monotonic()
        said = ""
        try:
            while monotonic() - began < within_s:
                try:
                    await client.put(f"after/{member}", "healed")
                    return member, monotonic() - began, ""
                except CallError as error:
                    said = str(error)
                    await asyncio.sleep(_AGAIN_S)
        finally:
            await client.close()
        return member, None, said

    answers = await asyncio.gather(*(until_written(member, endpoint) for member, endpoint in endpoints.items()))
    faults = [
        f"{member} took no write within {within_s:g} s after healing; the last answer: {said}"
        for member, took_s, said in answers
        if took_s is None
    ]
    took = {member: took_s for member, took_s, _ in answers if took_s is not None}
    checked = ", ".join(f"{member} {took_s:.1f} s" for member, took_s in took.items())
    law = f"every member takes writes within {within_s:g} s of healing"
    return Aftermath(tuple(took), verdict("cluster", law, checked, faults))


async def same_hashes(endpoints: Mapping[str, str], within_s: float = AGREE_WITHIN_S) -> Verdict:
    """HashKV of one revision on every member. Nobody may write meanwhile."""
    law = "all members have the same HashKV"
    clients = {member: Client(member, endpoint) for member, endpoint in endpoints.items()}
    give_up = monotonic() + within_s
    said = ""
    try:
        while monotonic() < give_up:
            try:
                revision, hashes = await _hashes(clients)
            except CallError as error:
                said = str(error)
                await asyncio.sleep(_AGAIN_S)
                continue
            differ = [] if len(set(hashes.values())) == 1 else [f"at revision {revision}: {_listed(hashes)}"]
            return verdict("cluster", law, f"{len(hashes)} members at revision {revision}", differ)
    finally:
        for client in clients.values():
            await client.close()
    return Verdict("cluster", law, Result.UNDECIDED, "nothing", (f"not every member answered: {said}",))


async def _hashes(clients: Mapping[str, Client]) -> tuple[int, dict[str, HashKV]]:
    # A linearizable read through each member: all have applied at least the revision that the first one told.
    revisions = [(await client.get("after/hash")).revision for client in clients.values()]
    revision = min(revisions)
    return revision, {member: await client.hash_kv(revision) for member, client in clients.items()}


def _listed(hashes: Mapping[str, HashKV]) -> str:
    return ", ".join(
        f"{member} {answer.hash:#010x} (compacted at {answer.compact_revision})" for member, answer in hashes.items()
    )
