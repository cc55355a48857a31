# SPDX-License-Identifier: Apache-2.0
"""Export of a checkpoint to one file for ONNX Runtime or OpenVINO, with post-training quantization to int8.

ONNX is one graph for any subset of the sensors. It takes the images and their modalities' indices, and gathers each
image's merged projections from those of all experts:

    images (M, 3, H, W) float32, modalities (M,) int64  →  labels, confidence (H, W) uint8, weights (levels, M) float32

OpenVINO's CPU plugin quantizes and packs constant weights only. There, each modality has an encoder with its own
projections as constants and its own ranges of activations, and all share one graph of router and heads. The graphs are
one archive, see `runtimes.OpenVinoRuntime`.
"""

from __future__ import annotations

import copy
import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from mlesam_ros.errors import ConfigError
from mlesam_ros.extras import require_extra
from mlesam_ros.model.backbones import LEVELS, STRIDE, HieraBackbone
from mlesam_ros.model.checkpoint import describe_checkpoint, load_checkpoint
from mlesam_ros.model.hiera import PATCH_STRIDE
from mlesam_ros.model.inference import Image, argmax_with_confidence
from mlesam_ros.model.mlesam import MLESAM, Output
from mlesam_ros.model.model_config import SUBSET_SEPARATOR
from mlesam_ros.model.runtimes import (
    HEADS,
    METADATA_KEY,
    MODULES,
    ONNX,
    OPENVINO,
    ExportInfo,
    Size,
    file_sha256,
    format_image_size,
    write_archive,
)
from mlesam_ros.model.weights import resolve_weights
from mlesam_ros.strict_yaml import check_choice
from mlesam_ros.types import Modality

PRECISIONS = ("fp32", "fp16", "int8")
"""Of exported files."""
INPUTS, OUTPUTS = ("images", "modalities"), ("labels", "confidence", "weights")


class Heads(nn.Module):
    """Router, heads and postprocessing of one frame set."""

    def __init__(self, model: MLESAM, size: Size) -> None:
        """Share the weights of a model.

        Args:
            model: the model.
            size: (h, w) of the labels.
        """
        super().__init__()
        self.model, self.size = model, size
        names = model.experts.modalities
        temperatures = torch.ones(2 ** len(names))  # a subset's place has the bits of its modalities
        for subset, value in model.config.temperatures.items():
            temperatures[sum(1 << names.index(m) for m in subset.split(SUBSET_SEPARATOR))] = value
        self.register_buffer("temperatures", temperatures)
        self.register_buffer("bits", 2 ** torch.arange(len(names)))
        self.temperatures: Tensor
        self.bits: Tensor

    def forward(self, modalities: Tensor, *levels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Decode the features of a frame set.

        Args:
            modalities: (M,) places of the modalities among the experts.
            levels: (M, C, h, w) features per level.

        Returns:
            (h, w) uint8 labels and confidence, and (levels, M) router weights.
        """
        subset = self.bits[modalities].sum().clamp(max=len(self.temperatures) - 1)  # a trace may repeat a modality
        temperature = self.temperatures[subset]
        fused, weights = self.model.fuse({level: x[:, None] for level, x in zip(LEVELS, levels, strict=True)})
        logits, auxiliary = self.model.decode(fused)
        output = Output(logits, auxiliary, weights, (), self.model.config.fuse, cast(float, temperature))
        labels, confidence = argmax_with_confidence(output.fused, self.size)
        return labels, confidence, torch.stack([w[0] for w in weights.values()]).float()


class Encoder(nn.Module):
    """Encoder with the experts that are active."""

    def __init__(self, model: MLESAM) -> None:
        """Share the weights of a model."""
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(M, 3, H, W) images to (M, C, h, w) features per level."""
        pyramid = self.model.encode(images)
        return tuple(pyramid[level] for level in LEVELS)


class AnySubset(nn.Module):
    """The whole network for images of any subset of the modalities."""

    def __init__(self, model: MLESAM, size: Size) -> None:
        """Share the weights of a merged model."""
        super().__init__()
        self.encoder, self.heads = Encoder(model), Heads(model, size)
        self.merged = nn.ParameterList(model.experts.merged)

    def forward(self, images: Tensor, modalities: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Segment; see the module's docstring."""
        torch._check(images.shape[0] == modalities.shape[0])  # one symbol of the exported program
        for layer, weights in zip(self.encoder.model.experts.layers, self.merged, strict=True):
            layer.merged = weights[modalities]
        return self.heads(modalities, *self.encoder(images.to(self.merged[0].dtype)))


def export_checkpoint(
    checkpoint: str | Path,
    runtime: str,
    precision: str,
    size: Size | None = None,
    base_weights: str | Path | None = None,
    calibration: Sequence[Mapping[Modality, Image]] = (),
) -> tuple[bytes, ExportInfo]:
    """Export a checkpoint.

    Args:
        checkpoint: path or name of the checkpoint.
        runtime: `onnx` or `openvino`.
        precision: one of `PRECISIONS`.
        size: (h, w) of the images, multiples of 32; None for the checkpoint's square size.
        base_weights: see `load_checkpoint`.
        calibration: for int8, images of some frame sets.

    Returns:
        content of the file, and its metadata.

    Raises:
        CheckpointError: see `load_checkpoint`.
        ConfigError: a value is not accepted.
        PackageError: a package of the extra `export` or of the runtime is not installed.
    """
    check_export(runtime, precision, size)
    if precision == "int8" and not calibration:
        raise ConfigError("int8 needs images for calibration.", "Give --calibrate street, or a bag of your robot.")
    model = load_checkpoint(checkpoint, base_weights)
    size = size or (model.config.image_size,) * 2
    model = _specialize(model.requires_grad_(False), size)
    model.experts.merge()
    info = ExportInfo(
        runtime=runtime,
        precision=precision,
        size=size,
        checkpoint_sha256=file_sha256(resolve_weights(checkpoint)),
        base_sha256=describe_checkpoint(checkpoint)["base_sha256"],
        config=model.config.to_dict(),
        versions={name: version(name) for name in ("mlesam_ros", "torch", *_WRITERS[runtime])},
        layers={},
    )
    if runtime == ONNX:
        return _to_onnx(model, info), info
    return _to_openvino(model, info, calibration)


def check_export(runtime: str, precision: str, size: Size | None) -> None:
    """Check format, precision and image size, and that the packages are installed.

    Raises:
        ConfigError: a value is not accepted.
        PackageError: a package that writes the file is not installed.
    """
    check_choice("format", runtime, tuple(MODULES))
    check_choice("precision", precision, PRECISIONS)
    if runtime == ONNX and precision == "int8":
        raise ConfigError("format onnx has no precision int8; accepted are fp32 and fp16.", "Give --format openvino.")
    if size is not None and (min(size) < STRIDE or size[0] % STRIDE or size[1] % STRIDE):
        raise ConfigError(f"image size is {format_image_size(size)}; both sides must be multiples of {STRIDE}.")
    for module in (*_WRITERS[runtime], MODULES[runtime], *(["nncf"] if precision == "int8" else [])):
        require_extra(module, f"export to {runtime}")


@torch.no_grad()
def _specialize(model: MLESAM, size: Size) -> MLESAM:
    """Specialize a model to one image size, in place: constant positions, and one convolution where two follow."""

    def dtype(module: nn.Module) -> torch.dtype:
        return next(module.parameters()).dtype  # of the export, which may be fp16

    backbone, decoder = model.backbone, model.decoder
    if not isinstance(backbone, HieraBackbone):
        position = backbone.position(size[0] // 16, size[1] // 16)
        backbone.position = lambda h, w: position.to(dtype(backbone))  # type: ignore[method-assign]
        for block in backbone.blocks:
            block.attn.fused = True
        return model
    trunk = backbone.trunk
    position = trunk.position(size[0] // PATCH_STRIDE, size[1] // PATCH_STRIDE)
    trunk.position = lambda h, w: position.to(dtype(trunk))  # type: ignore[method-assign]
    for level, name in enumerate(("conv_s1", "conv_s0"), start=2):
        stage = cast(Any, backbone.neck.convs[level])
        stage.conv = _combine(stage.conv, getattr(decoder, name))
        setattr(decoder, name, nn.Identity())
    return model


def _combine(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """The 1x1 convolution that equals two in sequence."""
    both = nn.Conv2d(first.in_channels, second.out_channels, 1).requires_grad_(False)
    product = second.weight[..., 0, 0] @ first.weight[..., 0, 0]
    both.weight.copy_(product[..., None, None])
    cast(Tensor, both.bias).copy_(second.weight[..., 0, 0] @ cast(Tensor, first.bias) + cast(Tensor, second.bias))
    return both


_WRITERS = {ONNX: ("onnx", "onnxscript"), OPENVINO: ("openvino",)}
"""Runtime → packages that write its files."""


def _to_onnx(model: MLESAM, info: ExportInfo) -> bytes:
    if info.precision == "fp16":
        model.half()
    sensors = len(model.experts.modalities)
    count = torch.export.Dim("sensors", min=1, max=max(sensors, 2))
    example = torch.zeros(max(sensors, 2), 3, *info.size), torch.arange(max(sensors, 2)) % sensors
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(
            AnySubset(model, info.size), example, dynamic_shapes={name: {0: count} for name in INPUTS}
        )
        written = torch.onnx.export(program, input_names=INPUTS, output_names=OUTPUTS, verbose=False)
    assert written is not None
    proto = written.model_proto
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, info.to_json()
    return bytes(proto.SerializeToString())


def _to_openvino(
    model: MLESAM, info: ExportInfo, calibration: Sequence[Mapping[Modality, Image]]
) -> tuple[bytes, ExportInfo]:
    import openvino  # noqa: PLC0415  (an extra)

    parts = {modality: _encoder(openvino, model, row, info) for row, modality in enumerate(model.experts.modalities)}
    parts[HEADS] = _heads(openvino, model, info)
    if info.precision == "int8":
        parts, layers = quantize(openvino, parts, calibration)
        info = replace(info, layers=layers, versions={**info.versions, "nncf": version("nncf")})
    files: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, part in parts.items():
            path = Path(folder) / f"{name}.xml"
            halved = info.precision == "fp16" and name != HEADS  # OpenVINO's transposed convolution in f16 is random
            openvino.save_model(part, path, compress_to_fp16=halved)
            files |= {p.name: p.read_bytes() for p in (path, path.with_suffix(".bin"))}
    return write_archive(files, info), info


def _encoder(openvino: Any, model: MLESAM, row: int, info: ExportInfo) -> Any:
    """OpenVINO model of the encoder with one expert: its merged projections take the place of the frozen ones."""
    own = copy.deepcopy(model)
    for layer, merged in zip(own.experts.layers, own.experts.merged, strict=True):
        layer.weight = nn.Parameter(merged[row].T.contiguous(), requires_grad=False)
    own.experts.unmerge()
    return _convert(
        openvino, Encoder(own), (torch.zeros(1, 3, *info.size),), [openvino.PartialShape([1, 3, *info.size])]
    )


def _heads(openvino: Any, model: MLESAM, info: ExportInfo) -> Any:
    """OpenVINO model of router and heads, for any number of modalities."""
    with torch.no_grad():
        levels = Encoder(model)(torch.zeros(2, 3, *info.size))
    shapes = [openvino.PartialShape([-1]), *(openvino.PartialShape([-1, *x.shape[1:]]) for x in levels)]
    places = torch.arange(2) % len(model.experts.modalities)
    return _convert(openvino, Heads(model, info.size), (places, *levels), shapes)


def _convert(openvino: Any, module: nn.Module, example: tuple[Tensor, ...], shapes: Sequence[Any]) -> Any:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the tracer, about values that are constants for one image size
        traced = torch.jit.trace(module.eval(), example, check_trace=False)
        return openvino.convert_model(traced, example_input=example, input=shapes)


def quantize(
    openvino: Any, parts: Mapping[str, Any], calibration: Sequence[Mapping[Modality, Image]]
) -> tuple[dict[str, Any], dict[str, tuple[str, float]]]:
    """Quantize the encoders to int8 by nncf's post-training quantization.

    Router and heads stay in floating point: they take an eighth of the time, and their logits decide the labels. So
    do encoders of modalities without images.

    Args:
        openvino: the module.
        parts: modality → encoder, and the heads.
        calibration: images of some frame sets.

    Returns:
        the parts, and layer → (precision, error), see `ExportInfo.layers`.
    """
    import nncf  # noqa: PLC0415  (an extra)

    nncf.set_log_level(logging.ERROR)
    quantized: dict[str, Any] = dict(parts)
    layers: dict[str, tuple[str, float]] = {}
    for modality in (name for name in parts if name != HEADS):
        images = [frames[modality][None] for frames in calibration if modality in frames]
        if not images:
            continue
        quantized[modality] = nncf.quantize(
            parts[modality],
            nncf.Dataset(images),
            preset=nncf.QuantizationPreset.PERFORMANCE,  # symmetric: no zero points to subtract
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(images),
        )
        errors = _layer_errors(openvino, parts[modality], quantized[modality], images[:_REPORTED_SETS])
        layers |= {f"{modality} {name}": entry for name, entry in errors.items()}
    return quantized, layers


_LAYERS = ("Convolution", "MatMul", "ScaledDotProductAttention")
_REPORTED_SETS = 3


def _layer_errors(openvino: Any, plain: Any, quantized: Any, images: Sequence[Image]) -> dict[str, tuple[str, float]]:
    """Layer → its precision, and the error of its output in the quantized model, as norms; earlier errors included."""
    expected, found = (_layer_outputs(openvino, model, images) for model in (plain, quantized))
    return {
        name.removeprefix("__module.model."): (
            precision,
            float(np.linalg.norm(output - expected[name][1])) / (float(np.linalg.norm(expected[name][1])) or 1.0),
        )
        for name, (precision, output) in found.items()
        if name in expected
    }


def _layer_outputs(openvino: Any, model: Any, images: Sequence[Image]) -> dict[str, tuple[str, Image]]:
    """Layer → its precision, and its output for some images."""
    probed = model.clone()
    layers = [op for op in probed.get_ordered_ops() if op.get_type_name() in _LAYERS]
    count = len(probed.outputs)
    probed.add_outputs([layer.output(0) for layer in layers])
    run = openvino.Core().compile_model(probed, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    outputs = zip(*(run([image]).to_tuple()[count:] for image in images), strict=True)
    return {
        layer.get_friendly_name(): (
            "int8" if layer.input_value(0).get_node().get_type_name() == "FakeQuantize" else "fp",
            np.concatenate(output),
        )
        for layer, output in zip(layers, outputs, strict=True)
    }
