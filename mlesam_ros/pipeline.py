# SPDX-License-Identifier: Apache-2.0
"""Inference pipeline on one device: frame set → preprocessed images → network → mask."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch

from mlesam_ros.config import NodeParameters, preprocessing
from mlesam_ros.errors import CheckpointError, ConfigError, Problem
from mlesam_ros.expert_preprocessors import ExpertPreprocessors
from mlesam_ros.geometry.pixels import resize_nearest
from mlesam_ros.geometry.rig import Rig
from mlesam_ros.labels import IGNORE
from mlesam_ros.model.checkpoint import check_replacement, describe_checkpoint, load_checkpoint, load_experts
from mlesam_ros.model.inference import (
    ALL,
    PRECISIONS,
    Image,
    InferenceOptions,
    Prediction,
    TorchRuntime,
    explain_oom,
    is_oom,
    postprocess,
    prepare,
)
from mlesam_ros.model.mlesam import MLESAM, Features
from mlesam_ros.model.model_config import MLESAMConfig, network_size
from mlesam_ros.model.runtimes import ExportFinder, Runtime, Size, format_image_size
from mlesam_ros.preprocessing.base import DEFAULTS, Preprocessing
from mlesam_ros.preprocessing.cuda import AsyncUploader
from mlesam_ros.preprocessing.preprocessors import encode
from mlesam_ros.preprocessing.registration import FrameContext, SweepMotions
from mlesam_ros.resources import resource_path
from mlesam_ros.types import AUTO, EVENT, FrameSet, Modality, Segmentation
from mlesam_ros.view import Inputs, View, group_views

_WARM_UP_CALLS = 3  # libraries autotune in the first ones


class Replacement(NamedTuple):
    """Another model, prepared for a pipeline, and its exported files: image size → runtime."""

    model: MLESAM
    exported: Mapping[Size, Runtime]


TORCH_ALONE = ExportFinder()
"""No exported files."""


class Pipeline:
    """Owns a device and a model on it. Not thread-safe, except where a method's docstring notes otherwise.

    Attributes:
        config: the model's configuration.
        device: such as `cpu` or `cuda`.
        precision: one of `PRECISIONS`.
    """

    def __init__(
        self,
        model: MLESAM,
        device: str | None = None,
        precision: str = AUTO,
        threads: int | None = None,
        options: InferenceOptions = ALL,
        settings: Preprocessing = DEFAULTS,
        exports: ExportFinder = TORCH_ALONE,
        checkpoint: str | Path | None = None,
    ) -> None:
        """Take ownership of a model: move it, merge its experts and change its precision, all in place.

        Args:
            model: with float32 weights.
            device: None for a GPU if available, else the CPU.
            precision: one of `PRECISIONS`, or `auto`.
            threads: CPU threads of this process's tensor operations; None for half of the cores, since waiting for
                threads on cores that drivers and transport keep busy costs more than the parallelism gains.
            options: inference options.
            settings: of the sensor data.
            exports: finds the exported files that run in place of PyTorch.
            checkpoint: path or name of the model's checkpoint, whose exported files are used; None for none.

        Raises:
            ConfigError: an invalid value, no such device, or a modality without a preprocessor.
            CheckpointError: the model was trained on images of other preprocessors; see also `ExportFinder.load`.
        """
        self.device = pick_device(device)
        self.precision = pick_precision(precision, self.device)
        torch.set_num_threads(pick_threads(threads))
        self._options, self._settings = options, settings
        self._preprocessors: dict[Preprocessing, ExpertPreprocessors] = {}
        self._upload = AsyncUploader(self.device)
        self._torch = TorchRuntime(self._prepared(model), self.device, self.precision, self._upload, options.graphs)
        self._set_model(self._torch.model)
        self._exports = exports
        self._exported: Mapping[Size, Runtime] = (
            {} if checkpoint is None else exports.load(checkpoint, self._torch.model.config)
        )
        self._unexported: set[Size] = set()
        if exports.chosen:
            self.encodes_on_device = False  # exported files read images of the host
        self._sweeps = SweepMotions()
        self._last = Inputs()

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        base_weights: str | Path | None = None,
        device: str | None = None,
        precision: str = AUTO,
        threads: int | None = None,
        options: InferenceOptions = ALL,
        settings: Preprocessing = DEFAULTS,
    ) -> Pipeline:
        """Load a checkpoint and its base weights; see `load_checkpoint` and `__init__`.

        Raises:
            CheckpointError: the files are missing, damaged or do not belong together.
            ConfigError: see `__init__`.
        """
        return cls(load_checkpoint(path, base_weights), device, precision, threads, options, settings)

    def warm_up(self, rig: Rig | None = None, batch: int = 1) -> None:
        """Run the network on blank images, so that the first frame set is as fast as later ones.

        Args:
            rig: rig of the expected frame sets, for the image size; None for square images.
            batch: maximum number of frame sets at once; all smaller numbers are run, too.
        """
        size = (self.config.image_size,) * 2 if rig is None else self.network_size(rig)
        blank = dict.fromkeys(self.config.modalities, np.zeros((3, *size), np.float32))
        for count in range(batch, 1, -1):  # the largest first: on a GPU the graphs of the others share its memory
            self._torch.batch([blank] * count)
        for _ in range(_WARM_UP_CALLS):
            self._torch(blank)
        for (height, width), runtime in self._exported.items():
            runtime(dict.fromkeys(self.config.modalities, np.zeros((3, height, width), np.float32)))

    def segment(self, frame_set: FrameSet, rig: Rig, enlarge: bool = True) -> Segmentation:
        """Compute the mask of one frame set.

        A frame that cannot be preprocessed is left out and recorded in `refusals`; the mask is made from the others.

        Args:
            frame_set: at most one frame per modality.
            rig: with the label camera's model and the extrinsics of every sensor in the set.
            enlarge: whether the mask is resized to the label camera's resolution; else it has the network's.

        Returns:
            the mask; timings has `encode`, `model` (until its result is on the host) and `decode`, in seconds.

        Raises:
            CalibrationError: the label camera is unknown.
            MlesamError: no frame is usable; the message has the reason for each.
        """
        view = View(frame_set, rig)
        for _ in self.segment_views([view], enlarge):
            self._last = view.inputs
        if view.error is not None:
            raise view.error
        assert view.segmentation is not None
        return view.segmentation

    def segment_views(self, views: Sequence[View], enlarge: bool = True) -> Iterator[list[View]]:
        """Compute the masks of several cameras: one batch for each subset of the sensors and image size.

        Args:
            views: of the cameras; see `segment`.
            enlarge: see `segment`.

        Yields:
            the views of each batch as soon as they have their masks, after those without a usable frame. A view that
            fails has its `error`, and the others have their masks.
        """
        for view in views:
            with view.catch():
                self._encode(view)
        if failed := [view for view in views if view.error is not None]:
            yield failed
        for batch in group_views(views):
            self._infer(batch)
            for view in batch:
                if view.prediction is not None:
                    with view.catch():
                        self._decode(view, enlarge)
            yield batch

    def close(self) -> None:
        """Release the device's memory for other processes; the pipeline cannot be used afterwards."""
        del self._torch
        self._free_cache()

    def _free_cache(self) -> None:
        """Return cached memory of a GPU to the driver."""
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def encode(self, frame_set: FrameSet, rig: Rig) -> dict[Modality, Image]:
        """Preprocess a frame set: modality → (3, h, w) float32, the input images of the network.

        Raises:
            MlesamError: a frame cannot be preprocessed.
        """
        return encode(frame_set, rig, self.network_size(rig), self.preprocessors().by_modality)

    def infer(self, images: Mapping[Modality, Image | torch.Tensor]) -> Prediction:
        """Run the network, with one synchronization for the result.

        Args:
            images: modality → (3, h, w) float32, on the host or on the device.
        """
        return self.infer_batch([images])[0]

    def infer_batch(self, sets: Sequence[Mapping[Modality, Image | torch.Tensor]]) -> list[Prediction]:
        """Run the network once for several frame sets of the same modalities and image size; see `infer`."""
        return self._runtime(sets[0]).batch(sets)

    def _runtime(self, images: Mapping[Modality, Image | torch.Tensor]) -> Runtime:
        """Runtime of images of one size: the exported file, or PyTorch, which runs any size.

        Raises:
            ConfigError: a runtime is chosen that has no file of this size.
        """
        height, width = next(iter(images.values())).shape[-2:]
        found = self._exported.get((height, width))
        if found is not None:
            return found
        if self._exported and (height, width) not in self._unexported:
            there = ", ".join(map(format_image_size, self._exported))
            problem = Problem(
                f"the images have {format_image_size((height, width))}, but the exported files have {there}.",
                f"Export this size: mlesam export --image-size {height} {width}",
            )
            if self._exports.chosen:
                raise ConfigError(problem.message, problem.remedy)
            self._unexported.add((height, width))
            self._exports.log(f"{problem} PyTorch runs them.")
        return self._torch

    def features(self, images: Mapping[Modality, Image]) -> Features:
        """Run only the frozen encoder, the expensive part, for callers that evaluate many subsets of the same images.

        Args:
            images: modality → (3, h, w) float32, such as `self.images`.
        """
        return self._torch.features(images)

    def decode(self, features: Features, rig: Rig) -> Prediction:
        """Run router and heads: a mask of the network's size, which `segment` resizes to the camera's."""
        size = self.network_size(rig)
        with torch.inference_mode():
            return postprocess(self.network.decode_heads(features), size)

    @property
    def runtime(self) -> str:
        """Runtimes in use, such as `openvino int8 for 256x256, torch bf16 for other sizes`."""
        exported = [f"{r.name} {r.precision} for {format_image_size(size)}" for size, r in self._exported.items()]
        other = "" if not exported else " for other sizes"
        return ", ".join([*exported, f"{self._torch.name} {self._torch.precision}{other}"])

    @property
    def encodes_on_device(self) -> bool:
        """Whether preprocessors run on the GPU where they support it, and images are checked there, not before."""
        return self._torch.reports_nonfinite

    @encodes_on_device.setter
    def encodes_on_device(self, value: bool) -> None:
        self._torch.reports_nonfinite = value

    @property
    def torch_runtime(self) -> TorchRuntime:
        """PyTorch's runtime, which runs what no exported file does."""
        return self._torch

    @property
    def network(self) -> MLESAM:
        """The model as it runs: on the device, in its precision, with its inference options."""
        return self._torch.model

    @property
    def images(self) -> dict[Modality, Image]:
        """Modality → (3, h, w) float32, the network's input images of the last set."""
        return {m: i.cpu().numpy() if isinstance(i, torch.Tensor) else i for m, i in self._last.images.items()}

    @property
    def refusals(self) -> Mapping[Modality, Problem]:
        """Modality → problem for which its frame was left out of the last set; empty when all of them took part."""
        return MappingProxyType(self._last.refusals)

    @property
    def notes(self) -> Mapping[Modality, str]:
        """Modality → limitation of its image in the last set, see `View.notes`."""
        return self._last.notes

    def swap_experts(self, path: str | Path, modalities: Sequence[Modality] | None = None) -> None:
        """Replace or add experts between two frame sets; the model stays loaded and merged.

        Args:
            path: a checkpoint on the same base weights.
            modalities: experts to load; None for all.

        Raises:
            CheckpointError, ConfigError: see `load_experts` and `__init__`; the pipeline is unchanged then.
        """
        config = MLESAMConfig.from_dict(describe_checkpoint(path)["config"])
        wanted = [m for m in config.modalities if modalities is None or m in modalities]
        self._check_event_window(path, config, wanted)
        load_experts(path, self.network, modalities)
        if self._exported:
            self._exports.log(f"{path}: PyTorch runs the exchanged experts, which the exported files lack.")
        self.use(Replacement(self.network, {}))

    def swap_checkpoint(self, path: str | Path) -> None:
        """Load another checkpoint and use it; an error leaves the pipeline unchanged.

        Raises:
            CheckpointError, ConfigError: see `load_other`.
        """
        self.use(self.load_other(path))

    def load_other(self, path: str | Path) -> Replacement:
        """Load another checkpoint's model, prepared as in a new pipeline, and its exported files. Thread-safe.

        Both models are in memory until `use` replaces the current one.

        Args:
            path: a checkpoint on the same base weights, for the same modalities and label space.

        Raises:
            CheckpointError, ConfigError: see `check_replacement`, `load_checkpoint`, `__init__` and
                `ExportFinder.load`.
        """
        check_replacement(path, self.config)
        model = load_checkpoint(path, self.network.base_weights)
        self._check_event_window(path, model.config, model.config.modalities)
        exported = self._exports.load(path, model.config)
        with explain_oom(model, self.device):
            return Replacement(self._prepared(model), exported)

    def use(self, other: Replacement) -> None:
        """Use another model from the next frame set on."""
        self._torch.model, self._exported, self._unexported = other.model, other.exported, set()
        self._set_model(other.model)

    def _prepared(self, model: MLESAM) -> MLESAM:
        """Move a model to the device, after a check that its preprocessors are those of its training."""
        ExpertPreprocessors(model.config, self._settings)
        return prepare(model, self.device, PRECISIONS[self.precision], self._options)

    def _set_model(self, model: MLESAM) -> None:
        """Derive the state that depends on a model's configuration."""
        self.config = model.config
        self._preprocessors = {s: ExpertPreprocessors(model.config, s) for s in {self._settings, *self._preprocessors}}

    def preprocessors(self, settings: Preprocessing | None = None) -> ExpertPreprocessors:
        """Preprocessors for sensors with some settings; None for those of the pipeline. Made once for each model."""
        settings = self._settings if settings is None else settings
        if settings not in self._preprocessors:
            self._preprocessors[settings] = ExpertPreprocessors(self.config, settings)
        return self._preprocessors[settings]

    @property
    def preprocessing(self) -> Preprocessing:
        """Settings of the sensor data for `FrameReader`, completed from the checkpoint."""
        return self.preprocessors().settings

    def network_size(self, rig: Rig) -> tuple[int, int]:
        """(h, w) of the network's images, see `model_config.network_size`.

        Raises:
            CalibrationError: the label camera is unknown.
        """
        return network_size((rig.camera.height, rig.camera.width), self.config.image_size)

    def _encode(self, view: View) -> None:
        """Make the images of a view; see `ExpertPreprocessors.encode`.

        Raises:
            CalibrationError: the label camera is unknown.
            MlesamError: no frame is usable.
        """
        start = time.perf_counter()
        view.rig = view.rig.of_set(view.frame_set)
        view.size = self.network_size(view.rig)
        view.context = FrameContext(view.frame_set.time, view.frame_set.frames, sweeps=self._sweeps)
        self.preprocessors(view.settings).encode(view, self._upload if self.encodes_on_device else None)
        view.timings["encode"] = time.perf_counter() - start

    def _infer(self, batch: Sequence[View]) -> None:
        """Run the network on views of the same modalities and image size; one by one if they do not fit at once."""
        start = time.perf_counter()
        predictions: list[Prediction] | None = None
        try:
            predictions = self.infer_batch([view.images for view in batch])
        except Exception as error:  # of the network, so that it is that of each view
            if len(batch) == 1 or not is_oom(error):
                for view in batch:
                    view.error = error
                return
        if predictions is None:  # after the error, whose traceback holds tensors of the batch
            self._free_cache()
            text = f"{len(batch)} frame sets do not fit into the memory of {self.device} at once and run one by one"
            warnings.warn(text, RuntimeWarning, 2)
            for view in batch:
                self._infer([view])
            return
        for view, prediction in zip(batch, predictions, strict=True):
            with view.catch():
                view.prediction = self._without_nonfinite(view, prediction)
        for view in batch:
            view.timings["model"] = time.perf_counter() - start

    def _without_nonfinite(self, view: View, prediction: Prediction) -> Prediction:
        """Prediction of a view whose images are all finite: the given one, or another without those that are not."""
        if not prediction.nonfinite_modalities:
            return prediction
        view.drop(prediction.nonfinite_modalities)
        return self.infer(view.images)

    def _decode(self, view: View, enlarge: bool) -> None:
        """Resize the prediction of a view and complete its segmentation."""
        start = time.perf_counter()
        prediction, context, size = view.prediction, view.context, view.size
        assert prediction is not None
        resolution = (view.rig.camera.height, view.rig.camera.width) if enlarge else size
        labels, confidence = (resize_nearest(image, resolution) for image in (prediction.labels, prediction.confidence))
        view.timings["decode"] = time.perf_counter() - start
        view.segmentation = Segmentation(
            stamp=view.frame_set.stamp,
            frame_id=view.rig.camera_frame,
            labels=labels,
            confidence=confidence,
            weights=prediction.weights,
            used=prediction.modalities,
            skews=dict(view.frame_set.skews),
            timings=view.timings,
            placements=context.placements,
            sweep=context.placed_sweep,
            network_size=size,
            depth=context.depth_images.get(size),
        )

    def _check_event_window(self, path: str | Path, config: MLESAMConfig, modalities: Sequence[Modality]) -> None:
        for settings, current in self._preprocessors.items():
            other, gathered = ExpertPreprocessors(config, settings, modalities), current.settings.event_window
            both = EVENT in other.by_modality and EVENT in current.by_modality
            if both and (window := other.settings.event_window) != gathered:
                raise CheckpointError(
                    f"{path} was trained with an event window of {window:g} s, but {gathered:g} s are gathered.",
                    "Start again with this checkpoint, or set event.window.",
                )


def load_pipeline(
    parameters: NodeParameters, device: str | None = None, log: Callable[[str], None] = lambda text: None
) -> Pipeline:
    """Load the network of the parameters, and warm it up.

    Args:
        parameters: of the node.
        device: used where the parameters are `auto`; None for the first GPU, else the CPU.
        log: receives which runtime is used, and why not a faster one.

    Raises:
        CheckpointError, ConfigError: see `Pipeline.from_checkpoint`.
        PackageError: the parameter `runtime` names one that is not installed.
    """
    checkpoint = checkpoint_path(parameters.checkpoint)
    device = pick_device(device if parameters.device == AUTO else parameters.device)
    threads = parameters.threads or (len(os.sched_getaffinity(0)) if len(parameters.views) > 1 else pick_threads(None))
    exports = ExportFinder(parameters.runtime, parameters.precision, device, threads, log)
    model = load_checkpoint(checkpoint, parameters.base_weights or None)
    with explain_oom(model, device):
        pipeline = Pipeline(model, device, parameters.precision, threads, settings=preprocessing(parameters),
                            exports=exports, checkpoint=checkpoint)  # fmt: skip
        pipeline.warm_up(batch=len(parameters.views))
    return pipeline


def checkpoint_path(given: str) -> str:
    """Path of the parameter `checkpoint`; the shipped checkpoint if empty."""
    return given or str(resource_path("weights/street.safetensors"))


def keep_confident(segmentation: Segmentation, threshold: float) -> Segmentation:
    """Set pixels whose winning class has a probability below a threshold to `IGNORE`."""
    if threshold <= 0:
        return segmentation
    unsure = segmentation.confidence < round(255 * threshold)
    return replace(segmentation, labels=np.where(unsure, np.uint8(IGNORE), segmentation.labels))


def pick_device(name: str | None) -> str:
    """Check that a device works; None selects a GPU if available, else the CPU.

    Raises:
        ConfigError: the device cannot be used.
    """
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch raises an AssertionError if built without CUDA
        raise ConfigError(
            f"device {name!r} cannot be used: {str(error).splitlines()[0]}.", "Set device to cpu."
        ) from error
    return name


def pick_precision(name: str, device: str) -> str:
    """Resolve `auto` to bf16 where the device multiplies it faster than fp32, else to fp32, and check other names.

    Raises:
        ConfigError: the name is none of `PRECISIONS`.
    """
    if name == AUTO:
        fast = _gpu_has_bf16(device) if device.startswith("cuda") else bf16_is_faster(_cpu_description())
        return "bf16" if fast else "fp32"
    if name not in PRECISIONS:
        raise ConfigError(f"precision {name!r} is unknown; accepted are {AUTO}, {', '.join(PRECISIONS)}.")
    return name


def _gpu_has_bf16(device: str) -> bool:
    """Whether a GPU multiplies in bf16; older ones emulate it."""
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def bf16_is_faster(cpuinfo: str) -> bool:
    """Whether a CPU multiplies bf16 faster than fp32, by the content of `/proc/cpuinfo`.

    True with AMX, and with AVX512_BF16 on AMD. Intel's cores execute one `VDPBF16PS` per cycle, but two multiply-adds
    of fp32 vectors, which are as many products: with AVX512_BF16 alone the network was 0.76 times as fast in bf16.
    Without either, bf16 is emulated and several times slower.
    """
    words = set(cpuinfo.split())
    return "amx_bf16" in words or {"avx512_bf16", "AuthenticAMD"} <= words


def _cpu_description() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="ascii", errors="ignore")
    except OSError:
        return ""


def pick_threads(threads: int | None) -> int:
    """Check a number of CPU threads; None for half of the cores.

    Raises:
        ConfigError: the number is below 1.
    """
    if threads is None:
        threads = max(1, len(os.sched_getaffinity(0)) // 2)
    if threads < 1:
        raise ConfigError(f"threads is {threads}; it must be at least 1.")
    return threads
