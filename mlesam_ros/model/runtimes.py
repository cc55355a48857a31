# SPDX-License-Identifier: Apache-2.0
"""Runtimes of the network behind one interface, and the files that `mlesam export` writes for them.

`inference.TorchRuntime` needs no file. An exported file holds the merged experts of every modality for one image size,
so that every subset of the sensors works. Files are found in a folder by the SHA-256 of their checkpoint.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shlex
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mlesam_ros.errors import CheckpointError, ConfigError, MlesamError
from mlesam_ros.extras import is_installed, require_extra
from mlesam_ros.files import expand_path
from mlesam_ros.model.backbones import LEVELS
from mlesam_ros.model.inference import TORCH, Image, Prediction
from mlesam_ros.model.mlesam import check_images
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.model.weights import resolve_weights
from mlesam_ros.resources import cache_folder
from mlesam_ros.strict_yaml import check_choice
from mlesam_ros.types import AUTO, Modality

ONNX, OPENVINO = "onnx", "openvino"
MODULES = {ONNX: "onnxruntime", OPENVINO: "openvino"}
"""Runtime → the module that it needs."""
RUNTIMES = (TORCH, *MODULES)

FORMAT = 1
"""Version of exported files."""
FOLDER_VARIABLE = "MLESAM_EXPORTS"
"""Environment variable: folder of the exported files."""
METADATA_KEY = "mlesam"

Size = tuple[int, int]
Log = Callable[[str], None]


class Runtime(Protocol):
    """Runs the network on the images of frame sets.

    Attributes:
        name: one of `RUNTIMES`.
        precision: such as `bf16` or `int8`.
    """

    name: str
    precision: str

    def __call__(self, images: Mapping[Modality, Image | Tensor]) -> Prediction:
        """Segment one frame set.

        Args:
            images: modality → (3, h, w) float32, any non-empty subset of the experts.

        Raises:
            ImageError: see `MLESAM.forward`.
        """
        ...

    def batch(self, sets: Sequence[Mapping[Modality, Image | Tensor]]) -> list[Prediction]:
        """Segment frame sets of the same modalities and one image size; see `__call__`."""
        ...


@dataclass(frozen=True)
class ExportInfo:
    """Metadata of an exported file.

    Attributes:
        runtime: the runtime that reads it.
        precision: fp32, fp16 or int8.
        size: (h, w) of the images.
        checkpoint_sha256: of the checkpoint file.
        base_sha256: of the backbone's weights, as in the checkpoint.
        config: configuration of the model: label space, modalities, preprocessors, normalization.
        versions: library → version that wrote the file.
        layers: layer → (precision, error of its output relative to float32), of int8 files.
        format: see `FORMAT`.
    """

    runtime: str
    precision: str
    size: Size
    checkpoint_sha256: str
    base_sha256: str
    config: Mapping[str, Any]
    versions: Mapping[str, str]
    layers: Mapping[str, tuple[str, float]]
    format: int = FORMAT

    def to_json(self) -> str:
        """Serialize; inverse of `from_json`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, path: Path, text: str | None) -> ExportInfo:
        """Parse.

        Args:
            path: file of the text, for the error.
            text: of `to_json`; None where the file has none.

        Raises:
            CheckpointError: the text is missing, damaged or of another format.
        """
        try:
            values = dict(json.loads(text or ""))
            found = values["format"]
            if found == FORMAT:
                info = cls(**{f.name: values[f.name] for f in fields(cls)})
                MLESAMConfig.from_dict(info.config)
                (height, width), layers = (
                    info.size,
                    {name: (kind, error) for name, (kind, error) in info.layers.items()},
                )
                return replace(info, size=(height, width), layers=layers)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{path} is not a file of mlesam export.", EXPORT_AGAIN) from error
        raise CheckpointError(
            f"{path} is an export of format {found}; this version reads format {FORMAT}.", EXPORT_AGAIN
        )


EXPORT_AGAIN = "Export it again: mlesam export --help."


class _Exported(ABC):
    """Base class of the runtimes of exported files."""

    name = ""

    def __init__(self, info: ExportInfo) -> None:
        self.info, self.precision = info, info.precision
        self._modalities = tuple(info.config["modalities"])

    @abstractmethod
    def __call__(self, images: Mapping[Modality, Image | Tensor]) -> Prediction:
        """Segment; see `Runtime`."""

    def batch(self, sets: Sequence[Mapping[Modality, Image | Tensor]]) -> list[Prediction]:
        """Segment one after the other: the files are exported for one frame set. See `Runtime`."""
        return [self(images) for images in sets]

    def _inputs(self, images: Mapping[Modality, Image | Tensor]) -> tuple[tuple[Modality, ...], list[Image]]:
        """Present modalities in the experts' order, and their images as (1, 3, h, w) float32 arrays.

        Raises:
            ImageError: as `MLESAM.forward`, or an image is not of the exported size.
        """
        arrays = {m: i.numpy() if isinstance(i, Tensor) else i for m, i in images.items()}
        present = check_images({m: torch.from_numpy(a)[None] for m, a in arrays.items()}, self._modalities)
        sizes = {arrays[m].shape[-2:] for m in present}
        if sizes != {self.info.size}:
            raise ConfigError(
                f"the network was exported for images of {format_image_size(self.info.size)}, but these are "
                f"{format_image_size(sizes.pop())}.",
                EXPORT_AGAIN,
            )
        return present, [np.ascontiguousarray(arrays[m][None], np.float32) for m in present]

    def _places(self, present: Sequence[Modality]) -> npt.NDArray[np.int64]:
        """Places of modalities among the experts."""
        return np.array([self._modalities.index(m) for m in present], np.int64)

    @staticmethod
    def _prediction(present: tuple[Modality, ...], labels: Any, confidence: Any, weights: Any) -> Prediction:
        rows = zip(LEVELS, weights.tolist(), strict=True)
        return Prediction(
            labels, confidence, {level: dict(zip(present, row, strict=True)) for level, row in rows}, present, ()
        )


class OnnxRuntime(_Exported):
    """Runs an `.onnx` file with ONNX Runtime on the CPU."""

    name = ONNX

    def __init__(self, path: Path, threads: int) -> None:
        """Load the file.

        Args:
            path: file of `mlesam export --format onnx`.
            threads: CPU threads.

        Raises:
            CheckpointError: the file is damaged or of another format.
            PackageError: ONNX Runtime is not installed.
        """
        require_extra(MODULES[ONNX], f"runtime {ONNX}")
        import onnxruntime  # noqa: PLC0415  (an extra)

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own types of the C++ library
            raise _damaged(path, error) from error
        super().__init__(
            ExportInfo.from_json(path, self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY))
        )

    def __call__(self, images: Mapping[Modality, Image | Tensor]) -> Prediction:
        """Segment; see `Runtime`."""
        present, arrays = self._inputs(images)
        found = self._session.run(None, {"images": np.concatenate(arrays), "modalities": self._places(present)})
        return self._prediction(present, *found)


class OpenVinoRuntime(_Exported):
    """Runs an `.openvino` file: one encoder per modality, whose features go to one network of router and heads.

    An encoder has the merged projections of its expert as constants, which the CPU plugin packs and quantizes.
    """

    name = OPENVINO

    def __init__(self, path: Path, threads: int) -> None:
        """Load and compile the file.

        Args:
            path: file of `mlesam export --format openvino`.
            threads: CPU threads.

        Raises:
            CheckpointError: the file is damaged or of another format.
            PackageError: OpenVINO is not installed.
        """
        require_extra(MODULES[OPENVINO], f"runtime {OPENVINO}")
        import openvino  # noqa: PLC0415  (an extra)

        try:
            with zipfile.ZipFile(path) as archive:
                content = {name: archive.read(name) for name in archive.namelist()}
        except (OSError, zipfile.BadZipFile) as error:
            raise _damaged(path, error) from error
        super().__init__(ExportInfo.from_json(path, content.get(_INFO, b"").decode("utf-8", "replace")))
        core = openvino.Core()
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
        }  # fmt: skip
        if self.precision != "int8":  # its attention is inexact in bf16, which is its own choice
            settings["INFERENCE_PRECISION_HINT"] = "f32"

        def compiled(part: str) -> Any:
            model = core.read_model(io.BytesIO(content[f"{part}.xml"]), io.BytesIO(content[f"{part}.bin"]))
            return core.compile_model(model, "CPU", settings).create_infer_request()

        try:
            self._encoders = {m: compiled(m) for m in self._modalities}
            self._heads = compiled(HEADS)
        except (KeyError, RuntimeError) as error:
            raise _damaged(path, error) from error

    def __call__(self, images: Mapping[Modality, Image | Tensor]) -> Prediction:
        """Segment; see `Runtime`."""
        present, arrays = self._inputs(images)
        features = [self._encoders[m].infer([image]).to_tuple() for m, image in zip(present, arrays, strict=True)]
        levels = [np.concatenate(level) for level in zip(*features, strict=True)]
        found = self._heads.infer([self._places(present), *levels]).to_tuple()
        return self._prediction(present, *(np.array(x) for x in found))


_INFO = "info.json"
HEADS = "heads"
_TYPES: dict[str, Callable[[Path, int], OnnxRuntime | OpenVinoRuntime]] = {ONNX: OnnxRuntime, OPENVINO: OpenVinoRuntime}


def write_archive(parts: Mapping[str, bytes], info: ExportInfo) -> bytes:
    """Content of an `.openvino` file: an uncompressed ZIP archive of the parts' files and the metadata."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {_INFO: info.to_json().encode(), **parts}.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # without a time: equal weights give equal bytes
    return buffer.getvalue()


def _damaged(path: Path, error: Exception) -> CheckpointError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    return CheckpointError(f"{path} cannot be read: {reason}", EXPORT_AGAIN)


def format_image_size(size: Size) -> str:
    """Height and width as text."""
    return f"{size[0]}x{size[1]}"


# Files


def exports_folder() -> Path:
    """Folder of the exported files: `MLESAM_EXPORTS`, else `mlesam_ros/exports` in the user's cache folder."""
    given = os.environ.get(FOLDER_VARIABLE)
    return expand_path(given) if given else cache_folder() / "exports"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def export_path(checkpoint_sha256: str, runtime: str, precision: str, size: Size | str) -> Path:
    """Path of an exported file in `exports_folder`; the size may be a pattern."""
    shown = size if isinstance(size, str) else format_image_size(size)
    return exports_folder() / f"{checkpoint_sha256[:16]}-{shown}-{precision}.{runtime}"


ORDER = ((OPENVINO, "int8"), (OPENVINO, "fp16"), (OPENVINO, "fp32"), (ONNX, "fp16"), (ONNX, "fp32"))
"""Runtimes and precisions of exported files, fastest first."""
FASTER_THAN_TORCH = ORDER[:1]
"""Those that `auto` takes: they are faster than PyTorch on a CPU, see docs/performance.md."""


@dataclass(frozen=True)
class ExportFinder:
    """Finds and loads the exported files of checkpoints.

    Attributes:
        runtime: one of `RUNTIMES`, or auto for the fastest that is installed and has a file.
        precision: of the files; auto for any.
        device: such as `cpu`; exported files run on the CPU.
        threads: CPU threads.
        log: receives one sentence for each decision.
    """

    runtime: str = TORCH
    precision: str = AUTO
    device: str = "cpu"
    threads: int = 1
    log: Log = lambda text: None

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigError: the runtime is unknown or does not run on the device.
            PackageError: the runtime is not installed.
        """
        check_choice("runtime", self.runtime, (AUTO, *RUNTIMES))
        if self.runtime in MODULES:
            if not self.device.startswith("cpu"):
                raise ConfigError(
                    f"runtime {self.runtime} runs on the CPU, but device is {self.device}.",
                    "Set device to cpu, or runtime to torch.",
                )
            require_extra(MODULES[self.runtime], f"runtime {self.runtime}")

    @property
    def chosen(self) -> bool:
        """Whether the user chose an exported file, so that doing without it is an error."""
        return self.runtime in MODULES

    def load(self, checkpoint: str | Path, config: MLESAMConfig) -> dict[Size, Runtime]:
        """Load the files of a checkpoint: image size → runtime. Thread-safe.

        Args:
            checkpoint: path or name of the checkpoint.
            config: its configuration.

        Raises:
            CheckpointError: a runtime is chosen, and no file of it is there, or one is damaged.
        """
        wanted = self._wanted()
        if not wanted:
            return {}
        path, found = resolve_weights(checkpoint), dict[Size, Runtime]()
        digest = file_sha256(path)
        for runtime, precision in wanted:
            for file in sorted(exports_folder().glob(export_path(digest, runtime, precision, "*").name)):
                try:
                    loaded = load_exported(file, self.threads)
                    _check_origin(file, loaded.info, digest, config)
                except MlesamError as error:
                    if self.chosen:
                        raise
                    self.log(f"{error.problem} PyTorch runs the network.")
                    continue
                if loaded.info.size not in found:
                    found[loaded.info.size] = loaded
                    self.log(f"images of {format_image_size(loaded.info.size)}: {runtime} {precision}, {file}")
        if not found:
            command = f"mlesam export {shlex.quote(str(checkpoint))} --format {wanted[0][0]}"
            if self.chosen:
                raise CheckpointError(
                    f"runtime is {self.runtime}, but {exports_folder()} has no file exported from {path}.",
                    f"Export it: {command}",
                )
            self.log(f"PyTorch runs the network; {command} --precision int8 makes a file that is faster.")
        return found

    def _wanted(self) -> list[tuple[str, str]]:
        """Runtimes and precisions of the files to look for."""
        if self.runtime == TORCH or not self.device.startswith("cpu"):
            return []
        pairs = ORDER if self.chosen else [(r, p) for r, p in FASTER_THAN_TORCH if is_installed(MODULES[r])]
        return [(r, p) for r, p in pairs if self.runtime in (AUTO, r) and self.precision in (AUTO, p)]


def load_exported(path: Path, threads: int = 1) -> OnnxRuntime | OpenVinoRuntime:
    """Load an exported file by its suffix.

    Raises:
        CheckpointError, PackageError: see `OnnxRuntime` and `OpenVinoRuntime`.
        ConfigError: another suffix.
    """
    check_choice("suffix of an exported file", path.suffix.removeprefix("."), tuple(_TYPES))
    return _TYPES[path.suffix.removeprefix(".")](path, threads)


def _check_origin(path: Path, info: ExportInfo, digest: str, config: MLESAMConfig) -> None:
    """Refuse a file of another checkpoint, such as a renamed one."""
    theirs, ours = MLESAMConfig.from_dict(info.config), MLESAMConfig.from_dict(config.to_dict())
    if theirs.label_space != ours.label_space:
        raise CheckpointError(
            f"{path} has label space {theirs.label_space.name}, but the checkpoint has {ours.label_space.name}.",
            EXPORT_AGAIN,
        )
    if info.checkpoint_sha256 != digest or theirs != ours:
        raise CheckpointError(f"{path} was exported from another checkpoint than {digest[:16]}.", EXPORT_AGAIN)
