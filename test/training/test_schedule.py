"""The learning rate's factor."""

import pytest

from mlesam_training.trainer import poly


def test_warm_up_is_linear_from_a_tenth_to_one():
    assert [poly(step, 100, 10) for step in (0, 5, 10)] == pytest.approx([0.1, 0.55, 1.0])


def test_then_it_decays_by_the_power():
    assert poly(55, 100, 10) == pytest.approx(0.5**0.9)
    assert poly(55, 100, 10, power=2) == pytest.approx(0.25)


def test_it_stays_positive_to_the_last_step_and_needs_no_warm_up():
    factors = [poly(step, 50, 0) for step in range(50)]
    assert factors[0] == 1 and min(factors) > 0 and factors == sorted(factors, reverse=True)
