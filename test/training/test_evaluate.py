"""The evaluation: which subsets, what is counted, and the tables."""

import numpy as np
import torch
import torch.nn.functional as F

from mlesam_ros.frame import CAMERA, LIDAR, MODALITIES
from mlesam_ros.labels import load_label_space
from mlesam_ros.training.evaluate import class_table, evaluate, most_likely, subset_table, subsets, to_json


def test_all_subsets_once_the_largest_first():
    found = subsets(MODALITIES)
    assert len(found) == len(set(found)) == 15
    assert found[0] == MODALITIES and [len(s) for s in found] == sorted((len(s) for s in found), reverse=True)


def oracle(street):
    """Knows the truth by the camera's picture; guesses road without it."""
    known = {street.images[CAMERA][row].tobytes(): street.labels[row] for row in range(len(street))}

    def predict(images):
        if CAMERA not in images:
            return F.one_hot(torch.full((len(images[LIDAR]), 64, 64), 6), 25).permute(0, 3, 1, 2).float()
        rows = [known[picture.numpy().astype(np.float16).tobytes()] for picture in images[CAMERA]]
        return F.one_hot(torch.from_numpy(np.stack(rows)).long(), 25).permute(0, 3, 1, 2).float()

    return predict


def test_what_is_right_is_counted_right_by_condition_and_subset(street):
    results = evaluate(oracle(street), 25, street, [(CAMERA, LIDAR), (LIDAR,)], batch=3)
    assert all(matrix.miou == 1 for matrix in results[(CAMERA, LIDAR)].values())
    blind = results[(LIDAR,)]
    assert blind["all"].pixel_accuracy == (street.labels[:] == 6).mean()
    assert blind["night"].pixel_accuracy == (street.labels[street.night] == 6).mean()
    assert (blind["all"].counts == blind["day"].counts + blind["night"].counts).all()


def test_tables_have_a_row_per_subset_and_per_class_that_occurs(street):
    results = evaluate(oracle(street), 25, street, [(CAMERA, LIDAR), (LIDAR,)])
    names = load_label_space("deliver").names
    assert subset_table(results).splitlines()[2] == "| camera + lidar | 100.0 | 100.0 | 100.0 | " + (
        f"{100 * len(np.unique(street.labels)) / 25:.1f} | 100.0 |"
    )
    assert len(class_table(results, names, list(results)).splitlines()) == 2 + len(np.unique(street.labels))
    assert to_json(results, names)[1]["sensors"] == ["lidar"]


def test_the_most_likely_class_is_taken_after_interpolation():
    logits = torch.tensor([[[[4.0, 0.0]], [[0.0, 1.0]]]])  # two classes, 1 x 2
    assert most_likely(logits, (1, 8)).tolist() == [[[0, 0, 0, 0, 0, 0, 1, 1]]] or (
        most_likely(logits, (1, 8))[0, 0].sum() < 4
    )
