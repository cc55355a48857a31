# SPDX-License-Identifier: Apache-2.0
"""The rays of a whole picture against those of its pixels one by one."""

import numpy as np
import pytest
from test_distortion import COUNTS, random_camera


@pytest.mark.parametrize("model", COUNTS)
def test_all_rays_equal_inversion_per_pixel(model):
    rng = np.random.default_rng(5)
    seen = 0
    for _ in range(25):
        camera = random_camera(rng, model).scaled(*rng.integers(16, 200, 2))
        u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
        k = camera.K
        x, y = camera.distortion.invert((u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1])
        rays = camera.rays.astype(np.float64)
        np.testing.assert_array_equal(np.isnan(rays).any(axis=2), np.isnan(x))
        known = ~np.isnan(x)
        # The ray may be uncertain where the lens nearly turns round; the pixel that it leads to is not.
        back = camera.distortion.apply(rays[known, 0], rays[known, 1])
        landed = np.stack(back, axis=1) * [k[0, 0], k[1, 1]] + [k[0, 2], k[1, 2]]
        coarse = 1e-6 * (1 + np.hypot(x, y)[known] ** 2) * max(k[0, 0], k[1, 1])  # float32
        assert (np.abs(landed - np.stack([u[known], v[known]], axis=1)).max(axis=1) < 1e-3 + coarse).all()
        seen += known.sum()
    assert seen > 50_000
