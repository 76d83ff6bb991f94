"""What the seed decides."""

from chaos import faults, plan
from chaos.plan import Target


def test_the_same_seed_draws_the_same_plan() -> None:
    assert plan.draw(7, 60, plan.ABOUT) == plan.draw(7, 60, plan.ABOUT)
    assert plan.draw(7, 60, plan.ABOUT) != plan.draw(8, 60, plan.ABOUT)


def test_a_minute_plays_every_card() -> None:
    for seed in range(200):
        played = {(step.fault, step.target) for step in plan.draw(seed, 60, plan.ABOUT)}
        assert played == {(card.fault, card.target) for card in plan.DECK}, f"seed {seed}"


def test_steps_are_in_order_and_end_with_the_run() -> None:
    for seed in range(50):
        steps = plan.draw(seed, 30, plan.ABOUT)
        assert [step.at_s for step in steps] == sorted(step.at_s for step in steps)
        assert [step.number for step in steps] == list(range(len(steps)))
        assert all(step.lasts_s > 0 and step.at_s + step.lasts_s <= 30 for step in steps)


def test_only_the_groups_that_were_asked_for() -> None:
    assert {step.fault for step in plan.draw(1, 60, ("kill", "pause"))} == {"kill", "pause"}
    assert plan.draw(1, 60, ()) == []


def test_every_group_is_explained_and_every_fault_is_known() -> None:
    assert {card.group for card in plan.DECK} == set(plan.ABOUT)
    assert {card.fault for card in plan.DECK} == set(faults.FAULTS)


def test_all_members_are_killed_at_once_in_every_minute() -> None:
    """Without it nothing that a majority has would ever be lost, and a node that does not sync would pass."""
    for seed in range(50):
        assert any(step.fault == "kill" and step.target is Target.ALL for step in plan.draw(seed, 60, plan.ABOUT))
