"""Each fault: what it does to links or processes when it begins, and how it is taken back.

Owns the effects, in a table by the plan's names. When, how long and to whom is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from chaos.cluster import Cluster, Member, State
from chaos.links import CUT, Direction, Links, Toxic
from chaos.plan import Step


class Scene(NamedTuple):
    """Where a fault takes place. Its functions may block: they are called in a thread, one at a time."""

    cluster: Cluster
    links: Links


class Fault(NamedTuple):
    begin: Callable[[Scene, Step, Sequence[Member]], str]
    """Does it to these members; says with what strength, if there is something to say."""
    end: Callable[[Scene, Step, Sequence[Member]], None]


def _label(step: Step) -> str:
    return f"step{step.number}"


# --- links ------------------------------------------------------------------------------------------------------------


def out_of(scene: Scene, victims: Sequence[Member]) -> list[Direction]:
    return [(victim.number, other.number) for victim in victims for other in scene.cluster.others(victim)]


def into(scene: Scene, victims: Sequence[Member]) -> list[Direction]:
    return [(receiver, sender) for sender, receiver in out_of(scene, victims)]


def both_ways(scene: Scene, victims: Sequence[Member]) -> list[Direction]:
    """Each direction once, also where both ends are victims."""
    return sorted({*out_of(scene, victims), *into(scene, victims)})


def _begin_cut(scene: Scene, step: Step, victims: Sequence[Member]) -> str:
    scene.links.put(_label(step), CUT, both_ways(scene, victims))
    return ""


def _begin_cut_one_link(scene: Scene, step: Step, victims: Sequence[Member]) -> str:
    victim = victims[0]
    others = scene.cluster.others(victim)
    other = others[int(step.pick * len(others))]
    scene.links.put(_label(step), CUT, [(victim.number, other.number), (other.number, victim.number)])
    return f"only from {other.name}"


def _begin_mute(scene: Scene, step: Step, victims: Sequence[Member]) -> str:
    scene.links.put(_label(step), CUT, out_of(scene, victims))
    return ""


def _begin_deafen(scene: Scene, step: Step, victims: Sequence[Member]) -> str:
    scene.links.put(_label(step), CUT, into(scene, victims))
    return ""


def _begin_delay(scene: Scene, step: Step, victims: Sequence[Member]) -> str:
    latency_ms = round(20 + 180 * step.strength)
    jitter_ms = latency_ms // 2
    toxic = Toxic("latency", {"latency": latency_ms, "jitter": jitter_ms})
    scene.links.put(_label(step), toxic, both_ways(scene, victims))
    return f"{latency_ms} ± {jitter_ms} ms each way"


def _begin_reset(scene: Scene, step: Step, victims: Sequence[Member]) -> str:
    after_ms = round(50 + 700 * step.strength)
    toxic = Toxic("reset_peer", {"timeout": after_ms}, toxicity=0.7)
    scene.links.put(_label(step), toxic, both_ways(scene, victims))
    return f"7 of 10 connections, {after_ms} ms after their first byte"


def _begin_throttle(scene: Scene, step: Step, victims: Sequence[Member]) -> str:
    rate_kb = round(2 + 48 * step.strength)
    scene.links.put(_label(step), Toxic("bandwidth", {"rate": rate_kb}), both_ways(scene, victims))
    return f"{rate_kb} KB/s each way"


def _end_toxic(scene: Scene, step: Step, _victims: Sequence[Member]) -> None:
    scene.links.lift(_label(step))


# --- processes --------------------------------------------------------------------------------------------------------
# Steps overlap: a member that should be killed may be down already, one that should be paused may be dead.


def _begin_kill(_scene: Scene, _step: Step, victims: Sequence[Member]) -> str:
    # All at once: who dies a moment later could still store what the others have lost.
    for victim in victims:
        victim.kill9()
    for victim in victims:
        victim.reap()
    return ""


def _end_kill(_scene: Scene, _step: Step, victims: Sequence[Member]) -> None:
    for victim in victims:
        if victim.state is State.DOWN:
            victim.start()


def _begin_pause(_scene: Scene, _step: Step, victims: Sequence[Member]) -> str:
    running = [victim for victim in victims if victim.state is State.RUNNING]
    for victim in running:
        victim.pause()
    return "" if running else "was not running"


def _end_pause(_scene: Scene, _step: Step, victims: Sequence[Member]) -> None:
    for victim in victims:
        if victim.state is State.PAUSED:
            victim.resume()


FAULTS: Final[Mapping[str, Fault]] = {
    "cut": Fault(_begin_cut, _end_toxic),
    "cut-one-link": Fault(_begin_cut_one_link, _end_toxic),
    "mute": Fault(_begin_mute, _end_toxic),
    "deafen": Fault(_begin_deafen, _end_toxic),
    "delay": Fault(_begin_delay, _end_toxic),
    "reset": Fault(_begin_reset, _end_toxic),
    "throttle": Fault(_begin_throttle, _end_toxic),
    "kill": Fault(_begin_kill, _end_kill),
    "pause": Fault(_begin_pause, _end_pause),
}
"""By the names in the plan's deck."""
