"""Which street has which weather and fault."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mlesam_ros.simulation.weather import FAULTS, WEATHERS
from mlesam_training.recipe import Split
from mlesam_training.street_dataset import allocate_by_share, street_conditions


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9), min_size=1), st.integers(1, 60))
def test_every_name_is_dealt_as_often_as_its_share_says(shares, count):
    dealt = Counter(allocate_by_share(shares, count))
    assert dealt.total() == count
    for name, share in shares.items():
        assert abs(dealt[name] - count * share / sum(shares.values())) < len(shares)


def test_a_part_that_grows_keeps_its_streets():
    shares = {"weathers": dict.fromkeys(WEATHERS, 0.2), "faults": dict.fromkeys(FAULTS, 1.0)}
    large, small = (street_conditions(Split(10, streets, 1, **shares)) for streets in (40, 25))
    assert large[:25] == small
    assert street_conditions(Split(20, 10, 1, **shares)) == large[10:20]


def test_thirty_streets_hold_every_weather_with_every_fault():
    split = Split(900, 30, 1, dict.fromkeys(WEATHERS, 0.2), dict.fromkeys(FAULTS, 1.0))
    assert len(set(street_conditions(split))) == len(WEATHERS) * len(FAULTS) == 30


def test_without_shares_odd_seeds_are_at_night():
    assert [c.weather for c in street_conditions(Split(101, 4, 1))] == ["night", "sun", "night", "sun"]
