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
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mlesam_ros.errors import CheckpointError, ConfigError, MlesamError, PackageError
from mlesam_ros.extras import is_installed, require_extra
from mlesam_ros.files import atomic_write, expand_path
from mlesam_ros.model.backbones import LEVELS
from mlesam_ros.model.checkpoint import check_labels
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
        arrays = {m: i.cpu().numpy() if isinstance(i, Tensor) else i for m, i in images.items()}
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
    """Runs an `.onnx` file with ONNX Runtime: on the CPU, or on a GPU by TensorRT where it is available, else CUDA."""

    name = ONNX

    def __init__(self, path: Path, threads: int, device: str = "cpu", log: Log = lambda text: None) -> None:
        """Load the file.

        Args:
            path: file of `mlesam export --format onnx`.
            threads: CPU threads.
            device: such as `cpu` or `cuda:1`.
            log: receives a sentence when TensorRT builds its engines.

        Raises:
            CheckpointError: the file is damaged or of another format.
            PackageError: ONNX Runtime is not installed, or not for the device.
        """
        require_onnxruntime(device)
        import onnxruntime  # noqa: PLC0415  (an extra)

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")

        def start(*providers: Any) -> Any:
            return onnxruntime.InferenceSession(path, options, providers=[*providers, "CPUExecutionProvider"])

        try:
            self._session = start()
            text = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        except Exception as error:  # its own types of the C++ library
            raise _damaged(path, error) from error
        super().__init__(ExportInfo.from_json(path, text))
        if not device.startswith("cpu"):
            self._use_gpu(path, device, start, onnxruntime.get_available_providers(), log)

    def _use_gpu(self, path: Path, device: str, start: Callable[..., Any], available: Sequence[str], log: Log) -> None:
        cuda = (_CUDA, {"device_id": int(device.partition(":")[2] or 0)})
        if _TENSORRT not in available:
            self._session = start(cuda)
            return
        engines = EngineCache(path, device, log)
        options = {
            **cuda[1], "trt_engine_cache_enable": True, "trt_engine_cache_path": str(engines.folder),
            "trt_fp16_enable": self.precision == "fp16",
        }  # fmt: skip
        for again in (True, False):
            try:
                self._session = start((_TENSORRT, options), cuda)
                for count in range(len(self._modalities), 0, -1):  # each extends the range of the engines' shapes
                    present = self._modalities[:count]
                    self(dict.fromkeys(present, np.zeros((3, *self.info.size), np.float32)))
                break
            except Exception as error:  # its own types of the C++ library
                if not (again and engines.reused):
                    raise _damaged(path, error) from error
                engines.clear("cannot be read")
        engines.seal()

    def __call__(self, images: Mapping[Modality, Image | Tensor]) -> Prediction:
        """Segment; see `Runtime`."""
        present, arrays = self._inputs(images)
        found = self._session.run(None, {"images": np.concatenate(arrays), "modalities": self._places(present)})
        return self._prediction(present, *found)


_CUDA, _TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"


def require_onnxruntime(device: str) -> None:
    """Check that ONNX Runtime is installed, and that it is the build for the device.

    Raises:
        PackageError: it is not.
    """
    require_extra(MODULES[ONNX], f"runtime {ONNX}")
    import onnxruntime  # noqa: PLC0415  (an extra)

    if not device.startswith("cpu") and _CUDA not in onnxruntime.get_available_providers():
        raise PackageError(
            f"runtime {ONNX} on {device} needs the package onnxruntime-gpu, but onnxruntime for CPUs is installed.",
            "Replace it: pip uninstall onnxruntime && pip install onnxruntime-gpu.",
        )


class EngineCache:
    """Folder of TensorRT's engines of one file, for one GPU and one version of the libraries, with their SHA-256.

    ONNX Runtime reads engines of that name without a check.

    Attributes:
        folder: path of the folder.
        reused: whether it had engines.
    """

    def __init__(self, file: Path, device: str, log: Log) -> None:
        """Make the folder, or clear it if an engine is damaged or was not finished."""
        import onnxruntime  # noqa: PLC0415  (an extra)

        libraries = sorted(f"{d.name} {d.version}" for d in distributions() if d.name.startswith("tensorrt"))
        parts = file_sha256(file), torch.cuda.get_device_name(device), onnxruntime.__version__, *libraries
        self.folder = exports_folder() / "engines" / hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
        self._log = log
        self.reused = self.folder.exists()
        if self.reused and self._found() != self._sealed():
            self.clear("are damaged")
        elif not self.reused:
            self.clear("are not there")

    def clear(self, reason: str) -> None:
        """Remove the engines, and log that they are built again."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.reused = False
        self._log(f"TensorRT builds its engines, which takes minutes, since those of {self.folder} {reason}.")

    def seal(self) -> None:
        """Write down the hashes of the engines."""
        atomic_write(self.folder / _SEAL, json.dumps(self._found()).encode())

    def _found(self) -> dict[str, str]:
        return {p.name: file_sha256(p) for p in sorted(self.folder.iterdir()) if p.name != _SEAL}

    def _sealed(self) -> Any:
        try:
            return json.loads((self.folder / _SEAL).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


_SEAL = "sha256.json"


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
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
            raise _damaged(path, error) from error
        super().__init__(ExportInfo.from_json(path, content.get(_INFO, b"").decode("utf-8", "replace")))
        core = openvino.Core()
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1", "INFERENCE_NUM_THREADS": threads,
            "ENABLE_CPU_PINNING": False,
        }  # fmt: skip

        def compiled(part: str, quantized: bool) -> Any:
            model = core.read_model(io.BytesIO(content[f"{part}.xml"]), io.BytesIO(content[f"{part}.bin"]))
            exact = {} if quantized else {"INFERENCE_PRECISION_HINT": "f32"}  # bf16 of its own choice loses labels
            return core.compile_model(model, "CPU", settings | exact).create_infer_request()

        quantized = {name.rpartition(" ")[0] for name in self.info.layers}
        try:
            self._encoders = {m: compiled(m, m in quantized) for m in self._modalities}
            self._heads = compiled(HEADS, bool(quantized))
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
        device: such as `cpu`; OpenVINO runs on the CPU only.
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
        if self.runtime == ONNX:
            require_onnxruntime(self.device)
        if self.runtime == OPENVINO:
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
                    loaded = load_exported(file, self.threads, self.device, self.log)
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
        if self.runtime == TORCH or (self.runtime == AUTO and not self.device.startswith("cpu")):
            return []
        pairs = ORDER if self.chosen else [(r, p) for r, p in FASTER_THAN_TORCH if is_installed(MODULES[r])]
        return [(r, p) for r, p in pairs if self.runtime in (AUTO, r) and self.precision in (AUTO, p)]


def load_exported(
    path: Path, threads: int = 1, device: str = "cpu", log: Log = lambda text: None
) -> OnnxRuntime | OpenVinoRuntime:
    """Load an exported file by its suffix; see `OnnxRuntime` for the arguments.

    Raises:
        CheckpointError, PackageError: see `OnnxRuntime` and `OpenVinoRuntime`.
        ConfigError: another suffix.
    """
    runtime = path.suffix.removeprefix(".")
    check_choice("suffix of an exported file", runtime, tuple(MODULES))
    return OnnxRuntime(path, threads, device, log) if runtime == ONNX else OpenVinoRuntime(path, threads)


def _check_origin(path: Path, info: ExportInfo, digest: str, config: MLESAMConfig) -> None:
    """Refuse a file of another checkpoint, such as a renamed one."""
    theirs, ours = MLESAMConfig.from_dict(info.config), MLESAMConfig.from_dict(config.to_dict())
    check_labels(path, theirs.label_space, ours.label_space, EXPORT_AGAIN)
    if info.checkpoint_sha256 != digest or theirs != ours:
        raise CheckpointError(f"{path} was exported from another checkpoint than {digest[:16]}.", EXPORT_AGAIN)
