# SPDX-License-Identifier: Apache-2.0
"""Failing sensors: the protocols' sums against published tables and by hand, and the damage itself."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlesam_ros.corruptions import add_noise, average, average_and_expected, drop_pixels, expected, subsets

FOUR = ("r", "d", "e", "l")

# arXiv 2503.18445, README of its repository: clean, then EMM and RMM (r = 0.75): average, E(0.2), E(0.1), E(0.05).
PUBLISHED = {
    "CMNeXt": (66.33, (37.90, 54.46, 60.41, 63.38), (42.17, 56.66, 61.60, 63.99)),
    "GeminiFusion": (66.92, (37.07, 54.33, 60.62, 63.77), (39.78, 55.88, 61.47, 64.22)),
    "MAGIC": (66.10, (44.97, 58.66, 62.68, 64.47), (45.30, 58.77, 62.72, 64.49)),
    "MAGIC++": (67.33, (44.85, 59.18, 63.52, 65.50), (47.06, 59.81, 63.78, 65.62)),
    "StitchFusion": (68.20, (41.98, 58.02, 63.29, 65.80), (45.16, 59.44, 64.02, 66.17)),
}
# arXiv 2503.18445, same place, NM: CMNeXt's IoU of the 25 classes at the three levels, and the mIoU printed below them.
NM_CMNEXT = {
    "low": ([54.46, 12.11, 0, 32.85, 45.34, 43.74, 87.94, 52.54, 34.46, 51.99, 4.72, 27.39, 95.43, 2.17, 4.03, 20.78,
             9.39, 48.61, 14.51, 5.71, 33.43, 48.80, 17.54, 60.42, 72.42], 35.23),
    "mid": ([6.39, 4.88, 0, 14.10, 24.70, 18.88, 56.83, 27.61, 10.34, 26.13, 0.15, 6.22, 47.66, 0.39, 0.23, 0.39, 2.08,
             25.85, 1.94, 0.64, 19.92, 26.52, 5.40, 32.25, 49.64], 16.37),
    "high": ([0, 1.27, 0, 0.07, 4.29, 1.25, 3.00, 5.11, 5.60, 0.14, 0.01, 0.04, 7.81, 0, 0, 0, 0.13, 2.93, 0.01, 0,
              2.13, 13.12, 0, 0.39, 10.45], 2.31),
}  # fmt: skip
# Any-modal protocol, DELIVER val, order R D E L RD RE RL DE DL EL RDE RDL REL DEL RDEL, then the mean as printed.
ANY_MODAL = {
    "MAGIC": ("32.60 55.06 0.52 0.39 63.32 33.02 33.12 55.16 55.17 0.26 63.37 63.36 33.32 55.26 63.40", 40.49),
    "Any2Seg": ("39.02 60.11 2.07 0.31 68.21 39.11 39.04 60.92 60.15 1.99 68.24 68.22 39.06 60.95 68.25", 45.04),
    "AnySeg": ("47.11 52.17 17.33 19.01 60.37 47.49 48.13 52.82 52.29 21.47 60.16 60.60 47.98 52.44 60.26", 46.64),
    "MAGIC++": ("48.67 52.83 19.03 18.67 61.82 49.38 49.76 54.39 53.18 18.67 61.76 61.87 50.19 54.25 61.67", 47.74),
}


def test_all_subsets_once_the_largest_first():
    found = subsets(FOUR)
    assert len(found) == len(set(found)) == 15
    assert found[0] == FOUR and [len(s) for s in found] == sorted((len(s) for s in found), reverse=True)


def by_size(one, two, three, four):
    """Scores of all subsets of four that depend on the size of the subset only."""
    return {subset: (one, two, three, four)[len(subset) - 1] for subset in subsets(FOUR)}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("protocol", [1, 2])
def test_published_rows_agree_with_the_formulas(name, protocol):
    """The 15 scores are not printed, but E depends on three unknowns: the mean score of each size of subset.

    The average, E(0.2) and E(0.1) give these three; E(0.05) has to follow. Weights the wrong way round miss by far;
    that they sum to one hardly shows at p = 0.05, and is pinned by hand below.
    """
    clean, (mean, *expectations) = PUBLISHED[name][0], PUBLISHED[name][protocol]
    units = [by_size(*row) for row in np.eye(4)]
    rows = [
        [average(unit) for unit in units],
        *([expected(unit, failing) for unit in units] for failing in (0.2, 0.1)),
    ]
    known = np.array(rows)
    sizes = np.linalg.solve(known[:, :3], np.array([mean, *expectations[:2]]) - known[:, 3] * clean)
    found = expected(by_size(*sizes, clean), 0.05)
    assert found == pytest.approx(expectations[2], abs=0.03)


@pytest.mark.parametrize("level", NM_CMNEXT)
def test_published_noise_rows_are_means_over_all_classes(level):
    ious, printed = NM_CMNEXT[level]
    assert len(ious) == 25 and np.mean(ious) == pytest.approx(printed, abs=0.006)


@pytest.mark.parametrize("name", ANY_MODAL)
def test_published_means_of_the_any_modal_protocol(name):
    values, printed = ANY_MODAL[name]
    order = ["r", "d", "e", "l", "rd", "re", "rl", "de", "dl", "el", "rde", "rdl", "rel", "del", "rdel"]
    scores = dict(zip(map(tuple, order), map(float, values.split()), strict=True))
    assert set(scores) == set(subsets(FOUR))
    assert average(scores) == pytest.approx(printed, abs=0.006)


def test_values_computed_by_hand():
    scores = {("a",): 10.0, ("b",): 20.0, ("a", "b"): 40.0}
    assert average(scores) == pytest.approx(70 / 3)
    # p = 0.2: a alone and b alone have weight 0.16 each, both 0.64; nothing at all, 0.04, is left out.
    assert expected(scores, 0.2) == pytest.approx((0.16 * 10 + 0.16 * 20 + 0.64 * 40) / 0.96)
    assert average_and_expected(scores) == {"average": 23.33, "expected": {"0.2": 31.67, "0.1": 35.45, "0.05": 37.62}}


@given(st.integers(1, 5), st.floats(0.01, 0.99), st.floats(0, 100))
def test_chances_sum_to_one_whatever_the_number_of_modalities(count, failing, score):
    scores = dict.fromkeys(subsets("abcde"[:count]), score)
    assert expected(scores, failing) == pytest.approx(score) == pytest.approx(average(scores))


def test_drop_pixels_drops_channels_independently():
    picture = torch.ones(3, 200, 200)
    out = drop_pixels(picture, 0.25, torch.Generator().manual_seed(0))
    assert set(out.unique().tolist()) == {0.0, 1.0}
    assert out.mean().item() == pytest.approx(0.75, abs=0.01)
    assert not torch.equal(out[0], out[1]), "channels fall out apart"


def test_salt_and_pepper_are_the_extremes_of_the_image():
    picture = torch.rand(3, 200, 200) * 0.5 + 0.25
    low, high = picture.min().item(), picture.max().item()
    out = add_noise(picture, 0.2, 0.0, torch.Generator().manual_seed(0))
    salt, pepper = (out == high), (out == low)
    assert salt.float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert pepper.float().mean().item() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(out[~salt & ~pepper], picture[~salt & ~pepper])


def test_gaussian_noise_has_the_given_deviation():
    out = add_noise(torch.zeros(3, 200, 200), 0.0, 0.5, torch.Generator().manual_seed(0))
    assert out.std().item() == pytest.approx(0.5, abs=0.01) and out.mean().item() == pytest.approx(0, abs=0.01)
