"""The learning rate of every step, by Goyal et al. 2017."""

from __future__ import annotations

import numpy as np
import pytest

from strategies.mnist.schedule import Schedule, default_warmup_epochs, scaled_lr


def test_without_a_warm_up_the_rate_is_constant() -> None:
    rates = Schedule(lr=0.1, warmup_lr=0.0, warmup_steps=0).rates(7, 3)
    np.testing.assert_array_equal(rates, np.full(3, 0.1, np.float32))


def test_the_rate_rises_by_equal_amounts_and_stays() -> None:
    rates = Schedule(lr=0.5, warmup_lr=0.1, warmup_steps=4).rates(0, 6)
    np.testing.assert_allclose(rates, [0.2, 0.3, 0.4, 0.5, 0.5, 0.5], rtol=1e-6)


def test_a_part_of_the_steps_has_the_rates_of_the_whole() -> None:
    schedule = Schedule(lr=0.5, warmup_lr=0.0, warmup_steps=10)
    parts = [schedule.rates(0, 3), schedule.rates(3, 9)]
    np.testing.assert_array_equal(np.concatenate(parts), schedule.rates(0, 12))


def test_four_times_the_batch_takes_four_times_the_rate() -> None:
    assert scaled_lr(0.1, 1024, 256) == pytest.approx(0.4)


@pytest.mark.parametrize(("epochs", "warm_up"), [(90, 5), (10, 2), (1, 0.2)])
def test_the_warm_up_takes_five_epochs_or_a_fifth(epochs: int, warm_up: float) -> None:
    assert default_warmup_epochs(epochs) == warm_up
