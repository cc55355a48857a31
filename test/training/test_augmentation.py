# SPDX-License-Identifier: Apache-2.0
"""Augmentation: all modalities move together, and measurements are never interpolated."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.types import CAMERA, DEPTH, LIDAR
from mlesam_training.augmentation import Augment, CropRecipe, RandomCrops, ResizeForEval, random_drop, resized
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
    for image in images.values():
        assert torch.equal((image[:, 0] % 251).to(torch.uint8), labels)


def test_measurements_are_not_interpolated():
    images, _ = augment(zoom=1.7, thin=0.0)
    assert torch.equal(images["lidar"], images["lidar"].round())


def test_a_mirrored_sample_is_the_mirror_image():
    images, labels = augment(flip=1.0, zoom=1.0, thin=0.0)
    original, original_labels = batch()
    assert torch.equal(images["depth"], original["depth"].flip(-1)) and torch.equal(labels, original_labels.flip(-1))


def test_without_options_nothing_changes():
    images, labels = augment(flip=0.0, zoom=1.0, thin=0.0)
    original, original_labels = batch()
    assert torch.equal(labels, original_labels) and all(torch.equal(images[name], original[name]) for name in original)


def test_a_step_crops_its_images_to_one_of_the_heights():
    images, labels = batch(size=(96, 48))
    cut = Augment(Augmentation(heights=(96, 64, 32), zoom=1.0, thin=0.0, flip=0.0), STATISTICS)
    for shared, height in ((0.0, 96), (0.34, 64), (0.99, 32)):
        low, low_labels = cut(images, labels, torch.Generator().manual_seed(2), shared)
        top = int(low["depth"][0, 0, 0, 0]) // 48
        assert low["depth"].shape == (3, 3, height, 48) and torch.equal((low["depth"][:, 0] % 251).byte(), low_labels)
        assert torch.equal(low["depth"][0], images["depth"][0, :, top : top + height])


def test_the_same_generator_gives_the_same_batch():
    first, again, other = augment(3), augment(3), augment(4)
    assert all(torch.equal(first[0][name], again[0][name]) for name in first[0])
    assert not torch.equal(first[1], other[1])


def test_colors_stay_colors_and_only_the_camera_changes():
    low, high = -STATISTICS[0] / STATISTICS[1], (1 - STATISTICS[0]) / STATISTICS[1]
    image = torch.rand(4, 3, 16, 16) * (high - low).view(3, 1, 1) + low.view(3, 1, 1)
    images = {"camera": image, "depth": image.clone()}
    options = Augmentation(flip=0.0, zoom=1.0, jitter=0.9, thin=0.0)
    out, _ = Augment(options, STATISTICS)(images, torch.zeros(4, 16, 16), torch.Generator().manual_seed(0))
    assert torch.equal(out["depth"], image) and not torch.allclose(out["camera"], image)
    assert (out["camera"] >= low.view(3, 1, 1) - 1e-5).all() and (out["camera"] <= high.view(3, 1, 1) + 1e-5).all()


def test_random_drop_drops_whole_pixels():
    image = torch.ones(3, 100, 100)
    kept = random_drop(image, 0.3, torch.Generator().manual_seed(0))
    assert torch.equal(kept[0], kept[1]) and kept.mean().item() == pytest.approx(0.7, abs=0.03)


NORMALIZATION = {CAMERA: ((0.5, 0.4, 0.3), (0.2, 0.2, 0.2))}
BLACK = (-2.5, -2.0, -1.5)
DATASET = SimpleNamespace(
    sparse=frozenset({LIDAR}),
    square=False,
    blanks={CAMERA: BLACK, DEPTH: (0, 0, 0), LIDAR: (0, 0, 0)},
    normalization=NORMALIZATION,
)
STILL = CropRecipe(64, (1.0, 1.0), 0.0, 0.0, 0.0, (CAMERA,), 0.8)
LIVELY = {
    "deliver": CropRecipe(40, (0.5, 2.0), 0.5, 0.2, 0.2, (CAMERA,), 0.8),
    "mcubes": CropRecipe(40, (0.5, 2.0), 0.5, 0.0, 0.5, (CAMERA, "nir"), None),
}


def random_batch(height=64, width=96, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 25, (2, height, width), generator=generator, dtype=torch.uint8)
    lidar = torch.rand((2, 3, height, width), generator=generator)
    images = {CAMERA: lidar * 2 - 1, DEPTH: lidar.clone(), LIDAR: lidar.clone()}
    return images, labels


def vary(recipe, images, labels, seed=1):
    return RandomCrops(recipe, DATASET, max(labels.shape[1:]))(images, labels, torch.Generator().manual_seed(seed))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(sorted(LIVELY)))
def test_every_crop_has_the_size_and_only_padding_is_new(seed, name):
    images, labels = random_batch(seed=seed)
    out, out_labels = vary(LIVELY[name], images, labels, seed)
    assert out_labels.shape == (2, 40, 40) and out_labels.dtype == torch.uint8
    beyond = out_labels == 255
    for modality, image in out.items():
        assert image.shape == (2, 3, 40, 40)
        blank = torch.tensor(DATASET.blanks[modality]).view(3, 1, 1).expand(3, 40, 40)
        for b in range(2):
            assert torch.allclose(image[b][:, beyond[b]], blank[:, beyond[b]].float(), atol=1e-5)
    kept = set(labels.unique().tolist()) | {255}
    assert set(out_labels.unique().tolist()) <= kept


def test_padding_is_on_the_right_and_below():
    images, labels = random_batch()
    _, out_labels = vary(dataclasses.replace(STILL, scales=(0.5, 0.5)), images, labels)
    assert torch.all(out_labels[:, :32, :48] < 255)
    assert torch.all(out_labels[:, 32:] == 255) and torch.all(out_labels[:, :, 48:] == 255)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_measurements_are_copied_and_stay_with_their_labels(seed):
    """Each label's own number, put into the LiDAR's picture, is still there after any crop."""
    _, labels = random_batch(seed=seed)
    images = {LIDAR: labels[:, None].expand(-1, 3, -1, -1).float()}
    out, out_labels = vary(dataclasses.replace(STILL, scales=(0.5, 2.0), flip=0.5), images, labels, seed)
    inside = out_labels < 255
    assert torch.equal(out[LIDAR][:, 0][inside], out_labels[inside].float())


def test_crop_without_changes_is_the_identity():
    images, labels = random_batch(64, 64)
    out, out_labels = vary(STILL, images, labels)
    assert torch.equal(out_labels, labels) and all(torch.equal(out[m], images[m]) for m in images)


def test_flip_applies_to_images_and_labels():
    images, labels = random_batch(64, 64)
    out, out_labels = vary(dataclasses.replace(STILL, flip=1.0), images, labels)
    assert torch.equal(out_labels, labels.flip(-1)) and all(torch.equal(out[m], images[m].flip(-1)) for m in images)


def test_only_the_named_modalities_are_blurred_and_recolored():
    images, labels = random_batch(64, 64)
    for change in ({"blur": 1.0}, {"jitter": 1.0}):
        out, _ = vary(dataclasses.replace(STILL, **change), images, labels)
        assert torch.equal(out[DEPTH], images[DEPTH]) and torch.equal(out[LIDAR], images[LIDAR])
        assert not torch.allclose(out[CAMERA], images[CAMERA], atol=1e-3)
    mean, std = (torch.tensor(s).view(3, 1, 1) for s in NORMALIZATION[CAMERA])
    colors = out[CAMERA] * std + mean
    assert colors.min() >= -1e-5 and colors.max() <= 1 + 1e-5


def test_blur_is_the_documented_gaussian():
    dot = torch.zeros(2, 3, 64, 64)
    dot[..., 24, 24] = 1
    out, _ = vary(dataclasses.replace(STILL, blur=1.0), {CAMERA: dot}, torch.zeros(2, 64, 64, dtype=torch.uint8))
    edge = torch.exp(torch.tensor(-0.5 / 0.64))
    kernel = torch.stack([edge, torch.tensor(1.0), edge]) / (1 + 2 * edge)
    assert torch.allclose(out[CAMERA][0, 0, 23:26, 23:26], torch.outer(kernel, kernel), atol=1e-6)


def test_same_generator_gives_the_same_crops():
    images, labels = random_batch()
    first, again, other = (vary(LIVELY["deliver"], images, labels, seed) for seed in (3, 3, 4))
    assert torch.equal(first[0][CAMERA], again[0][CAMERA]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_evaluation_size_is_the_nodes_or_a_center_square():
    images, labels = random_batch(48, 61)
    out, out_labels = ResizeForEval(DATASET, 128)(images, labels)  # 48 / 61 of 128 is 100.7: nearest to 3 cells of 32
    assert out_labels.shape == (2, 96, 128) and out[CAMERA].shape == (2, 3, 96, 128)
    square = SimpleNamespace(**{**vars(DATASET), "square": True})
    out, out_labels = ResizeForEval(square, 48)(images, labels)
    assert torch.equal(out_labels, labels[:, :, 6:54]) and torch.equal(out[LIDAR], images[LIDAR][..., 6:54])


def test_resizing_is_bilinear_as_in_the_published_loaders():
    image = torch.rand(2, 3, 20, 30)
    expected = F.interpolate(image, size=(33, 41), mode="bilinear", align_corners=False)
    assert torch.equal(resized(image, (33, 41), "bilinear"), expected)
    assert torch.equal(resized(image[0], (33, 41), "bilinear"), expected[0])
