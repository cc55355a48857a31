# SPDX-License-Identifier: Apache-2.0
import gc
import json
import os
import weakref
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from mlesam_ros.config import build_parameters
from mlesam_ros.errors import CalibrationError, CheckpointError, ConfigError, MlesamError
from mlesam_ros.geometry.pixels import resize_nearest
from mlesam_ros.geometry.projection import VisiblePoints
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.labels import LabelSpace, load_label_space
from mlesam_ros.model.checkpoint import load_base, load_checkpoint, save_backbone, save_checkpoint, weights_sha256
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.pipeline import PRECISIONS, Pipeline, bf16_is_faster, load_pipeline, network_size, pick_precision
from mlesam_ros.preprocessing.base import Preprocessing
from mlesam_ros.preprocessing.cuda import encode_torch
from mlesam_ros.preprocessing.preprocessors import DEFAULT_PREPROCESSORS, make_preprocessors
from mlesam_ros.semantic_points import MaskPoints
from mlesam_ros.simulation.world import World
from mlesam_ros.types import MODALITIES, FrameSet, RawImage, SensorFrame


@pytest.fixture(scope="module")
def world():
    return World(seed=2, size=(96, 128))


@pytest.fixture(scope="module")
def frame_set(world):
    moment = world.sample(3)
    frames = {m: moment.frames[m] for m in MODALITIES}
    return FrameSet(moment.stamp, "camera", frames, dict.fromkeys(frames, 0))


def make_model(**changes):
    torch.manual_seed(5)
    model = MLESAM(MLESAMConfig(**{"rank": 4, "image_size": 128, **changes})).eval()
    with torch.no_grad():
        for modality in model.experts.modalities:
            for b in model.experts.expert(modality).b:
                b.normal_(std=0.1)
    return model


@pytest.fixture(scope="module")
def pipeline():
    return Pipeline(make_model(), device="cpu", precision="fp32")


def subset(frame_set, *modalities):
    return replace(frame_set, frames={m: frame_set.frames[m] for m in modalities})


def broken(frame_set, modality):
    """The set with a frame that is shorter than its declared size."""
    frame = frame_set.frames[modality]
    payload = RawImage(480, 640, "rgb8" if modality == "camera" else "16UC1", 1920, np.zeros(5, np.uint8))
    return replace(frame_set, frames={**frame_set.frames, modality: replace(frame, payload=payload)})


def test_a_sweep_is_projected_once_for_the_mask_and_its_points(pipeline, frame_set, world, monkeypatch):
    """For the image of the LiDAR, the depth that registers the events, and the points of the topics."""
    project, projected = VisiblePoints.of, []

    def counted(points, camera):
        projected.append(len(points))
        return project(points, camera)

    monkeypatch.setattr(VisiblePoints, "of", counted)
    points = MaskPoints(pipeline.segment(frame_set, world.rig), frame_set, world.rig)
    labeled, placed = points.labeled(pipeline.config.label_space)
    assert projected.count(len(frame_set.frames["lidar"].payload.points)) == 1
    assert len(labeled) == len(placed) > 0


def test_a_mask_in_camera_resolution(pipeline, frame_set, world):
    mask = pipeline.segment(frame_set, world.rig)
    assert mask.labels.shape == mask.confidence.shape == (96, 128)
    assert mask.labels.dtype == mask.confidence.dtype == np.uint8
    assert mask.labels.max() < 25
    assert (mask.stamp, mask.frame_id, mask.used) == (frame_set.stamp, world.rig.camera_frame, MODALITIES)
    assert list(mask.timings) == ["encode", "model", "decode"]
    assert all(seconds > 0 for seconds in mask.timings.values())
    assert set(mask.weights) == {"semantic", "high_res_1", "high_res_0"}
    for weights in mask.weights.values():
        assert tuple(weights) == MODALITIES
        assert sum(weights.values()) == pytest.approx(1)
    assert not pipeline.refusals


@pytest.mark.parametrize("modalities", [MODALITIES, ("depth", "lidar"), ("event",)], ids="-".join)
def test_segment_equals_a_step_by_step_computation(pipeline, frame_set, world, modalities):
    """Against the stacked model, a softmax, an arg max and indexing, step by step."""
    chosen = subset(frame_set, *modalities)
    images = {
        m: encoder(chosen.frames[m], world.rig, (96, 128)) for m, encoder in plain_preprocessors(modalities).items()
    }
    with torch.no_grad():
        output = make_model()({m: torch.from_numpy(image)[None] for m, image in images.items()})
        logits = F.interpolate(output.fused, (96, 128), mode="bilinear", align_corners=False)[0]
    probability, labels = logits.softmax(0).max(0)
    mask = pipeline.segment(chosen, world.rig)
    best = logits.topk(2, 0).values
    sure = (best[0] - best[1] > 1e-4).numpy()
    assert sure.mean() > 0.9
    assert np.array_equal(mask.labels[sure], labels.numpy()[sure])
    assert np.abs(mask.confidence - probability.numpy() * 255).max() <= 0.51
    assert mask.used == modalities
    for level, weights in mask.weights.items():
        np.testing.assert_allclose(list(weights.values()), output.weights[level][0], atol=1e-5)


def test_encoding_on_the_device_gives_the_same_mask(world, frame_set):
    pipeline = Pipeline(make_model(), "cpu", "fp32")
    assert not pipeline.encodes_on_device
    plain, pictures = pipeline.segment(frame_set, world.rig), pipeline.images
    pipeline.encodes_on_device = True
    mask = pipeline.segment(frame_set, world.rig)
    assert tuple(pipeline.images) == tuple(pictures) == MODALITIES
    for name, picture in pipeline.images.items():
        assert isinstance(picture, np.ndarray)
        np.testing.assert_allclose(picture, pictures[name], atol=1e-6)
    assert (mask.labels == plain.labels).mean() > 0.999
    pipeline.segment(broken(frame_set, "depth"), world.rig)
    assert list(pipeline.refusals) == ["depth"]


def test_nonfinite_image_on_the_device_is_left_out_with_the_reason(world, frame_set, monkeypatch):
    """On the device images are not checked before the network; its result has the nonfinite modalities."""
    spoils = {"depth"}

    def spoiling(device, encoder, *rest):
        picture = encode_torch(device, encoder, *rest)
        return picture.fill_(torch.nan) if encoder.modality in spoils else picture

    monkeypatch.setattr("mlesam_ros.expert_preprocessors.encode_torch", spoiling)
    pipeline = Pipeline(make_model(), "cpu", "fp32")
    pipeline.encodes_on_device = True
    monkeypatch.setattr("mlesam_ros.model.mlesam.check_finite", lambda images: None)  # as on a GPU
    mask = pipeline.segment(frame_set, world.rig)
    assert mask.used == tuple(pipeline.images) == ("camera", "event", "lidar")
    assert "NaN or infinite" in pipeline.refusals["depth"]
    alone = pipeline.segment(subset(frame_set, "camera", "event", "lidar"), world.rig)
    assert np.array_equal(mask.labels, alone.labels) and not pipeline.refusals
    spoils.update(MODALITIES)
    with pytest.raises(MlesamError, match="no sensor of the set can be used: its image has NaN"):
        pipeline.segment(frame_set, world.rig)


def test_missing_ego_motion_is_noted(pipeline, world, frame_set):
    pipeline.segment(frame_set, world.rig)
    assert "motion over 50 ms is not compensated" in pipeline.notes["lidar"]  # half a turn, without odometry
    pipeline.segment(subset(frame_set, "camera"), world.rig)
    assert not pipeline.notes


def plain_preprocessors(modalities):
    return make_preprocessors({m: DEFAULT_PREPROCESSORS[m] for m in modalities})


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_give_nearly_the_same_mask(pipeline, frame_set, world, precision):
    exact = pipeline.segment(frame_set, world.rig)
    rounded = Pipeline(make_model(), "cpu", precision).segment(frame_set, world.rig)
    # Random weights leave most pixels undecided; the confidence shows how far the logits moved.
    assert np.abs(rounded.confidence.astype(int) - exact.confidence).mean() < 2


def test_in_the_resolution_of_any_camera(pipeline, frame_set, world):
    rig = Rig(world.rig.camera_frame, dict(world.rig.models), world.rig.tree)
    rig.models[rig.camera_frame] = rig.camera.scaled(270, 360)
    assert pipeline.network_size(rig) == (96, 128)
    assert pipeline.segment(subset(frame_set, "lidar"), rig).labels.shape == (270, 360)


@given(st.tuples(st.integers(1, 50), st.integers(1, 50)), st.tuples(st.integers(1, 90), st.integers(1, 90)))
def test_resize_nearest_takes_the_pixel_under_the_center(small, large):
    picture = torch.randint(256, small, dtype=torch.uint8)
    oracle = F.interpolate(picture[None, None].float(), large, mode="nearest-exact")[0, 0].byte()
    centers = [(np.arange(n) + 0.5) * m / n for n, m in zip(large, small, strict=True)]
    clear = [np.abs(c - c.round()) > 1e-3 for c in centers]  # not on the border of two pixels
    assert np.array_equal(resize_nearest(picture.numpy(), large)[np.ix_(*clear)], oracle.numpy()[np.ix_(*clear)])


def test_undecodable_frame_is_left_out_with_the_reason(pipeline, frame_set, world):
    mask = pipeline.segment(broken(frame_set, "camera"), world.rig)
    assert mask.used == ("depth", "event", "lidar")
    assert list(pipeline.refusals) == ["camera"]
    assert "480" in pipeline.refusals["camera"] or "1920" in pipeline.refusals["camera"]
    pipeline.segment(frame_set, world.rig)
    assert not pipeline.refusals


def test_modality_without_expert_is_left_out_with_the_reason(frame_set, world):
    pipeline = Pipeline(make_model(modalities=("camera", "lidar")), "cpu", "fp32")
    assert pipeline.segment(frame_set, world.rig).used == ("camera", "lidar")
    assert "no expert for event; it has camera, lidar" in pipeline.refusals["event"]


def test_nonfinite_image_is_left_out_with_the_reason(frame_set, world):
    pipeline = Pipeline(make_model(), "cpu", "fp32")
    preprocessors = pipeline.preprocessors().by_modality
    encoder = preprocessors["event"]
    preprocessors["event"] = lambda *arguments: np.where(encoder(*arguments) > 0, np.float32("nan"), 0)
    mask = pipeline.segment(frame_set, world.rig)
    assert mask.used == ("camera", "depth", "lidar")
    assert "the event image has" in pipeline.refusals["event"]


class TestTakingExperts:
    """Between two sets, without a new start."""

    @pytest.fixture
    def file(self, tmp_path):
        """Other experts on the same base weights."""
        model = make_model()
        with torch.no_grad():
            for modality in model.experts.modalities:
                for b in model.experts.expert(modality).b:
                    b.mul_(-1)
        save_checkpoint(tmp_path / "other.safetensors", model)
        return tmp_path / "other.safetensors"

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_swap_replaces_the_named_experts(self, file, frame_set, world, precision):
        model = make_model()
        model.base_sha256 = weights_sha256(model.backbone)  # as set by loading, before rounding
        pipeline = Pipeline(model, "cpu", precision)
        depth, lidar = subset(frame_set, "depth"), subset(frame_set, "lidar")
        before = [pipeline.segment(s, world.rig).confidence for s in (depth, lidar)]
        pipeline.swap_experts(file, ["lidar"])
        after = [pipeline.segment(s, world.rig).confidence for s in (depth, lidar)]
        assert np.array_equal(after[0], before[0])
        assert not np.array_equal(after[1], before[1])

    def test_swap_adds_missing_experts(self, file, frame_set, world):
        pipeline = Pipeline(make_model(modalities=("camera",)), "cpu", "fp32")
        assert pipeline.segment(frame_set, world.rig).used == ("camera",)
        pipeline.swap_experts(file, ["lidar", "event"])
        assert set(pipeline.segment(frame_set, world.rig).used) == {"camera", "event", "lidar"}
        pipeline.warm_up(world.rig)

    def test_refused_swap_leaves_the_pipeline_unchanged(self, tmp_path, frame_set, world):
        odd = make_model(normalization={"lidar": ((9, 9, 9), (1, 1, 1))})
        save_checkpoint(tmp_path / "odd.safetensors", odd)
        pipeline = Pipeline(make_model(), "cpu", "fp32")
        before = pipeline.segment(frame_set, world.rig)
        with pytest.raises(CheckpointError, match="lidar expert was trained on images normalized with"):
            pipeline.swap_experts(tmp_path / "odd.safetensors")
        assert np.array_equal(pipeline.segment(frame_set, world.rig).confidence, before.confidence)


def with_settings(path, changes):
    """The shipped checkpoint under another configuration, as another training run might have left it."""
    model = load_checkpoint("weights/street.safetensors")
    for name, value in changes.items():
        if name in ("router_width", "auxiliary", "rank") or value in ("concat", "average"):
            torch.manual_seed(3)
            fresh = MLESAM(replace(model.config, **changes))
            load_base(fresh, model.base_weights)
            model = fresh
    model.config = model.router.config = replace(model.config, **changes)
    save_checkpoint(path, model)
    return path


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return {m: rng.standard_normal((3, 64, 96)).astype(np.float32) for m in MODALITIES}


class TestTakingACheckpoint:
    """State that is exchanged in part. The oracle is the same file in a new pipeline."""

    CHANGES = (
        {"top_k": 1}, {"renormalize": False}, {"gate": "sigmoid"}, {"features": "routed"}, {"features": "average"},
        {"combine": "sum"}, {"combine": "concat"}, {"fuse": "main"}, {"fuse": "max_confidence"}, {"auxiliary": False},
        {"router_width": 8}, {"rank": 4}, {"image_size": 128}, {"top_k": 3, "image_size": 64},
    )  # fmt: skip

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    @pytest.mark.parametrize("changes", CHANGES, ids=str)
    def test_swapped_checkpoint_equals_a_fresh_load(self, tmp_path, images, frame_set, world, changes, precision):
        path = with_settings(tmp_path / "other.safetensors", changes)
        fresh = Pipeline.from_checkpoint(path, device="cpu", precision=precision)
        live = Pipeline.from_checkpoint("weights/street.safetensors", device="cpu", precision=precision)
        live.infer(images)
        live.swap_checkpoint(path)
        assert live.config == fresh.config
        same_answers(live.infer(images), fresh.infer(images))
        ours, theirs = live.segment(frame_set, world.rig, False), fresh.segment(frame_set, world.rig, False)
        assert ours.labels.shape == theirs.labels.shape
        assert np.array_equal(ours.confidence, theirs.confidence)

    def test_swapped_checkpoint_brings_its_preprocessors(self, tmp_path, frame_set, world):
        preprocessors = {**DEFAULT_PREPROCESSORS, "depth": "hha"}
        normalization = {m: e.normalization for m, e in make_preprocessors(preprocessors).items()}
        changes = {"preprocessors": preprocessors, "normalization": normalization, "settings": {}}
        path = with_settings(tmp_path / "hha.safetensors", changes)
        fresh, live = Pipeline.from_checkpoint(path), Pipeline.from_checkpoint("weights/street.safetensors")
        live.swap_checkpoint(path)
        ours, theirs = live.segment(frame_set, world.rig), fresh.segment(frame_set, world.rig)
        assert np.array_equal(live.images["depth"], fresh.images["depth"])
        assert np.array_equal(ours.confidence, theirs.confidence)

    def test_checkpoint_with_another_event_window_is_refused(self, tmp_path):
        """Readers gather the window of the first checkpoint."""
        path = with_settings(tmp_path / "long.safetensors", {"settings": {"event": {"window": 0.05}}})
        live = Pipeline.from_checkpoint("weights/street.safetensors")
        before = live.network
        for take in (live.swap_checkpoint, live.swap_experts):
            with pytest.raises(CheckpointError, match=r"window of 0.05 s, but 0.03 s"):
                take(path)
        assert live.network is before
        assert Pipeline.from_checkpoint(path).preprocessing.event_window == 0.05

    def test_settings_other_than_in_training_are_noted(self, frame_set, world):
        settings = Preprocessing(event_window=0.05)
        live = Pipeline.from_checkpoint("weights/street.safetensors", settings=settings)
        live.segment(frame_set, world.rig)
        assert "event.window is 0.05 s, but the expert was trained on 0.03 s" in live.notes["event"]

    def test_checkpoint_with_other_colors_is_refused(self, tmp_path):
        space = load_label_space("deliver").to_dict()
        space["classes"][0]["color"] = [1, 2, 3]
        path = with_settings(tmp_path / "c.safetensors", {"label_space": LabelSpace.from_dict(space)})
        live = Pipeline.from_checkpoint("weights/street.safetensors")
        before = live.network
        with pytest.raises(
            CheckpointError,
            match=r"deliver with Building as \(1, 2, 3\), but the model has deliver with Building as \(70, 70, 70\)",
        ):
            live.swap_checkpoint(path)
        assert live.network is before

    @pytest.mark.parametrize("precision", ["fp32", "bf16"])
    def test_swapped_experts_equal_a_fresh_load(self, tmp_path, images, precision):
        donor = load_checkpoint("weights/street.safetensors")
        with torch.no_grad():
            for parameter in donor.experts.parameters():
                parameter.mul_(1.1)
        save_checkpoint(tmp_path / "donor.safetensors", donor)
        model = load_checkpoint("weights/street.safetensors")
        model.experts.load_state_dict(donor.experts.state_dict())
        model.config = replace(model.config, temperatures={})  # fitted to other experts
        fresh = Pipeline(model, "cpu", precision)
        live = Pipeline.from_checkpoint("weights/street.safetensors", device="cpu", precision=precision)
        live.swap_experts(tmp_path / "donor.safetensors")
        same_answers(live.infer(images), fresh.infer(images))

    @pytest.mark.parametrize("changes", [c for c in CHANGES if len(c) == 1], ids=str)
    def test_experts_of_another_router_head_or_size_are_refused(self, tmp_path, changes):
        path = with_settings(tmp_path / "other.safetensors", changes)
        live, ((name, value),) = Pipeline.from_checkpoint("weights/street.safetensors"), changes.items()
        ours = getattr(live.config, name)
        with pytest.raises(CheckpointError, match=f"has {name} {value}, but the model has {ours}"):
            live.swap_experts(path)

    def test_entries_of_a_replaced_expert_are_dropped(self, tmp_path):
        bare = load_checkpoint("weights/street.safetensors")
        bare.config = replace(bare.config, preprocessors={}, normalization={})
        save_checkpoint(tmp_path / "bare.safetensors", bare)
        live = Pipeline.from_checkpoint("weights/street.safetensors")
        live.swap_experts(tmp_path / "bare.safetensors", ["lidar"])
        assert "lidar" not in live.config.preprocessors and "lidar" not in live.config.normalization
        assert set(live.config.normalization) == {"camera", "depth", "event"}


def same_answers(ours, theirs):
    assert np.array_equal(ours.labels, theirs.labels)
    assert np.array_equal(ours.confidence, theirs.confidence)
    assert ours.weights == theirs.weights


def test_no_usable_frame_raises_with_every_reason(pipeline, frame_set, world):
    hopeless = subset(broken(broken(frame_set, "camera"), "depth"), "camera", "depth")
    with pytest.raises(MlesamError, match="no sensor of the set") as error:
        pipeline.segment(hopeless, world.rig)
    assert all(reason in str(error.value) for reason in pipeline.refusals.values())
    assert set(pipeline.refusals) == {"camera", "depth"}


def test_sensor_without_extrinsics_is_left_out(pipeline, frame_set, world):
    lost = replace(frame_set.frames["lidar"], frame_id="nowhere")
    mask = pipeline.segment(replace(frame_set, frames={**frame_set.frames, "lidar": lost}), world.rig)
    assert "lidar" not in mask.used
    assert "nowhere" in pipeline.refusals["lidar"]


def test_unknown_label_camera_is_refused(pipeline, frame_set):
    with pytest.raises(CalibrationError, match="elsewhere"):
        pipeline.segment(frame_set, Rig("elsewhere"))


def test_warm_up_leaves_no_trace(pipeline, frame_set, world):
    before = pipeline.segment(frame_set, world.rig)
    pipeline.warm_up(world.rig)
    pipeline.warm_up(batch=3)
    after = pipeline.segment(frame_set, world.rig)
    assert np.array_equal(before.labels, after.labels)
    assert before.weights == after.weights


@given(st.tuples(st.integers(32, 4000), st.integers(32, 4000)), st.sampled_from([128, 256, 1024]))
def test_network_size(camera, image_size):
    size, scale = network_size(camera, image_size), image_size / max(camera)
    assert max(size) == image_size
    for side, true_side in zip(size, camera, strict=True):
        assert side % 32 == 0
        assert abs(side - max(true_side * scale, 32)) <= 16


@pytest.mark.parametrize(
    ("camera", "image_size", "size"),
    [
        ((1080, 1920), 256, (160, 256)),  # 4.5 cells
        ((720, 1280), 256, (160, 256)),
        ((1920, 1080), 256, (256, 160)),
        ((1200, 1920), 256, (160, 256)),  # 5 cells
        ((480, 640), 256, (192, 256)),
        ((288, 384), 384, (288, 384)),
        ((1080, 1920), 1824, (1024, 1824)),
        ((375, 1242), 256, (64, 256)),  # 2.4 cells
        ((10, 4000), 256, (32, 256)),
    ],
)
def test_network_size_rounds_halves_up(camera, image_size, size):
    """Rounding. Python's own rounds half to even, which squeezed every 16:9 camera at 256 into 128 rows."""
    assert network_size(camera, image_size) == size


class TestFromCheckpoint:
    @pytest.fixture
    def files(self, tmp_path):
        normalization = {m: encoder.normalization for m, encoder in plain_preprocessors(MODALITIES).items()}
        model = make_model(normalization=normalization)
        save_backbone(tmp_path / "base.safetensors", model.backbone)
        save_checkpoint(tmp_path / "trained.safetensors", model)
        return tmp_path / "trained.safetensors", tmp_path / "base.safetensors"

    def test_from_checkpoint_equals_the_constructor(self, files, pipeline, frame_set, world):
        loaded = Pipeline.from_checkpoint(*files, device="cpu", precision="fp32", threads=torch.get_num_threads())
        assert np.array_equal(
            loaded.segment(frame_set, world.rig).labels, pipeline.segment(frame_set, world.rig).labels
        )

    def test_other_normalization_is_refused_with_both_values(self, files):
        path, base = files
        config = make_model().config.to_dict()
        config["normalization"] = {"depth": [[9.0, 9.0, 9.0], [1.0, 1.0, 1.0]]}
        with safe_open(path, "pt") as file:
            about = json.loads(file.metadata()["mlesam"])
        save_file(load_file(path), path, {"mlesam": json.dumps({**about, "config": config})})
        with pytest.raises(CheckpointError, match=r"depth expert.*9\.0.*log_depth uses"):
            Pipeline.from_checkpoint(path, base)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"precision": "int8"}, f"'int8' is unknown; accepted are auto, {', '.join(PRECISIONS)}"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments, words):
    with pytest.raises(ConfigError, match=words):
        Pipeline(make_model(), **arguments)


def test_close_frees_the_weights(frame_set, world):
    pipeline = Pipeline(make_model(), "cpu", "fp32", 1)
    pipeline.segment(frame_set, world.rig)
    parameters = [weakref.ref(p) for p in pipeline.network.parameters()]
    pipeline.close()
    gc.collect()
    assert not any(parameter() is not None for parameter in parameters)


def test_several_cameras_have_all_cores():
    cores = len(os.sched_getaffinity(0))
    for chosen, expected in (({"cameras": ["left", "right"]}, cores), ({}, max(1, cores // 2))):
        load_pipeline(build_parameters({"device": "cpu", **chosen}))
        assert torch.get_num_threads() == expected


def test_default_threads_are_half_of_the_cores():
    Pipeline(make_model())
    assert torch.get_num_threads() == max(1, len(os.sched_getaffinity(0)) // 2)
    Pipeline(make_model(), threads=2)
    assert torch.get_num_threads() == 2
    Pipeline(make_model(), threads=1)


def test_auto_precision_is_valid():
    assert Pipeline(make_model(), "cpu").precision in ("bf16", "fp32")


def test_modality_without_preprocessor_is_refused():
    with pytest.raises(ConfigError, match="no preprocessor is known for modality 'sonar'"):
        Pipeline(make_model(modalities=("camera", "sonar")))


def test_frames_are_never_written_to(pipeline, frame_set, world):
    frames = {m: freeze(f) for m, f in frame_set.frames.items()}
    pipeline.segment(replace(frame_set, frames=frames), world.rig)


def freeze(frame: SensorFrame) -> SensorFrame:
    for name in ("data", "points", "x", "y", "t", "polarity"):
        array = getattr(frame.payload, name, None)
        if array is not None:
            view = array.view()
            view.flags.writeable = False
            frame = replace(frame, payload=replace(frame.payload, **{name: view}))
    return frame


def test_features_and_labels_equal_segment(pipeline, world, frame_set):
    def assert_same(features, mask):
        found = pipeline.decode(features, world.rig)
        assert (resize_nearest(found.labels, mask.labels.shape) == mask.labels).mean() > 0.999
        confidence = resize_nearest(found.confidence, mask.labels.shape)
        assert np.abs(confidence.astype(int) - mask.confidence).mean() < 1

    mask = pipeline.segment(frame_set, world.rig)
    features = pipeline.features(pipeline.images)
    assert_same(features, mask)
    few = pipeline.segment(subset(frame_set, "depth", "event"), world.rig)
    assert_same(features.select(few.used), few)
    assert tuple(pipeline.images) == few.used


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "fp32")])
def test_gpus_that_emulate_bf16_compute_in_fp32(native, precision, monkeypatch):
    current = []

    @contextmanager
    def device(name):
        current.append(name)
        yield
        current.pop()

    def supported(including_emulation=True):
        return including_emulation or (current == ["cuda:1"] and native)

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert pick_precision("auto", "cuda:1") == precision


@pytest.mark.parametrize(
    ("vendor", "flags", "faster"),
    [
        ("AuthenticAMD", "fma avx512f avx512_bf16 avx512_vnni", True),  # Zen 4
        ("AuthenticAMD", "fma avx2", False),
        ("GenuineIntel", "avx512f avx512_bf16 amx_bf16 amx_tile amx_int8", True),  # Sapphire Rapids
        ("GenuineIntel", "avx512f avx512_bf16 avx512_fp16", False),  # the same in a virtual machine without AMX
        ("GenuineIntel", "avx512f avx512_vnni", False),
    ],
)
def test_bf16_is_chosen_where_it_is_faster(vendor, flags, faster):
    assert bf16_is_faster(f"processor\t: 0\nvendor_id\t: {vendor}\nflags\t\t: fpu {flags}\n") == faster
