# SPDX-License-Identifier: Apache-2.0
"""Frames to annotate: the most uncertain ones, none close to another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlesam_ros.errors import LabelError
from mlesam_ros.evaluation.proposals import Frame, Translation, check_colors, choose_uncertain
from mlesam_ros.labels import LabelSpace, load_label_space

SECOND = 1_000_000_000
FRAMES = st.lists(
    st.builds(Frame, st.sampled_from("ab"), st.integers(0, 99).map(lambda n: n * SECOND // 10), st.floats(0, 1)),
    max_size=40, unique_by=lambda frame: (frame.bag, frame.stamp),
)  # fmt: skip


@given(FRAMES, st.integers(1, 10), st.sampled_from([0.0, 0.3, 1.0]))
def test_frames_that_are_left_out_are_less_uncertain_or_close(frames, count, gap):
    chosen = choose_uncertain(frames, count, gap)

    def close(a, b):
        return a.bag == b.bag and abs(a.stamp - b.stamp) < gap * SECOND

    assert len(chosen) <= count and chosen == sorted(chosen)
    assert not any(close(a, b) for a in chosen for b in chosen if a != b)
    for frame in set(frames) - set(chosen):
        is_close = any(close(frame, other) and other.uncertainty >= frame.uncertainty for other in chosen)
        assert is_close or (len(chosen) == count and all(c.uncertainty >= frame.uncertainty for c in chosen))


def test_without_gap_the_choice_is_that_of_a_sort():
    values = np.random.default_rng(1).random(50)
    frames = [Frame("drive", index, value) for index, value in enumerate(values)]
    assert {frame.stamp for frame in choose_uncertain(frames, 7, 0.0)} == {*np.argsort(values)[-7:].tolist()}


def test_classes_are_matched_by_name():
    network = load_label_space("deliver")
    own = LabelSpace("own", ("Sky", "Cone", "Road"), ((1, 1, 1), (2, 2, 2), (3, 3, 3)))
    table = Translation.between(network, own).table
    assert table[network.names.index("Road")] == 2 and table[network.names.index("Sky")] == 0
    assert sorted(table)[:3] == [0, 2, 255] and table[255] == 255
    with pytest.raises(LabelError, match="none of the classes"):
        Translation.between(network, LabelSpace("cones", ("Cone",), ((1, 1, 1),)))


@pytest.mark.parametrize("colors", [((9, 9, 9), (9, 9, 9)), ((9, 9, 9), (0, 0, 0))])
def test_colors_that_tell_no_classes_apart_are_refused(colors):
    with pytest.raises(LabelError, match="give --format coco"):
        check_colors(LabelSpace("own", ("a", "b"), colors))
