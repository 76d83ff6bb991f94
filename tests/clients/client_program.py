"""Talking with a program that makes the calls of another language's client: go/ and node/ speak the same way.

`PROGRAM SCENARIO ENDPOINTS` ends with one line of JSON: scenario, client, what was checked. Before that it may ask for
something to be done to a server with a line {"step": ...}, and waits for a line. A failed check is its exit code 1.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import pytest
from client_table import RecordClient
from helpers.processes import RAFTKV, Server, clean_environment

_SCENARIO_LIMIT_S: Final = 120

Play = Callable[..., None]


def player(
    request: pytest.FixtureRequest, record_client: RecordClient, fixture: str, name: str, said: str, version: str
) -> Play:
    """`play(scenario, what, endpoints, **steps)`: plays one scenario, and notes for the table of clients what it was.

    fixture: gives the command, or skips. name: of the client in the table; said: as the program calls it.
    """

    def run(scenario: str, what: str, endpoints: list[str], **steps: Callable[[], object]) -> None:
        record_client(name, version, what)
        try:
            command = request.getfixturevalue(fixture)
        except pytest.skip.Exception as reason:
            record_client.note(str(reason))
            raise
        asked = {step.replace("_", " "): action for step, action in steps.items()}
        result = play(command, scenario, endpoints, asked)
        assert (result["scenario"], result["client"]) == (scenario, f"{said} {version}")
        assert result["checked"]

    return run


def play_restart(play: Play, server: Server, scenario: str = "reconnect") -> None:
    # etcd 3.5.1 may lose acknowledged writes when it is killed (fixed in 3.5.3, etcd pull request 13908).
    stop = server.kill9 if server.program == RAFTKV else server.terminate
    play(scenario, "watch and lease over a restart", [server.endpoint], stop=stop, start=server.start)


def check_it_can_fail(
    command: Sequence[str], server: Server, scenario: str = "reconnect", complaint: str = "nobody did: stop"
) -> None:
    """A scenario that does not exist, and one in which nobody does what it asks for, end the program with an error."""
    nobody = subprocess.DEVNULL
    for arguments, said in ((["nothing", "x"], "usage"), ([scenario, server.endpoint], complaint)):
        done = subprocess.run(
            [*command, *arguments], stdin=nobody, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode != 0
        assert said in done.stderr
        assert "checked" not in done.stdout


def play(
    command: Sequence[str], scenario: str, endpoints: Sequence[str], steps: Mapping[str, Callable[[], object]]
) -> dict[str, Any]:
    """Play one scenario, doing what it asks for. Its result line. Raises AssertionError with the program's reason."""
    with subprocess.Popen(
        [*command, scenario, ",".join(endpoints)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            result = None
            for line in process.stdout:  # the programs bound themselves, to 90 s
                said = json.loads(line)
                if "step" not in said:
                    result = said
                    continue
                steps[said["step"]]()
                process.stdin.write("done\n")
                process.stdin.flush()
            reason = process.stderr.read()
            code = process.wait(_SCENARIO_LIMIT_S)
        finally:
            process.kill()
    assert code == 0, reason
    assert isinstance(result, dict), "the program ended without a result"
    return result
