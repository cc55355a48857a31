# SPDX-License-Identifier: Apache-2.0
"""What a frame asks of a GPU, counted without one: the meta device has shapes and no numbers.

Whatever needs a number on the way would fail there. Nothing here depends on how busy a machine is.
"""

from dataclasses import replace

import pytest
import torch
from counting import count

from mlesam_ros.bench.sensor_benchmark import STAMP, make_frames
from mlesam_ros.model.inference import ALL
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.types import CAMERA, DEPTH, EVENT, LIDAR, MODALITIES, FrameSet

SUBSETS = (MODALITIES, (CAMERA, DEPTH, EVENT), (CAMERA, LIDAR), (LIDAR,), (CAMERA,))


@pytest.fixture(scope="module")
def rig_and_frames():
    return make_frames()


def make_pipeline(backbone, **options):
    with torch.device("meta"):
        model = MLESAM(MLESAMConfig(backbone=backbone, rank=4, image_size=256))
    return Pipeline(model, "meta", "bf16", threads=1, options=replace(ALL, **options))


@pytest.fixture(scope="module", params=["hiera_nano", "vit_b"])
def pipeline(request):
    return make_pipeline(request.param)


def segment(pipeline, rig_and_frames, subset):
    """What the second frame of a subset asks for; the first one may fill what is kept."""
    rig, frames = rig_and_frames
    frames = {m: frames[m] for m in subset}
    frame_set = FrameSet(STAMP, subset[0], frames, dict.fromkeys(frames, 0))
    _, found = (count(lambda: pipeline.segment(frame_set, rig)) for _ in range(2))
    assert not pipeline.refusals
    return found


@pytest.mark.parametrize("subset", SUBSETS, ids="-".join)
def test_a_frame_waits_for_the_device_once(pipeline, rig_and_frames, subset):
    found = segment(pipeline, rig_and_frames, subset)
    assert not found.waits
    assert found.reads == 1
    height, width = pipeline.network_size(rig_and_frames[0])
    assert found.read == 2 * height * width + 4 * (3 + 1) * len(subset)  # a weight per level, and a sum, per sensor


@pytest.mark.parametrize("subset", SUBSETS, ids="-".join)
def test_between_pictures_and_packet_nothing_passes_between_host_and_device(pipeline, subset):
    """So that it can be recorded as a CUDA graph: any transfer or wait would break the recording off."""
    size = pipeline.config.image_size
    images = {m: torch.empty(1, 3, size, size, device="meta") for m in subset}
    with torch.inference_mode():
        _, found = (count(lambda: pipeline._torch.infer_packed(images)) for _ in range(2))
    assert (found.uploads, found.reads, dict(found.waits)) == (0, 0, {})


@pytest.mark.parametrize("subset", SUBSETS, ids="-".join)
def test_only_what_sensors_said_goes_to_the_device(pipeline, rig_and_frames, subset):
    """A picture for most; for a LiDAR its points, and what they told; for depth elsewhere its points alone."""
    found = segment(pipeline, rig_and_frames, subset)
    arrays = {CAMERA: 1, EVENT: 1, DEPTH: 1, LIDAR: 2}
    assert found.uploads == sum(arrays[m] for m in subset)
    if subset == (CAMERA,):
        assert found.uploaded == 1080 * 1920 * 3  # its bytes as they came


def test_the_network_costs_no_more_operations_for_more_sensors(pipeline):
    """The sensors are one batch. What each adds is its rounding and the sum that finds NaN."""
    size = pipeline.config.image_size

    def operations(subset):
        images = {m: torch.empty(3, size, size, device="meta") for m in subset}
        return [count(lambda: pipeline.infer(images)).operations for _ in range(2)][1]

    counts = [operations(MODALITIES[:n]) for n in (2, 3, 4)]
    assert counts[1] - counts[0] == counts[2] - counts[1] <= 3


def test_a_frame_of_the_shipped_network_asks_for_no_more_than_it_did():
    """482 operations, each a kernel or a few on a GPU; whoever adds one says so here."""
    nano, size = make_pipeline("hiera_nano"), 256
    images = {m: torch.empty(3, size, size, device="meta") for m in MODALITIES}
    found = [count(lambda: nano.infer(images)) for _ in range(2)][1]
    assert found.operations <= 482
    assert found.allocations <= 540


@pytest.mark.parametrize(
    ("backbone", "path", "saved"),
    [("hiera_nano", "merged", 8 * 4), ("hiera_nano", "cache_pos_embed", 3), ("vit_b", "merged", 12 * 4)],
)
def test_a_path_saves_operations(backbone, path, saved, rig_and_frames):
    """Merged experts: per block two products and the making of their stacks; a kept position its making."""
    slow = segment(make_pipeline(backbone, **{path: False}), rig_and_frames, SUBSETS[1])
    fast = segment(make_pipeline(backbone), rig_and_frames, SUBSETS[1])
    assert slow.operations - fast.operations >= saved


def test_folded_attention_stores_no_scores_and_uploads_no_indices(rig_and_frames):
    found = {
        folds: segment(make_pipeline("vit_b", fused_rel_pos=folds), rig_and_frames, SUBSETS[0])
        for folds in (False, True)
    }
    assert found[False].uploads - found[True].uploads == 2 * 12  # Meta's code looks its tables up by a host's index
    assert found[True].peak < 0.8 * found[False].peak
    assert found[True].operations < found[False].operations
