# SPDX-License-Identifier: Apache-2.0
"""Exported files against PyTorch, their metadata, and how a pipeline finds, uses and leaves them."""

import io
import json
import zipfile
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from tiny_model import write_tiny_model
from torch.nn import functional as F

from mlesam_ros import extras
from mlesam_ros.errors import CheckpointError, ConfigError, ImageError, PackageError
from mlesam_ros.model.checkpoint import load_base, load_checkpoint, save_checkpoint
from mlesam_ros.model.exporter import check_export, export_checkpoint
from mlesam_ros.model.mlesam import MLESAM
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
from mlesam_ros.preprocessing.images import to_rgb
from mlesam_ros.simulation.world import World
from mlesam_ros.types import CAMERA, LIDAR, MODALITIES

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


@pytest.fixture(scope="module")
def camera(tmp_path_factory):
    """The shipped weights with one sensor, and images of streets: on noise every rounding changes labels."""
    full = load_checkpoint("street")
    model = MLESAM(
        replace(full.config, modalities=(CAMERA,), preprocessors={}, normalization={}, settings={}, temperatures={})
    ).eval()
    load_base(model, "hiera_nano")
    model.load_state_dict({name: t for name, t in full.state_dict().items() if name in model.state_dict()})
    path = tmp_path_factory.mktemp("camera") / "camera.safetensors"
    save_checkpoint(path, model)
    mean, std = (np.float32(part)[:, None, None] for part in full.config.normalization[CAMERA])
    frames = [World(seed, "sun", STREET_SIZE).sample(5).frames[CAMERA] for seed in range(5)]
    images = [{CAMERA: (to_rgb(frame.payload).transpose(2, 0, 1) / np.float32(255) - mean) / std} for frame in frames]
    return path, images, Pipeline(model, "cpu", "fp32", 1).infer(images[4]).labels


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_smaller_files_keep_the_masks(precision, camera, export, tmp_path):
    checkpoint, images, labels = camera
    content, info = export_checkpoint(checkpoint, OPENVINO, precision, STREET_SIZE, None, images[:4])
    path = tmp_path / "small.openvino"
    path.write_bytes(content)
    assert (load_exported(path)(images[4]).labels == labels).mean() > (0.99 if precision == "fp16" else 0.8)
    if precision == "int8":
        assert {kind for kind, _ in info.layers.values()} == {"int8", "fp"}
        kind, error = info.layers["camera backbone.trunk.blocks.0.mlp.layers.0/aten::linear/MatMul"]
        assert kind == "int8" and 0 < error < 0.1
        assert info.versions["nncf"] and load_exported(path).info.layers.keys() == info.layers.keys()
        assert all("aten::linear/Add" in names for names in linear_kernels(path))  # with their biases


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
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"x" * 100])
def test_damaged_files_are_refused_in_one_sentence(runtime, damage, export, tmp_path):
    path = tmp_path / f"damaged.{runtime}"
    path.write_bytes(damage(export(runtime)[0].read_bytes()))
    with pytest.raises(CheckpointError) as refused:
        load_exported(path)
    assert "\n" not in str(refused.value) and "Export it again" in refused.value.remedy


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
    with pytest.raises(CheckpointError, match="has label space deliver, but the checkpoint has deliver"):
        start(OPENVINO)


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
