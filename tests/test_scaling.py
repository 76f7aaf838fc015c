"""Scaling: the factors add up, and the verdict names what most was lost to."""

from __future__ import annotations

import pytest

from launcher.scaling import ScalingPoint, scaling_point, verdict
from strategies.base import ScalingSamples


def point(alone: float, apart: list[float], together: float, batch: int = 50) -> ScalingPoint:
    """What three equal rounds of these seconds give."""
    samples = ScalingSamples(
        batch=batch, alone=[alone] * 3, apart=[apart] * 3, together=[together] * 3
    )
    return scaling_point(samples)


POINT = point(1.0, [1.1, 1.5], 2.0)


def test_the_efficiency_is_one_workers_step_over_the_jobs() -> None:
    assert POINT.efficiency == pytest.approx(0.5)


def test_the_speedup_is_that_many_times_the_workers() -> None:
    assert POINT.speedup == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("factor", "value"), [("contention", 1 / 1.3), ("skew", 1.3 / 1.5), ("communication", 1.5 / 2)]
)
def test_each_factor_compares_two_measurements(factor: str, value: float) -> None:
    assert getattr(POINT, factor) == pytest.approx(value)


@pytest.mark.parametrize("measured", [POINT, point(1.0, [0.9, 1.0, 1.2], 1.1), point(1, [1], 1)])
def test_the_factors_multiply_to_the_efficiency(measured: ScalingPoint) -> None:
    product = measured.contention * measured.skew * measured.communication
    assert product == pytest.approx(measured.efficiency)


@pytest.mark.parametrize("measured", [POINT, point(1.0, [0.9, 1.0, 1.2], 1.1), point(1, [1], 1)])
def test_the_shares_and_the_efficiency_add_up_to_one(measured: ScalingPoint) -> None:
    shares = measured.contention_share + measured.skew_share + measured.communication_share
    assert shares + measured.efficiency == pytest.approx(1)


@pytest.mark.parametrize(("apart", "rank"), [([1, 2, 1], 1), ([3, 2, 1], 0), ([1, 1, 4], 2)])
def test_the_slowest_rank_is_named(apart: list[float], rank: int) -> None:
    assert point(1, apart, 4).slowest_rank == rank


def test_the_global_batch_is_that_of_all_workers() -> None:
    assert (POINT.workers, POINT.batch_per_worker, POINT.batch) == (2, 50, 100)


def test_one_disturbed_round_does_not_move_the_figures() -> None:
    disturbed = ScalingSamples(
        batch=50,
        alone=[1.0, 9.0, 1.0],
        apart=[[1.1, 1.5], [1.1, 1.5], [9.0, 9.0]],
        together=[9.0, 2.0, 2.0],
    )
    assert scaling_point(disturbed).efficiency == POINT.efficiency
    assert scaling_point(disturbed).skew == POINT.skew


def test_the_spread_of_the_efficiency_is_that_of_the_rounds() -> None:
    measured = scaling_point(
        ScalingSamples(batch=1, alone=[1, 2, 2], apart=[[1, 1]] * 3, together=[2, 2.5, 2])
    )
    assert (measured.efficiency_min, measured.efficiency_max) == (0.5, 1.0)
    assert measured.rounds == 3


@pytest.mark.parametrize(
    ("measured", "text"),
    [
        (point(1, [1, 1.1], 2), "45% of the time is the exchange of gradients"),
        (point(1, [1.9, 1.9], 2), "45% of the time is lost to contention"),
        (point(1, [1, 2.6], 2.6), "31% of the time is waiting for the slowest, rank 1"),
        (point(1, [1, 1], 1.05), "2 workers are 1.9x one worker; little is lost"),
    ],
)
def test_the_verdict_names_the_largest_loss(measured: ScalingPoint, text: str) -> None:
    assert text in verdict([measured])


@pytest.mark.parametrize(
    ("larger", "text"),
    [
        (point(4, [4, 4], 5, batch=200), "with batch 400 they are 1.6x"),
        (point(4, [4, 4], 8, batch=200), "; with batch 400 they are 1.0x"),
    ],
)
def test_the_verdict_says_what_a_larger_batch_gives(larger: ScalingPoint, text: str) -> None:
    assert verdict([POINT, larger]).endswith(text)


def test_where_little_is_lost_a_larger_batch_is_not_spoken_of() -> None:
    assert verdict([point(1, [1, 1], 1), POINT]) == "2 workers are 2.0x one worker; little is lost"
