"""Scenarios for etcdctl: the steps they are made of, and one server's side on which a scenario is played.

Owns running the tool and writing down what came out, as a transcript in which ids are already words. Knows
nothing of the other side; helpers.comparison plays two sides and compares.

Text in commands and stdin may hold {base} (revision at the scenario's start), {+n} / {-n} (relative to it),
{member} (hex), {endpoint}, {dir} (a scratch directory) and every name saved by an earlier step.
"""

import os
import re
import selectors
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import grpc
from google.protobuf import text_format
from google.protobuf.message import Message

from helpers.etcd_tools import Tool
from helpers.grpc_calls import Calls
from helpers.normalise import Normaliser
from helpers.processes import clean_environment
from raftkv.pb import rpc_pb2

_COMMAND_TIMEOUT_S: Final = 60.0
_UNTIL_TIMEOUT_S: Final = 15.0
_PLACEHOLDER: Final = re.compile(r"\{(\w+|[+-]\d+)\}")


@dataclass(frozen=True, slots=True)
class Ctl:
    """Run etcdctl to its end. Compared: stdout, stderr, exit code."""

    command: str
    stdin: bytes = b""
    save: tuple[str, str] | None = None
    """Name, and a pattern whose first group in stdout becomes {name} for later steps."""
    decode: type[Message] | None = None
    """`-w protobuf`: stdout is this message, compared as text."""
    only: str = ""
    """Pattern of the stdout lines that count: the others are a progress bar."""
    unordered_stderr: bool = False
    """The tool logs from several goroutines: lines are compared sorted."""
    timeout_s: float = _COMMAND_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class Start:
    """Start etcdctl in the background as the scenario's job; later steps wait for it and end it."""

    command: str
    job: str = "job"


@dataclass(frozen=True, slots=True)
class Until:
    """Wait until the job's output has `count` matches of a pattern (multi-line mode)."""

    pattern: str
    count: int = 1
    job: str = "job"


@dataclass(frozen=True, slots=True)
class Type:
    """Write to the job's stdin."""

    text: str
    job: str = "job"


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Send SIGINT to the job and compare all that it wrote, or its first lines, with its exit code."""

    job: str = "job"
    keep_lines: int | None = None
    """For a job that goes on writing by the clock until the signal reaches it."""
    stdout_only: bool = False
    """For a job whose goroutines may or may not log that they were cancelled before the process ends."""


@dataclass(frozen=True, slots=True)
class Ends:
    """Wait for the job to end by itself and compare all that it wrote, with its exit code."""

    job: str = "job"


@dataclass(frozen=True, slots=True)
class Poll:
    """Run etcdctl again and again until stdout matches; only that it did is compared."""

    command: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Rpc:
    """A unary call that etcdctl cannot make. Compared: status code and text, or the response."""

    method: str
    """Service and method, e.g. "KV.Txn"."""
    request: Message | Callable[["Side"], Message]
    """The request, or what makes it when it needs an id of this server."""


Step = Ctl | Start | Until | Type | Interrupt | Ends | Poll | Rpc


@dataclass(frozen=True, slots=True)
class Scenario:
    """A list of steps with a name. Both servers begin at the same revision with no keys, leases or alarms."""

    name: str
    steps: tuple[Step, ...]
    fresh: bool = False
    """Needs servers of its own with an empty history (hashes, never-compacted stores)."""
    flags: tuple[str, ...] = ()
    """Server flags; imply servers of its own."""
    tools: tuple[str, ...] = ("3.5.1", "3.4")
    """Releases of etcdctl that have all the flags used."""
    slow: bool = False
    not_yet: str = ""
    """What raftkv lacks to pass this; empty when it passes."""
    """Takes a minute: runs only with RAFTKV_TEST_SLOW=1."""


class Job:
    """An etcdctl in the background; its output is read while the scenario waits for something in it."""

    def __init__(self, argv: list[str], directory: Path) -> None:
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=directory,
            env=tool_environment(),
        )
        self.stdout = bytearray()
        self.stderr = bytearray()
        self._selector = selectors.DefaultSelector()
        for pipe, buffer in ((self._process.stdout, self.stdout), (self._process.stderr, self.stderr)):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
            self._selector.register(pipe, selectors.EVENT_READ, buffer)

    def write(self, text: str) -> None:
        stdin = self._stdin()
        stdin.write(text.encode())
        stdin.flush()

    def read_until(self, pattern: str, count: int) -> bool:
        """Whether stdout came to hold `count` matches before the time ran out or the job ended."""
        wanted = re.compile(pattern.encode(), re.MULTILINE)
        deadline = time.monotonic() + _UNTIL_TIMEOUT_S
        while len(wanted.findall(self.stdout)) < count:
            if not self._read_some(deadline):
                return False
        return True

    def interrupt(self) -> int:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        return self.wait_end()

    def wait_end(self) -> int:
        """Exit code (negative: signal). A job that does not end in time is killed, which shows as -9."""
        deadline = time.monotonic() + _UNTIL_TIMEOUT_S
        while self._read_some(deadline):
            pass
        if self._selector.get_map():
            self._process.kill()
        code = self._process.wait()
        self.close()
        return code

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._selector.close()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _read_some(self, deadline: float) -> bool:
        """Read what comes next. False at the end of both pipes, or when the deadline has passed."""
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not self._selector.get_map():
            return False
        for key, _events in self._selector.select(left_s):
            chunk = os.read(key.fd, 65536)
            if chunk:
                key.data.extend(chunk)
            else:
                self._selector.unregister(key.fileobj)
        return True


def tool_environment() -> dict[str, str]:
    return {**clean_environment(), "ETCDCTL_API": "3"}


class Side:
    """One server on which a scenario is played with one etcdctl."""

    def __init__(self, endpoint: str, peer_url: str, calls: Calls, tool: Tool, directory: Path) -> None:
        self.calls = calls
        self.transcript: list[str] = []
        self.timed_out: list[str] = []
        """Waits that ended without what they waited for. On the real etcd this means a wrong scenario."""
        self._tool = tool
        self._endpoint = endpoint
        self._directory = directory
        self._jobs: dict[str, Job] = {}
        header = calls.KV.Range(rpc_pb2.RangeRequest(key=b"\0", count_only=True), timeout=10).header
        self.member_id: int = header.member_id
        self._base: int = header.revision
        self._saved = {"member": f"{header.member_id:x}", "endpoint": endpoint, "dir": str(directory)}
        self._normaliser = Normaliser(
            {
                str(header.member_id): "<member>",
                f"{header.member_id:x}": "<member>",
                str(header.cluster_id): "<cluster>",
                f"{header.cluster_id:x}": "<cluster>",
                endpoint: "<endpoint>",
                peer_url: "<peer-url>",
                str(directory): "<dir>",
            }
        )

    def play(self, scenario: Scenario) -> None:
        try:
            for step in scenario.steps:
                _PLAY[type(step)](self, step)
        finally:
            for job in self._jobs.values():
                job.close()

    def revision(self, offset: int) -> int:
        """The revision `offset` writes after the scenario's start."""
        return self._base + offset

    def on_ctl(self, step: Ctl) -> None:
        done = self._run(step.command, self._fill_bytes(step.stdin), step.timeout_s)
        stdout = done.stdout.decode(errors="backslashreplace")
        stderr = done.stderr.decode(errors="backslashreplace")
        if step.save is not None:
            name, pattern = step.save
            match = re.search(pattern, stdout)
            self._saved[name] = match[1] if match else "nothing-saved"
        if step.decode is not None and done.returncode == 0:
            stdout = message_text(step.decode.FromString(done.stdout))
        if step.only:
            stdout = "\n".join(line for line in stdout.splitlines() if re.search(step.only, line))
        if step.unordered_stderr:
            stderr = "\n".join(sorted(stderr.splitlines()))
        self._note(f"$ etcdctl {step.command}", stdout, stderr, done.returncode)

    def on_start(self, step: Start) -> None:
        self._jobs[step.job] = Job(self._argv(step.command), self._directory)
        self.transcript.append(f"$ etcdctl {step.command} &")

    def on_until(self, step: Until) -> None:
        job = self._jobs[step.job]
        if not job.read_until(self._fill(step.pattern), step.count):
            self._miss(f"{step.pattern!r} x {step.count} in the job's output", bytes(job.stdout + job.stderr))

    def on_type(self, step: Type) -> None:
        self._jobs[step.job].write(self._fill(step.text))

    def on_interrupt(self, step: Interrupt) -> None:
        job = self._jobs[step.job]
        code = job.interrupt()
        if step.stdout_only:
            job.stderr.clear()
        self._note_job("interrupted job", job, code, step.keep_lines)

    def on_ends(self, step: Ends) -> None:
        job = self._jobs[step.job]
        self._note_job("ended job", job, job.wait_end(), None)

    def on_poll(self, step: Poll) -> None:
        wanted = re.compile(self._fill(step.pattern).encode(), re.MULTILINE)
        deadline = time.monotonic() + _UNTIL_TIMEOUT_S
        while True:
            stdout = self._run(step.command, b"", _COMMAND_TIMEOUT_S).stdout
            if wanted.search(stdout):
                self.transcript.append(f"$ etcdctl {step.command} # until {step.pattern!r}")
                return
            if time.monotonic() > deadline:
                self._miss(f"{step.pattern!r} from etcdctl {step.command}", stdout)
                return
            time.sleep(0.1)

    def on_rpc(self, step: Rpc) -> None:
        service, method = step.method.split(".")
        request = step.request(self) if callable(step.request) else step.request
        try:
            response = getattr(getattr(self.calls, service), method)(request, timeout=10)
        except grpc.RpcError as refused:
            error: Any = refused  # grpcio raises one class for both: the error, and the call that it ended
            self._note(f"> {step.method}", "", f"{error.code()}: {error.details()}", 1)
        else:
            self._note(f"> {step.method}", message_text(response), "", 0)

    def _argv(self, command: str) -> list[str]:
        words = [self._fill(word) for word in shlex.split(command)]
        return [str(self._tool.path), f"--endpoints={self._endpoint}", *words]

    def _run(self, command: str, stdin: bytes, timeout_s: float) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            self._argv(command),
            input=stdin,
            capture_output=True,
            cwd=self._directory,
            env=tool_environment(),
            timeout=timeout_s,
            check=False,
        )

    def _fill(self, text: str) -> str:
        def replace(match: re.Match[str]) -> str:
            name = match[1]
            if name == "base":
                return str(self._base)
            if name[0] in "+-":
                return str(self.revision(int(name)))
            return self._saved[name]

        return _PLACEHOLDER.sub(replace, text)

    def _fill_bytes(self, data: bytes) -> bytes:
        return self._fill(data.decode("latin-1")).encode("latin-1") if b"{" in data else data

    def _note(self, title: str, stdout: str, stderr: str, code: int) -> None:
        self._normaliser.learn_leases(stdout)
        self.transcript.append(title)
        self.transcript += [f"  {line}" for line in self._normaliser.text(stdout).splitlines()]
        self.transcript += [f"  ! {line}" for line in self._normaliser.text(stderr).splitlines()]
        self.transcript.append(f"  = {code}")

    def _note_job(self, title: str, job: Job, code: int, keep_lines: int | None) -> None:
        stdout = job.stdout.decode(errors="backslashreplace")
        if keep_lines is not None:
            stdout = "\n".join(stdout.splitlines()[:keep_lines])
        self._note(title, stdout, job.stderr.decode(errors="backslashreplace"), code)

    def _miss(self, what: str, seen: bytes) -> None:
        text = f"waited in vain for {what}; there was: {seen.decode(errors='backslashreplace')}"
        self.timed_out.append(text)
        self.transcript += self._normaliser.text(text).splitlines()


_PLAY: Final[dict[type, Callable[[Side, Any], None]]] = {
    Ctl: Side.on_ctl,
    Start: Side.on_start,
    Until: Side.on_until,
    Type: Side.on_type,
    Interrupt: Side.on_interrupt,
    Ends: Side.on_ends,
    Poll: Side.on_poll,
    Rpc: Side.on_rpc,
}


def message_text(message: Message) -> str:
    """Protobuf text of a response without the Raft term. Ids in it are for the Normaliser."""
    copy = type(message)()
    copy.CopyFrom(message)
    if "header" in copy.DESCRIPTOR.fields_by_name and copy.HasField("header"):
        copy.header.raft_term = 0  # type: ignore[attr-defined]
    return text_format.MessageToString(copy)
