"""Augmentation: all modalities move together, and measurements are never blended."""

import pytest
import torch

from mlesam_training.augmentation import Augment, random_drop
from mlesam_training.recipe import Augmentation

STATISTICS = (torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4]))


def batch(size=(32, 48), count=3):
    """Every pixel of every modality and of the labels holds the same number, from which its place can be told."""
    number = torch.arange(size[0] * size[1], dtype=torch.float32).view(size)
    images = {name: number.expand(count, 3, *size).clone() for name in ("depth", "lidar", "event")}
    labels = (number % 251).to(torch.uint8).expand(count, *size).clone()
    return images, labels


def augment(seed=0, **options):
    images, labels = batch()
    return Augment(Augmentation(**options), STATISTICS)(images, labels, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(5))
def test_modalities_and_labels_stay_aligned(seed):
    images, labels = augment(seed, thin=0.0)
    for picture in images.values():
        assert torch.equal((picture[:, 0] % 251).to(torch.uint8), labels)


def test_measurements_are_copied_not_blended():
    images, _ = augment(zoom=1.7, thin=0.0)
    assert torch.equal(images["lidar"], images["lidar"].round())


def test_a_mirrored_sample_is_the_mirror_image():
    images, labels = augment(flip=1.0, zoom=1.0, thin=0.0)
    original, truth = batch()
    assert torch.equal(images["depth"], original["depth"].flip(-1)) and torch.equal(labels, truth.flip(-1))


def test_without_options_nothing_changes():
    images, labels = augment(flip=0.0, zoom=1.0, thin=0.0)
    original, truth = batch()
    assert torch.equal(labels, truth) and all(torch.equal(images[name], original[name]) for name in original)


def test_the_same_generator_gives_the_same_batch():
    first, again, other = augment(3), augment(3), augment(4)
    assert all(torch.equal(first[0][name], again[0][name]) for name in first[0])
    assert not torch.equal(first[1], other[1])


def test_colors_stay_colors_and_only_the_camera_changes():
    low, high = -STATISTICS[0] / STATISTICS[1], (1 - STATISTICS[0]) / STATISTICS[1]
    picture = torch.rand(4, 3, 16, 16) * (high - low).view(3, 1, 1) + low.view(3, 1, 1)
    images = {"camera": picture, "depth": picture.clone()}
    options = Augmentation(flip=0.0, zoom=1.0, jitter=0.9, thin=0.0)
    out, _ = Augment(options, STATISTICS)(images, torch.zeros(4, 16, 16), torch.Generator().manual_seed(0))
    assert torch.equal(out["depth"], picture) and not torch.allclose(out["camera"], picture)
    assert (out["camera"] >= low.view(3, 1, 1) - 1e-5).all() and (out["camera"] <= high.view(3, 1, 1) + 1e-5).all()


def test_thinning_empties_whole_pixels():
    picture = torch.ones(3, 100, 100)
    kept = random_drop(picture, 0.3, torch.Generator().manual_seed(0))
    assert torch.equal(kept[0], kept[1]) and kept.mean().item() == pytest.approx(0.7, abs=0.03)
