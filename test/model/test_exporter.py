# SPDX-License-Identifier: Apache-2.0
"""Exported files against PyTorch, their metadata, and how a pipeline finds, uses and leaves them."""

import io
import json
import zipfile
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import pytest
import torch
from tiny_model import write_tiny_model
from torch.nn import functional as F

from mlesam_ros import extras
from mlesam_ros.errors import CheckpointError, ConfigError, ImageError, PackageError
from mlesam_ros.model.backbones import LEVELS
from mlesam_ros.model.checkpoint import load_checkpoint, save_backbone, save_checkpoint
from mlesam_ros.model.exporter import check_export, export_checkpoint
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.model.runtimes import (
    METADATA_KEY,
    ONNX,
    OPENVINO,
    ExportFinder,
    export_path,
    file_sha256,
    load_exported,
    write_archive,
)
from mlesam_ros.pipeline import Pipeline
from mlesam_ros.simulation.weather import WEATHERS
from mlesam_ros.simulation.world import World
from mlesam_ros.types import CAMERA, LIDAR, MODALITIES, FrameSet

SIZE = (64, 96)
STREET_SIZE = (192, 320)
SUBSETS = [subset for count in (1, 2, 3, 4) for subset in combinations(MODALITIES, count)]


def images_of(subset, size=SIZE, seed=0):
    rng = np.random.default_rng(seed)
    images = {m: rng.normal(size=(3, *size)).astype(np.float32) for m in MODALITIES}
    return {m: images[m] for m in subset}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A tiny checkpoint whose confidence is calibrated for two subsets."""
    given = write_tiny_model(tmp_path_factory.mktemp("weights"), sharpness=3.0)
    model = load_checkpoint(given["checkpoint"], given["base_weights"])
    model.config = replace(model.config, temperatures={"camera+depth": 3.0, "lidar": 0.5})
    save_checkpoint(given["checkpoint"], model)
    return given


@pytest.fixture(scope="module")
def export(tmp_path_factory, weights):
    """Exports the tiny checkpoint once per runtime and precision: the path of the file, and its metadata."""
    folder, known = tmp_path_factory.mktemp("exported"), {}

    def made(runtime, precision="fp32"):
        if (runtime, precision) not in known:
            content, info = export_checkpoint(weights["checkpoint"], runtime, precision, SIZE, weights["base_weights"])
            known[runtime, precision] = folder / f"{precision}.{runtime}", info
            known[runtime, precision][0].write_bytes(content)
        return known[runtime, precision]

    return made


@pytest.fixture(scope="module")
def model(weights):
    return load_checkpoint(weights["checkpoint"], weights["base_weights"])


@pytest.fixture(scope="module")
def loaded(export):
    return {runtime: load_exported(export(runtime)[0]) for runtime in (ONNX, OPENVINO)}


@pytest.mark.parametrize("runtime", [ONNX, OPENVINO])
@pytest.mark.parametrize("subset", SUBSETS, ids="-".join)
def test_every_subset_equals_pytorch(runtime, subset, loaded, model):
    images = images_of(subset)
    found = loaded[runtime](dict(reversed(images.items())))  # in any order
    with torch.inference_mode():
        output = model({m: torch.from_numpy(image)[None] for m, image in images.items()})
        probability, labels = F.interpolate(output.fused, SIZE, mode="bilinear")[0].softmax(0).max(0)
    assert len(labels.unique()) > 2
    assert found.modalities == output.modalities == subset
    assert (found.labels != labels.numpy()).mean() < 1e-3  # where two classes are equally likely
    assert np.abs(found.confidence - 255 * probability.numpy()).max() <= 1.01
    for level, weights in found.weights.items():
        np.testing.assert_allclose([*weights.values()], output.weights[level][0], atol=1e-4)


@pytest.mark.parametrize("runtime", [ONNX, OPENVINO])
def test_a_model_with_one_sensor(runtime, tmp_path):
    torch.manual_seed(3)
    model = MLESAM(MLESAMConfig(rank=2, image_size=64, modalities=(LIDAR,))).eval()
    save_backbone(tmp_path / "base.safetensors", model.backbone)
    save_checkpoint(tmp_path / "one.safetensors", model)
    content, _ = export_checkpoint(tmp_path / "one.safetensors", runtime, "fp32", SIZE, tmp_path / "base.safetensors")
    path = tmp_path / f"one.{runtime}"
    path.write_bytes(content)
    images = images_of((LIDAR,))
    found, expected = load_exported(path)(images), Pipeline(model, "cpu", "fp32", 1).infer(images)
    assert (found.labels != expected.labels).mean() < 1e-3
    assert np.abs(found.confidence.astype(int) - expected.confidence).max() <= 1


@pytest.fixture(scope="module")
def street():
    """Images of simulated streets by the shipped weights' preprocessors, and PyTorch's labels of the last, per subset.

    On noise every rounding changes labels.
    """
    pipeline, images = Pipeline(load_checkpoint("street"), "cpu", "fp32", 1), []
    for seed, weather in enumerate((*WEATHERS, *WEATHERS, "sun")):
        world = World(seed, weather, tuple(2 * side for side in STREET_SIZE))
        frame = world.sample(5)
        images.append(pipeline.encode(FrameSet(frame.stamp, CAMERA, frame.frames, {}), world.rig))
    *calibration, last = images
    assert {i.shape for i in last.values()} == {(3, *STREET_SIZE)}
    return calibration, last, {s: pipeline.infer({m: last[m] for m in s}).labels for s in SUBSETS}


@pytest.mark.parametrize(
    ("runtime", "precision", "whole", "part"),
    [(ONNX, "fp16", 0.99, 0.99), (OPENVINO, "fp16", 0.99, 0.99), (OPENVINO, "int8", 0.97, 0.8)],
)
def test_smaller_files_keep_the_masks_of_every_subset(runtime, precision, whole, part, street, tmp_path):
    """Uncertain masks of single sensors change most by int8: those of events alone keep 88 to 97 % of their labels."""
    calibration, images, labels = street
    content, info = export_checkpoint("street", runtime, precision, STREET_SIZE, None, calibration)
    path = tmp_path / f"small.{runtime}"
    path.write_bytes(content)
    exported = load_exported(path)
    for subset in SUBSETS:
        first, second = (exported({m: images[m] for m in subset}) for _ in range(2))
        assert (first.labels == labels[subset]).mean() > (whole if subset == SUBSETS[-1] else part), subset
        assert np.array_equal(first.labels, second.labels) and np.array_equal(first.confidence, second.confidence)
    if precision == "int8":
        assert {kind for kind, _ in info.layers.values()} == {"int8", "fp"}
        for modality in MODALITIES:
            kind, error = info.layers[f"{modality} backbone.trunk.blocks.0.mlp.layers.0/aten::linear/MatMul"]
            assert kind == "int8" and 0 < error < 0.1
        assert info.versions["nncf"] and exported.info.layers.keys() == info.layers.keys()
        assert all("aten::linear/Add" in names for names in linear_kernels(path))  # with their biases


def test_encoders_without_images_for_calibration_stay_in_floating_point(weights, model, tmp_path):
    """As on a robot that lacks the sensor."""
    calibration = [images_of((CAMERA,), SIZE, seed) for seed in range(2)]
    content, info = export_checkpoint(
        weights["checkpoint"], OPENVINO, "int8", SIZE, weights["base_weights"], calibration
    )
    assert {name.partition(" ")[0] for name in info.layers} == {CAMERA}
    path = tmp_path / "partly.openvino"
    path.write_bytes(content)
    features = load_exported(path)._encoders[LIDAR].infer([images_of((LIDAR,))[LIDAR][None]]).to_tuple()
    with torch.inference_mode():
        expected = model.features({LIDAR: torch.from_numpy(images_of((LIDAR,))[LIDAR])[None]}).pyramid
    for level, found in zip(LEVELS, features, strict=True):
        np.testing.assert_allclose(found, expected[level][0], atol=1e-4 * float(expected[level].abs().max()))


def linear_kernels(path):
    """Names of the operations in each linear kernel of the camera's encoder, as OpenVINO compiles it."""
    with zipfile.ZipFile(path) as archive:
        xml, weights = archive.read("camera.xml"), archive.read("camera.bin")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(io.BytesIO(xml), io.BytesIO(weights)), "CPU")
    info = [op.get_rt_info() for op in compiled.get_runtime_model().get_ordered_ops()]
    kernels = [i["originalLayersNames"].astype(str) for i in info if i["layerType"].astype(str) == "FullyConnected"]
    assert len(kernels) > 30
    return kernels


def test_metadata_names_the_checkpoint_and_its_label_space(export, loaded, model, weights):
    for runtime in (ONNX, OPENVINO):
        info = loaded[runtime].info
        assert info.to_json() == export(runtime)[1].to_json()
        assert (info.runtime, info.precision, info.size) == (runtime, "fp32", SIZE)
        assert info.checkpoint_sha256 == file_sha256(Path(weights["checkpoint"]))
        assert info.base_sha256 == model.base_sha256
        assert json.loads(json.dumps(info.config)) == json.loads(json.dumps(model.config.to_dict()))
        assert info.versions["torch"] == torch.__version__.partition("+")[0] or info.versions["torch"]


@pytest.mark.parametrize("runtime", [ONNX, OPENVINO])
def test_other_images_are_refused(runtime, loaded):
    with pytest.raises(ConfigError, match="exported for images of 64x96, but these are 96x64"):
        loaded[runtime](images_of(MODALITIES, (96, 64)))
    with pytest.raises(ImageError, match="images are given for sonar"):
        loaded[runtime]({"sonar": images_of((CAMERA,))[CAMERA]})
    broken = images_of((CAMERA,))
    broken[CAMERA][0, 0, 0] = np.nan
    with pytest.raises(ImageError, match="1 NaN or infinite"):
        loaded[runtime](broken)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        (("tensorrt", "fp32", None), "accepted are onnx, openvino"),
        ((ONNX, "fp64", None), "accepted are fp32, fp16, int8"),
        ((ONNX, "int8", None), "onnx has no precision int8"),
        ((ONNX, "fp32", (250, 256)), "250x256; both sides must be multiples of 32"),
    ],
)
def test_invalid_exports_are_refused(values, error):
    with pytest.raises(ConfigError, match=error):
        check_export(*values)


def test_int8_needs_images(weights):
    with pytest.raises(ConfigError, match="needs images for calibration"):
        export_checkpoint(weights["checkpoint"], OPENVINO, "int8", SIZE, weights["base_weights"])


@pytest.mark.parametrize("runtime", [ONNX, OPENVINO])
def unknown_compression(archive):
    """Set the compression method in the last entry of a ZIP archive's directory."""
    place = archive.rindex(b"PK\x01\x02") + 10
    return archive[:place] + b"\x63" + archive[place + 1 :]


COMMON_DAMAGES = [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * 100]


@pytest.mark.parametrize(
    ("runtime", "damage"),
    [
        *((runtime, damage) for runtime in (ONNX, OPENVINO) for damage in COMMON_DAMAGES),
        (ONNX, lambda b: b.replace(b'{"runtime"', b'{"run\xfftim')),  # not UTF-8
        (OPENVINO, unknown_compression),
        (OPENVINO, lambda b: b.replace(b"</net>", b"</nut>")),
    ],
)
def test_damaged_files_are_refused_in_one_sentence(runtime, damage, export, tmp_path):
    path = tmp_path / f"damaged.{runtime}"
    path.write_bytes(damage(export(runtime)[0].read_bytes()))
    with pytest.raises(CheckpointError) as refused:
        load_exported(path)
    assert "\n" not in str(refused.value) and "Export it again" in refused.value.remedy


class FakeSession:
    """ONNX Runtime's session on a machine with a GPU: computes on the CPU, and keeps the providers that it was given.

    TensorRT's provider writes an engine, and cannot read one that is damaged.
    """

    def __init__(self, path, options, providers):
        self.session = onnxruntime.capi.onnxruntime_inference_collection.InferenceSession(path, options)
        self.providers, self.counts = providers, []
        self.made.append(self)

    def __getattr__(self, name):
        return getattr(self.session, name)

    def run(self, outputs, inputs):
        self.counts.append(len(inputs["images"]))
        if self.providers[0][0] == "TensorrtExecutionProvider":
            engine = Path(self.providers[0][1]["trt_engine_cache_path"]) / "graph_sm90.engine"
            if engine.exists() and engine.read_bytes() != b"engine":
                raise RuntimeError("TensorRT EP could not deserialize engine from cache")
            engine.write_bytes(b"engine")
        return self.session.run(outputs, inputs)


@pytest.fixture
def gpu(monkeypatch, folder):
    """Makes ONNX Runtime one for GPUs with some providers; the list of its sessions."""
    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Test")
    monkeypatch.setattr(FakeSession, "made", [], raising=False)

    def make(*providers):
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [*providers, "CPUExecutionProvider"])
        return FakeSession.made

    return make


CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"


def test_on_a_gpu_onnx_files_run_by_cuda(gpu, export, model):
    made = gpu(CUDA)
    runtime = load_exported(export(ONNX)[0], 1, "cuda:1")
    found = runtime({m: torch.from_numpy(image) for m, image in images_of(MODALITIES).items()})
    assert np.array_equal(found.labels, load_exported(export(ONNX)[0])(images_of(MODALITIES)).labels)
    assert [session.providers for session in made] == [
        ["CPUExecutionProvider"],
        [(CUDA, {"device_id": 1}), "CPUExecutionProvider"],
        ["CPUExecutionProvider"],
    ]


def test_tensorrt_builds_engines_for_every_number_of_sensors_once(gpu, export):
    made, said = gpu(TENSORRT, CUDA), []
    for _ in range(2):
        load_exported(export(ONNX)[0], 1, "cuda", said.append)
    (name, options), *others = made[-1].providers
    assert name == TENSORRT and options["trt_engine_cache_enable"] and not options["trt_fp16_enable"]
    assert others == [(CUDA, {"device_id": 0}), "CPUExecutionProvider"]
    assert made[-1].counts == [4, 3, 2, 1]
    assert len(said) == 1 and "TensorRT builds its engines" in said[0]


def engines(folder):
    return [path for path in folder.rglob("*.engine")]


def test_engines_belong_to_a_file_a_gpu_and_a_version(gpu, export, folder, monkeypatch, tmp_path):
    gpu(TENSORRT, CUDA)
    load_exported(export(ONNX)[0], 1, "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Other")
    load_exported(export(ONNX)[0], 1, "cuda")
    monkeypatch.setattr(onnxruntime, "__version__", "99.0")
    load_exported(export(ONNX)[0], 1, "cuda")
    content = export(ONNX)[0].read_bytes()
    other = tmp_path / "other.onnx"
    other.write_bytes(content + b"\xc2\x3e\x00")  # an unknown field of the message
    load_exported(other, 1, "cuda")
    assert len(engines(folder)) == 4


@pytest.mark.parametrize("damage", ["engine", "seal", "both"])
def test_damaged_engines_are_built_again_and_that_is_said(damage, gpu, export, folder):
    gpu(TENSORRT, CUDA)
    load_exported(export(ONNX)[0], 1, "cuda")
    (engine,) = engines(folder)
    seal = engine.with_name("sha256.json")
    if damage != "seal":
        engine.write_bytes(b"engi")
    if damage != "engine":
        seal.write_text("" if damage == "seal" else json.dumps({engine.name: file_sha256(engine)}))
    said = []
    load_exported(export(ONNX)[0], 1, "cuda", said.append)
    reason = "cannot be read" if damage == "both" else "are damaged"
    assert said == [f"TensorRT builds its engines, which takes minutes, since those of {engine.parent} {reason}."]
    assert engine.read_bytes() == b"engine"


def test_onnx_on_a_gpu_needs_its_build_of_onnxruntime(export):
    with pytest.raises(PackageError, match="onnx on cuda needs the package onnxruntime-gpu") as refused:
        ExportFinder(ONNX, device="cuda")
    assert "pip install onnxruntime-gpu" in refused.value.remedy


def with_info(path, target, **changes):
    """Rewrite an OpenVINO file with other metadata."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    del parts["info.json"]
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(write_archive(parts, replace(load_exported(path).info, **changes)))
    return target


def test_files_of_another_format_are_refused(export, tmp_path):
    path = with_info(export(OPENVINO)[0], tmp_path / "new.openvino", format=99)
    with pytest.raises(CheckpointError, match="export of format 99; this version reads format 1"):
        load_exported(path)
    import onnx

    bare = onnx.load(export(ONNX)[0])
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "bare.onnx")
    with pytest.raises(CheckpointError, match="is not a file of mlesam export"):
        load_exported(tmp_path / "bare.onnx")
    assert METADATA_KEY == "mlesam"


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MLESAM_EXPORTS", str(tmp_path / "exports"))
    return tmp_path / "exports"


@pytest.fixture
def cached(folder, export, weights):
    """The OpenVINO file where a node finds it, as if it were int8."""
    digest = file_sha256(Path(weights["checkpoint"]))
    return with_info(export(OPENVINO)[0], export_path(digest, OPENVINO, "int8", SIZE), precision="int8")


@pytest.fixture
def start(weights):
    """Makes a pipeline of the tiny checkpoint, and the list of what it logs."""

    def make(runtime="auto", **options):
        said = []
        finder = ExportFinder(runtime, log=said.append, **options)
        model = load_checkpoint(weights["checkpoint"], weights["base_weights"])
        return Pipeline(model, "cpu", "fp32", 1, exports=finder, checkpoint=weights["checkpoint"]), said

    return make


def test_auto_takes_the_file_and_says_so(cached, start):
    pipeline, said = start()
    assert pipeline.runtime == "openvino int8 for 64x96, torch fp32 for other sizes"
    assert said == [f"images of 64x96: openvino int8, {cached}"]
    pipeline.warm_up()
    for images in (images_of(MODALITIES), images_of((LIDAR,))):
        assert np.array_equal(pipeline.infer(images).labels, load_exported(cached)(images).labels)
    assert start("torch")[0].runtime == "torch fp32"


def test_other_sizes_run_in_pytorch_and_that_is_said_once(cached, start):
    pipeline, said = start()
    images = images_of(MODALITIES, (64, 64))
    found = [pipeline.infer(images).labels for _ in range(2)]
    assert np.array_equal(found[0], start("torch")[0].infer(images).labels)
    assert len(said) == 2 and "images have 64x64, but the exported files have 64x96" in said[1]
    chosen, _ = start(OPENVINO)
    with pytest.raises(ConfigError, match="images have 64x64"):
        chosen.infer(images)


def test_without_a_file_auto_runs_pytorch_and_names_the_command(folder, start, weights):
    pipeline, said = start()
    assert pipeline.runtime == "torch fp32"
    assert len(said) == 1 and f"mlesam export {weights['checkpoint']} --format openvino" in said[0]
    with pytest.raises(CheckpointError, match="has no file exported from"):
        start(OPENVINO)


@pytest.mark.parametrize("fault", ["damaged", "renamed"])
def test_auto_skips_a_bad_file_and_says_why(fault, cached, start, export):
    if fault == "damaged":
        cached.write_bytes(cached.read_bytes()[:1000])
        reason = "cannot be read"
    else:
        with_info(export(OPENVINO)[0], cached, checkpoint_sha256="0" * 64)
        reason = "was exported from another checkpoint"
    pipeline, said = start()
    assert pipeline.runtime == "torch fp32"
    assert reason in said[0] and "PyTorch runs the network" in said[0]
    with pytest.raises(CheckpointError, match=reason):
        start(OPENVINO)


def test_a_file_of_another_label_space_is_refused(cached, start, export, model):
    config = json.loads(json.dumps(model.config.to_dict()))
    config["label_space"]["classes"][0]["name"] = "Castle"
    with_info(export(OPENVINO)[0], cached, config=config)
    words = r"deliver \(25 classes\), not on deliver \(25 classes\): class 0 is Castle there and Building here"
    with pytest.raises(CheckpointError, match=words):
        start(OPENVINO)
    pipeline, said = start()
    assert pipeline.runtime == "torch fp32" and "class 0 is Castle there" in said[0]


def test_a_runtime_that_is_not_installed(cached, start, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(PackageError, match="needs the package openvino") as refused:
        start(OPENVINO)
    assert "mlesam_ros[openvino]" in refused.value.remedy
    assert start()[0].runtime == "torch fp32"


def test_runtimes_of_exported_files_need_the_cpu():
    with pytest.raises(ConfigError, match="runtime openvino runs on the CPU, but device is cuda"):
        ExportFinder(OPENVINO, device="cuda")
    with pytest.raises(ConfigError, match="accepted are auto, torch, onnx, openvino"):
        ExportFinder("tensorflow")
    assert ExportFinder("auto", device="cuda").load("missing", None) == {}


def test_exchanged_experts_run_in_pytorch_until_their_file_is_there(cached, start, weights, tmp_path):
    other = write_tiny_model(tmp_path, base=weights["base_weights"], seed=1, sharpness=3.0)["checkpoint"]
    pipeline, said = start()
    pipeline.swap_experts(weights["checkpoint"], [LIDAR])
    assert pipeline.runtime == "torch fp32" and "PyTorch runs the exchanged experts" in said[-1]
    pipeline.swap_checkpoint(other)
    assert pipeline.runtime == "torch fp32" and "PyTorch runs the network" in said[-1]
    pipeline.swap_checkpoint(weights["checkpoint"])
    assert pipeline.runtime.startswith("openvino int8 for 64x96")
