"""One training of several attempts: every step once, and of the attempt whose weights stand."""

from __future__ import annotations

from dataclasses import replace
from math import isnan

from launcher.history import joined
from strategies.base import EpochMetrics, ScalingSamples, TrainMetrics

SCALING = [ScalingSamples(batch=50, alone=[1.0], apart=[[1.0, 1.0]], together=[2.0])]


def part(first: int, losses: list[float], *ends: int, name: str = "") -> TrainMetrics:
    """An attempt from step ``first`` on, whose epochs ended at the steps ``ends``."""
    epochs = [
        EpochMetrics(
            epoch=end // 2,
            steps=end,
            train_loss=float(first),
            validation_loss=None,
            validation_accuracy=None,
            test_loss=0.0,
            test_accuracy=0.0,
            seconds=1.0,
        )
        for end in ends
    ]
    return TrainMetrics(
        epochs=epochs,
        losses=losses,
        first_loss_step=first,
        throughput=[float(first)] if losses else [],
        first_step=1000.0 + first if losses else 0.0,
        exchange=f"exchange of {first}",
        device_name="CPU",
        threads=1,
        checkpoint=name,
        versions={},
    )


FIRST = part(1, [1.0, 2.0, 3.0, 4.0], 2, 4, name="step-4")


def test_no_attempt_that_measured_is_no_training() -> None:
    assert joined([]) is None


def test_one_attempt_is_itself() -> None:
    assert joined([FIRST]) == FIRST


def test_the_next_attempt_goes_on_where_its_checkpoint_was() -> None:
    whole = joined([FIRST, part(5, [5.0, 6.0], 6, name="step-6")])
    assert whole is not None
    assert whole.losses == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert [epoch.steps for epoch in whole.epochs] == [2, 4, 6]
    assert (whole.first_loss_step, whole.checkpoint) == (1, "step-6")


def test_what_was_done_again_counts_as_it_was_the_last_time() -> None:
    whole = joined([FIRST, part(3, [30.0, 40.0, 50.0, 60.0], 4, 6)])
    assert whole is not None
    assert whole.losses == [1.0, 2.0, 30.0, 40.0, 50.0, 60.0]
    assert [(epoch.steps, epoch.train_loss) for epoch in whole.epochs] == [(2, 1), (4, 3), (6, 3)]


def test_an_attempt_from_the_beginning_leaves_nothing_of_the_one_before() -> None:
    whole = joined([FIRST, part(1, [10.0, 20.0], 2)])
    assert whole is not None
    assert (whole.losses, len(whole.epochs)) == ([10.0, 20.0], 1)


def test_a_training_that_was_resumed_begins_where_it_was_resumed() -> None:
    whole = joined([part(101, [1.0, 2.0], 102), part(103, [3.0], 103)])
    assert whole is not None
    assert (whole.first_loss_step, whole.losses) == (101, [1.0, 2.0, 3.0])


def test_three_attempts_are_joined_in_turn() -> None:
    whole = joined([FIRST, part(3, [30.0, 40.0], 4), part(5, [500.0], 5)])
    assert whole is not None
    assert whole.losses == [1.0, 2.0, 30.0, 40.0, 500.0]


def test_the_first_step_is_the_first_attempts_and_the_speed_the_last_ones() -> None:
    last = replace(part(5, [5.0], 5), scaling=SCALING)
    whole = joined([FIRST, last])
    assert whole is not None
    assert (whole.first_step, whole.throughput) == (1001.0, [5.0])
    assert (whole.scaling, whole.exchange) == (SCALING, "exchange of 5")


def test_an_attempt_that_did_nothing_takes_nothing_away() -> None:
    whole = joined([FIRST, part(5, [])])
    assert whole is not None
    assert whole.losses == FIRST.losses
    assert (whole.throughput, whole.checkpoint) == ([1.0], "step-4")


def test_steps_whose_losses_went_with_their_worker_keep_their_places() -> None:
    """A worker may die behind its checkpoint and before it has told of its losses."""
    whole = joined([part(1, [1.0, 2.0], 2), part(5, [5.0, 6.0], 6)])
    assert whole is not None
    known = dict(enumerate(whole.losses, start=whole.first_loss_step))
    assert {step: loss for step, loss in known.items() if not isnan(loss)} == {
        **{1: 1.0, 2: 2.0},
        **{5: 5.0, 6: 6.0},
    }
