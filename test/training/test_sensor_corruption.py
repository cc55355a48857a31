# SPDX-License-Identifier: Apache-2.0
"""Corruption of sensor images: what each kind may change, and that it never adds what was not measured."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.types import CAMERA, MODALITIES
from mlesam_training import sensor_corruption
from mlesam_training.sensor_corruption import corrupted

BLANKS = {name: (-2.0, -1.9, -1.8) if name == CAMERA else (0.0, 0.0, 0.0) for name in MODALITIES}


def sample(seed, size=(64, 96)):
    rng = np.random.default_rng(seed)
    return {
        name: torch.tensor(BLANKS[name])[:, None, None] + torch.from_numpy(rng.uniform(0.5, 1, (3, *size)).astype("f4"))
        for name in MODALITIES
    }


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000))
def test_some_sensors_are_corrupted_reproducibly(seed):
    images = sample(seed)
    before = {name: image.clone() for name, image in images.items()}
    first, again = (corrupted(images, BLANKS, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert any(not torch.equal(first[name], before[name]) for name in MODALITIES)
    for name in MODALITIES:
        assert torch.equal(first[name], again[name]) and torch.equal(images[name], before[name])
        assert first[name].shape == before[name].shape and first[name].isfinite().all()


@pytest.mark.parametrize("kind", [*sensor_corruption._EVERY, sensor_corruption._expose])
@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000))
def test_corruption_stays_between_empty_and_the_brightest_pixel(kind, seed):
    image = torch.rand(3, 40, 72, generator=torch.Generator().manual_seed(seed))
    result = kind(image, torch.Generator().manual_seed(seed))
    assert result.min() >= 0 and (result.amax((1, 2)) <= image.amax((1, 2)) + 1e-6).all()


def test_lost_returns_and_holes_keep_the_other_pixels():
    image = torch.rand(3, 64, 64) + 0.1
    for kind in (sensor_corruption._thin, sensor_corruption._cover):
        for seed in range(20):
            result = kind(image, torch.Generator().manual_seed(seed))
            lost = (result == 0).all(0)
            assert torch.equal(result[:, ~lost], image[:, ~lost]) and 0.005 < lost.float().mean() < 0.99


def test_displacement_is_opencv_s_warp(monkeypatch):
    draws = iter((1.05, 0.04, -0.03))
    monkeypatch.setattr(sensor_corruption, "_uniform", lambda *_: next(draws))
    ramps = np.mgrid[100:160, 100:180].astype("f4")  # of rows and columns: a value tells where its pixel came from
    result = sensor_corruption._displace(torch.from_numpy(ramps), torch.Generator()).numpy()
    scale, x, y = 1.05, 0.04 * 80, -0.03 * 80
    inverse = np.array([[scale, 0, 39.5 * (1 - scale) + x], [0, scale, 29.5 * (1 - scale) + y]])
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    expected = np.stack([cv2.warpAffine(ramp, inverse, (80, 60), flags=flags, borderValue=0) for ramp in ramps])
    there = (result > 0) & (expected > 0)
    assert there.mean() > 0.85 and ((result > 0) == (expected > 0)).mean() > 0.97
    assert np.abs(result - expected)[there].max() <= 1  # OpenCV rounds halves another way


def test_clutter_moves_whole_pixels_of_the_image():
    image = torch.arange(3 * 48 * 64, dtype=torch.float32).view(3, 48, 64)  # every value occurs once
    shares = []
    for seed in range(20):
        result = sensor_corruption._clutter(image, torch.Generator().manual_seed(seed))
        origin = result[0].long()
        assert torch.equal(result, image.flatten(1)[:, origin])  # all channels are of one pixel
        shares.append((result != image).any(0).float().mean().item())
    assert 0.015 < min(shares) < 0.1 < max(shares) < 0.27


def test_shot_noise_is_poisson_s(monkeypatch):
    """The variance of counts equals their mean: 400 photons at the brightest pixel have a deviation of 5 %."""
    monkeypatch.setattr(sensor_corruption, "_uniform", lambda *_: 0.05)
    levels = torch.linspace(0.1, 0.9, 9)
    image = torch.cat([torch.ones(1), levels]).repeat(3, 20_000, 1)  # its first column is the brightest
    noise = sensor_corruption._shot_noise(image, torch.Generator().manual_seed(0)).numpy() - image.numpy()
    photons = np.random.default_rng(0).poisson(400 * image.numpy()) / 400 - image.numpy()
    assert noise[..., 2:-1].std((0, 1)) == pytest.approx(photons[..., 2:-1].std((0, 1)), rel=0.02)
    assert torch.equal(sensor_corruption._shot_noise(torch.zeros(3, 4, 4), torch.Generator()), torch.zeros(3, 4, 4))


def test_blur_keeps_the_mean_and_smooths():
    image = torch.rand(3, 60, 60)
    for seed in range(10):
        result = sensor_corruption._blur(image, torch.Generator().manual_seed(seed))
        assert result.mean() == pytest.approx(float(image.mean()), abs=0.01) and result.std() < 0.7 * image.std()


@pytest.mark.parametrize("kind", [*sensor_corruption._EVERY, sensor_corruption._expose])
def test_corruption_stays_on_the_device_of_the_image(kind):
    """Random numbers are drawn on the CPU. The device without data stands for a GPU."""
    for seed in range(4):
        result = kind(torch.empty(3, 40, 72, device="meta"), torch.Generator().manual_seed(seed))
        assert result.device.type == "meta" and result.shape == (3, 40, 72)
