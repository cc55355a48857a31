# SPDX-License-Identifier: Apache-2.0
"""Training recipes: dataclasses, their loading from strict YAML, and the comparison of two recipes."""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass, replace
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

from mlesam_ros.bags.recovery import is_storage
from mlesam_ros.config import NodeParameters, load_parameters
from mlesam_ros.errors import ConfigError
from mlesam_ros.evaluation.label_folder import has_splits
from mlesam_ros.files import expand_path
from mlesam_ros.simulation.style import PLAIN_STYLE, STYLES
from mlesam_ros.simulation.weather import FAULTS, NO_FAULT, WEATHERS
from mlesam_ros.strict_yaml import check_choice, read_yaml
from mlesam_ros.types import CAMERA, MODALITIES, NODE
from mlesam_training.datasets import dataset_names, dataset_options

T = TypeVar("T")
PathText = Annotated[str, expand_path]
"""A path, expanded as in a shell. A relative path starts at the working directory."""


def from_mapping(kind: type[T], content: Any, where: str) -> T:
    """Build a dataclass, including nested dataclasses, from a mapping.

    Args:
        kind: dataclass to build.
        content: parsed YAML.
        where: source of the mapping, for the error message.

    Raises:
        ConfigError: a key or value is not accepted, or a required key is missing.
    """
    if not isinstance(content, dict):
        raise ConfigError(f"{where} is {content!r}; it must be a mapping.")
    if prepared := getattr(kind, "prepared", None):
        content = prepared(content, where)
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for key in content:
        check_choice(f"{where}: key", key, known)
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in content]:
        raise ConfigError(f"{where} lacks {' and '.join(missing)}.")
    hints = get_type_hints(kind, include_extras=True)
    return kind(**{key: _value(hints[key], value, f"{where}: {key}") for key, value in content.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    """Convert a value to the annotated type. Integers are accepted as floats."""
    if is_dataclass(hint):
        return from_mapping(hint, value, where)  # type: ignore[arg-type]
    if get_origin(hint) is Annotated:
        text, convert = get_args(hint)
        given = _value(text, value, where)
        return str(convert(given)) if given else given
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        return None if value is None else _value(_select_kind(kinds, value, where), value, where)
    kind = get_origin(hint) or hint
    if kind is tuple and isinstance(value, list | tuple):
        return _items(get_args(hint), value, where)
    if kind is dict and isinstance(value, dict) and get_args(hint)[1] is float:
        return {key: _value(float, share, f"{where}.{key}") for key, share in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where} is {value!r}; it must be of type {kind.__name__}.")
    return value


def _select_kind(kinds: list[Any], value: Any, where: str) -> Any:
    """Select the dataclass whose `kinds` contains the value of the key `kind`; the first one without that key."""
    if len(kinds) == 1 or not isinstance(value, dict) or "kind" not in value:
        return kinds[0]
    check_choice(f"{where}: kind", value["kind"], [word for kind in kinds for word in kind.kinds])
    return next(kind for kind in kinds if value["kind"] in kind.kinds)


def _items(hints: tuple[Any, ...], values: Any, where: str) -> tuple[Any, ...]:
    """Convert a YAML list to a tuple, of one element type or of a fixed number of them."""
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(values)
    if len(values) != len(hints):
        raise ConfigError(f"{where} is {list(values)}; it must have {len(hints)} values.")
    return tuple(
        _value(hint, value, f"{where}[{i}]") for i, (hint, value) in enumerate(zip(hints, values, strict=True))
    )


_SIDE_MULTIPLE = 32

NONE, BLOCKS = "none", "blocks"
CHECKPOINTING = (NONE, BLOCKS)
"""Kinds of activation checkpointing, see `Recipe`."""


@dataclass(frozen=True)
class CropRecipe:
    """Options of `RandomCrops`. The defaults are those of the published recipes of DELIVER.

    Attributes:
        crop: height and width of the crop, the input size of the network in training; 0 for the model's `image_size`.
        scales: smallest and largest scale; at 1 an image has its evaluation size, see `full_size`.
        flip: probability of a horizontal flip.
        jitter: probability of color jitter: brightness, contrast and saturation of the camera, each by 0.5 … 1.5.
        blur: probability of a blur.
        blurred: modalities to blur.
        sigma: standard deviation of the blur in pixels; None for a random value in 0 … 1.
    """

    crop: int = 0
    scales: tuple[float, float] = (0.5, 2.0)
    flip: float = 0.5
    jitter: float = 0.2
    blur: float = 0.2
    blurred: tuple[str, ...] = (CAMERA,)
    sigma: float | None = 0.8


@dataclass(frozen=True)
class FileData:
    """A data set in files. The model sets the modalities; the data set sets preprocessors, statistics and label space.

    Attributes:
        kind: name of the data set, one of `datasets.dataset_names`.
        crops: augmentation; the image size at scale 1 and in evaluation follows from the model's `image_size`.
        root: folder of the data set; `mlesam train --data`.
        train, held_out: two of its splits.
        options: further arguments of the data set's class, such as weather, source or protocol. In YAML they may stand
            beside the other keys.
    """

    kinds: ClassVar[tuple[str, ...]] = dataset_names()

    kind: str
    crops: CropRecipe = field(default_factory=CropRecipe)
    root: PathText = ""
    train: str = "train"
    held_out: str = "val"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that the splits differ and that the crops are valid.

        Raises:
            ConfigError: names the value and the accepted values.
        """
        if self.train == self.held_out:
            raise ConfigError(f"train and held_out are both {self.train}; the splits must differ.")
        if taken := [key for key in ("root", "modalities", "split") if key in self.options]:
            raise ConfigError(
                f"options has {taken[0]}.", "Set data.root, model.modalities, data.train or data.held_out instead."
            )
        _check_crops(self.crops)

    @classmethod
    def prepared(cls, content: dict[str, Any], where: str) -> dict[str, Any]:
        """Move the options that stand beside the other keys to `options`.

        Raises:
            ConfigError: a key is neither, or is given twice.
        """
        own = [f.name for f in fields(cls)]
        beside = {key: value for key, value in content.items() if key not in own}
        given = content.get("options", {})
        if not beside or not isinstance(given, dict) or "kind" not in content:
            return content
        for key in beside:
            check_choice(f"{where}: key", key, [*own, *dataset_options(content["kind"])])
            if key in given:
                raise ConfigError(f"{where} has {key} in options and beside it.", "Give it once.")
        return {**{key: value for key, value in content.items() if key in own}, "options": {**given, **beside}}


@dataclass(frozen=True)
class BagData:
    """Bags with a ground-truth label topic or a folder of labels. See `labeled_bags.BagOptions`.

    Attributes:
        kind: bags.
        folder: folder of the encoded arrays.
        train, held_out: bags, as folders or files; no bag in both.
        size: (height, width) of the encoded images and labels: the size that a node with `image_size` equal to the
            longer side produces from the camera of the bags.
        space: name or file of the label space.
        truth: topic of the labels, if it does not follow from the topic names of the bags.
        labels: folder of labels that replaces the topic, as `mlesam label` writes it. Its train.txt and held_out.txt
            name the frames of the splits, so that a bag may be in both.
        params: parameter file of the node, which describes the sensors; relative to the recipe.
        parameters: parameter → value, such as `lidar.offset: 0.05`; overrides the file.
        node: fully qualified name of the node whose sections of the file apply.
    """

    kinds: ClassVar[tuple[str, ...]] = ("bags",)

    kind: str
    folder: PathText
    train: tuple[PathText, ...]
    held_out: tuple[PathText, ...]
    size: tuple[int, int]
    space: PathText = "deliver"
    truth: str | None = None
    labels: PathText | None = None
    params: PathText | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    node: str = NODE

    def __post_init__(self) -> None:
        """Check that the bags of the two splits differ and that the size is valid.

        Raises:
            ConfigError: names the value and the accepted values.
        """
        for name in ("train", "held_out"):
            if not getattr(self, name):
                raise ConfigError(f"{name} names no bag; it needs at least one.")
        if self.truth and self.labels:
            raise ConfigError("truth names a topic and labels a folder; labels come from one of them.", "Remove one.")
        for side in self.size:
            _check_side("size", side)
        if self.labels and has_splits(Path(self.labels)):
            return
        trained = {path: bag for bag in self.train for path in _real_paths(bag)}
        for bag in self.held_out:
            if both := [trained[path] for path in _real_paths(bag) if path in trained]:
                also = "" if both[0] == bag else f", there as {both[0]}"
                raise ConfigError(f"{bag} is in held_out and in train{also}; the bags of the two splits must differ.")

    def description(self) -> NodeParameters:
        """Load the sensor parameters.

        Raises:
            ConfigError: the file or a value is not accepted, by the rules of the node.
        """
        return load_parameters(self.params, (), self.node, self.parameters).alone


def _real_paths(bag: str) -> list[str]:
    """Paths, with symbolic links resolved, of a bag and, if it is a folder, of its storage files."""
    paths = [Path(bag)]
    with suppress(OSError):  # a file, or a missing bag whose encoded arrays may still exist
        paths += [path for path in sorted(paths[0].iterdir()) if is_storage(path)]
    return [os.path.realpath(path) for path in paths]


def _check_crops(crops: CropRecipe) -> None:
    if crops.crop:
        _check_side("crop", crops.crop)
    if not 0 < crops.scales[0] <= crops.scales[1]:
        raise ConfigError(f"scales is {list(crops.scales)}; it must be two factors above 0, the smaller one first.")
    for name in ("flip", "jitter", "blur"):
        if not 0 <= getattr(crops, name) <= 1:
            raise ConfigError(f"{name} is {getattr(crops, name)}; it must be from 0 to 1.")


def _check_side(name: str, side: int) -> None:
    if side < _SIDE_MULTIPLE or side % _SIDE_MULTIPLE:
        raise ConfigError(f"{name} is {side}; it must be a multiple of {_SIDE_MULTIPLE}.")


@dataclass(frozen=True)
class Split:
    """A split of the simulated streets. `street_dataset.street_conditions` assigns the conditions to each street.

    Attributes:
        first_seed: seed of the first street; the others follow in ascending order.
        streets: number of streets.
        moments: samples per street, spread evenly over its length.
        weathers: weather → share of the streets.
        faults: fault, or `none` → share of the streets of each weather.
        styles: style, one of `simulation.style.STYLES` → share of the streets of each weather and fault.
    """

    first_seed: int
    streets: int
    moments: int
    weathers: dict[str, float] = field(default_factory=lambda: {"sun": 0.5, "night": 0.5})
    faults: dict[str, float] = field(default_factory=lambda: {NO_FAULT: 1.0})
    styles: dict[str, float] = field(default_factory=lambda: {PLAIN_STYLE: 1.0})

    def __post_init__(self) -> None:
        """Check the counts and shares.

        Raises:
            ConfigError: names the value and the accepted values.
        """
        for name, least in (("first_seed", 0), ("streets", 1), ("moments", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        _shares("weathers", self.weathers, WEATHERS)
        _shares("faults", self.faults, FAULTS)
        _shares("styles", self.styles, tuple(STYLES))


@dataclass(frozen=True)
class StreetData:
    """Simulated streets to render, and the folder of the result.

    Attributes:
        folder: folder of the rendered arrays; relative to the working directory.
        size: height and width in pixels of the encoded images and labels.
        world_size: height and width in pixels of the simulated cameras.
        train, held_out: the splits; their seeds must not overlap.
        processes: number of rendering processes; does not change the data.
        kind: street.
    """

    kinds: ClassVar[tuple[str, ...]] = ("street",)

    folder: PathText
    train: Split
    held_out: Split
    size: int = 256
    world_size: int = 512
    processes: int = 2
    kind: str = "street"

    def __post_init__(self) -> None:
        """Check that the streets of the two splits differ and that the size is valid.

        Raises:
            ConfigError: names the value and the accepted values.
        """
        if self.size < 32 or self.size % 32:
            raise ConfigError(f"size is {self.size}; it must be a multiple of 32.")
        first, second = sorted((self.train, self.held_out), key=lambda split: split.first_seed)
        if first.first_seed + first.streets > second.first_seed:
            raise ConfigError(
                f"train and held_out share the seed {second.first_seed}; the streets of the two splits must differ."
            )


@dataclass(frozen=True)
class Augmentation:
    """Options of `augmentation.Augment`.

    Attributes:
        flip: probability of a horizontal flip.
        zoom: largest magnification of a random crop; 1 for none.
        jitter: largest relative change of brightness, contrast and saturation of the camera image.
        thin: largest share of pixels of sparse modalities (LiDAR, events) to drop.
        heights: heights of the images in pixels, multiples of 32 up to the height of the data: every step crops its
            images to one of them, as the network's images of wide cameras are lower. Empty for the height of the data.
    """

    flip: float = 0.5
    zoom: float = 1.5
    jitter: float = 0.3
    thin: float = 0.3
    heights: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check the heights.

        Raises:
            ConfigError: names the value and the accepted values.
        """
        for height in self.heights:
            _check_side("heights", height)


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes:
        stage: `pretrain` trains a backbone; `experts` trains experts, routers and decoder on a frozen backbone.
        data: the data set; its key `kind` defaults to street.
        model: the model's configuration, see `mlesam_ros.model.model_config.MLESAMConfig`.
        backbone: file or name of the frozen backbone's weights, see `resolve_weights`; for the stage `experts`.
        train_backbone: for `experts`, whether the backbone starts from these weights and is trained together with the
            experts, instead of frozen; the run writes it beside them.
        start: weights to start from instead of random ones: of stage `pretrain` a backbone's; of `experts` a
            checkpoint on the same backbone, of which everything that fits is taken, see `warm_start.start_from`.
        chosen: keys that `recipe_choice.choose` sets once the number of samples is known.
        steps, batch: length of the run, and samples per step over all processes.
        epochs, warmup_epochs: length and warm-up in epochs, instead of `steps` and `warmup`.
        accumulate: number of parts of a batch (gradient accumulation).
        lr, weight_decay, warmup, power, clip: AdamW, the learning rate schedule, and the largest gradient norm.
        muon: whether Muon (`torch.optim.Muon`) instead of AdamW updates the matrices of a trained backbone's blocks.
        mixture: for `pretrain`, modality → share of the images.
        full_share: for `experts`, share of the steps with every modality; the other steps use a random subset.
        alone: for `experts`, modalities that are also decoded without the others of their step, with a loss of their
            own.
        teacher: for `experts`, trained weights of the same modalities and classes: after each step with every modality
            the model imitates them on corrupted images, see `sensor_corruption.corrupted`; none for no such pass.
        distillation_weight: weight of the divergence from the teacher, beside the loss of the labels.
        balance: exponent on the inverse class frequency that weights the loss; 0 for equal weights.
        label_stride: the loss reads every n-th row and column of the labels; 4 is the resolution of the logits.
        ema: decay of the exponential moving average of the weights, which is evaluated and saved; 0 for the weights
            themselves.
        precision: `fp32` or `bf16` (autocast).
        checkpointing: `none`, or `blocks` for less memory and more time; see `trainer.checkpoint_blocks`.
        validate_every: number of steps between evaluations on the held-out rows, of which the best weights are kept
            beside the last; 0 for none before the last step.
        seed: seed of weights, sample order, augmentation and modality dropout.
        robustness: whether the evaluation includes the EMM, RMM and NM protocols.
        device: `auto`, `cpu` or `cuda`.
        threads: CPU threads.
        workers: threads that load and augment the next batches in the background; 0 for none.
        log_every, checkpoint_minutes: steps between log entries and minutes between checkpoints.
        tensorboard: whether the log is also written for TensorBoard; needs the package `tensorboard`.
    """

    stage: str
    data: StreetData | FileData | BagData
    model: dict[str, Any]
    steps: int = 0
    epochs: int = 0
    warmup_epochs: float = 0.0
    backbone: PathText | None = None
    train_backbone: bool = False
    start: PathText | None = None
    chosen: tuple[str, ...] = ()
    batch: int = 8
    accumulate: int = 1
    lr: float = 5e-4
    weight_decay: float = 0.01
    warmup: int = 100
    power: float = 0.9
    clip: float = 1.0
    muon: bool = False
    mixture: dict[str, float] = field(default_factory=lambda: {"camera": 1.0})
    full_share: float = 0.4
    alone: tuple[str, ...] = ()
    teacher: PathText | None = None
    distillation_weight: float = 1.0
    balance: float = 0.0
    label_stride: int = 2
    ema: float = 0.0
    precision: str = "fp32"
    checkpointing: str = NONE
    augmentation: Augmentation = field(default_factory=Augmentation)
    validate_every: int = 0
    seed: int = 3407
    robustness: bool = False
    device: str = "auto"
    threads: int = 2
    workers: int = 0
    log_every: int = 20
    checkpoint_minutes: float = 2.0
    tensorboard: bool = False

    def __post_init__(self) -> None:
        """Check the values and their combinations.

        Raises:
            ConfigError: names the value and the accepted values.
        """
        check_choice("stage", self.stage, ("pretrain", "experts"))
        check_choice("precision", self.precision, ("fp32", "bf16"))
        check_choice("checkpointing", self.checkpointing, CHECKPOINTING)
        check_choice("device", self.device, ("auto", "cpu", "cuda"))
        _shares("mixture", self.mixture, MODALITIES)
        if bool(self.epochs) == bool(self.steps) and "steps" not in self.chosen:
            raise ConfigError(f"steps is {self.steps} and epochs is {self.epochs}.", "Give one of the two.")
        self._check_heights()
        least = dict.fromkeys(("batch", "accumulate", "label_stride", "threads", "log_every"), 1)
        least |= dict.fromkeys(("steps", "epochs", "warmup_epochs", "validate_every"), 0)
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {value}.")
        if self.batch % self.accumulate:
            raise ConfigError(
                f"batch is {self.batch}; with accumulate {self.accumulate} it must be a multiple of that."
            )
        for name in ("ema", "full_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be from 0 to 1.")
        if self.stage == "experts" and not self.backbone:
            raise ConfigError("a recipe of stage experts needs backbone: the file or name of its frozen weights.")
        for name in self.alone:
            check_choice("alone", name, tuple(self.model.get("modalities", MODALITIES)))
        for name in ("teacher", "train_backbone", "alone"):
            if self.stage == "pretrain" and getattr(self, name):
                raise ConfigError(f"{name} is for stage experts.", "Take it out of the recipe.")
        if self.teacher and not self.full_share:
            raise ConfigError("full_share is 0, but a teacher needs steps with every modality.", "Raise full_share.")
        if not (isfinite(self.distillation_weight) and self.distillation_weight >= 0):
            raise ConfigError(f"distillation_weight is {self.distillation_weight}; it must be 0 or more.")

    def _check_heights(self) -> None:
        """Check that the data is as high as every crop."""
        heights, data = self.augmentation.heights, self.data
        if not heights:
            return
        if isinstance(data, FileData):
            raise ConfigError(f"augmentation.heights is for streets and bags; crops cuts {data.kind}.", "Leave it out.")
        size = data.size if isinstance(data, StreetData) else data.size[0]
        if max(heights) > size:
            raise ConfigError(f"augmentation.heights has {max(heights)}; the data is {size} high.")


MUTABLE_KEYS = (
    "threads", "workers", "device", "checkpointing", "log_every", "checkpoint_minutes", "tensorboard", "backbone",
    "teacher", "robustness", "validate_every", "data.folder", "data.processes", "data.root", "data.held_out",
    "data.kind", "epochs", "warmup_epochs",
)  # fmt: skip
"""Keys that may differ between a run and its resumption. A data set in files is identified by its fingerprint, and the
length of a run is compared in steps."""


def load_recipe(path: str | Path, fill: Callable[[Any], Any] = lambda content: content) -> Recipe:
    """Read a recipe and, for bags, check its parameter file.

    Args:
        path: the file.
        fill: receives its content and returns that of a complete recipe.

    Raises:
        ConfigError: a file is missing or not YAML, or a key or value is not accepted.
    """
    recipe = from_mapping(Recipe, fill(read_yaml(path, "recipe")), f"recipe {path}")
    return replace(recipe, data=_beside(recipe.data, path))


def load_data(path: str | Path) -> StreetData | FileData | BagData:
    """Read the data set of a YAML file with the key `data` of a recipe, and any of its other keys.

    Raises:
        ConfigError: see `load_recipe`.
    """
    content, where = read_yaml(path, "data file"), f"data file {path}"
    if not isinstance(content, dict) or "data" not in content:
        raise ConfigError(f"{where} has no key data.", "Indent the keys of the data set below data.")
    for key in content:
        check_choice(f"{where}: key", key, [f.name for f in fields(Recipe)])
    data: StreetData | FileData | BagData = _value(get_type_hints(Recipe)["data"], content["data"], f"{where}: data")
    return _beside(data, path)


def _beside(data: StreetData | FileData | BagData, path: str | Path) -> StreetData | FileData | BagData:
    """Resolve and check the parameter file of bags, which is relative to the recipe."""
    if not isinstance(data, BagData):
        return data
    if data.params is not None:
        data = replace(data, params=str(Path(path).absolute().parent / data.params))
    data.description()
    return data


def scheduled(recipe: Recipe, rows: int) -> Recipe:
    """Convert the length of a run from epochs to steps. An epoch has one step per complete batch."""
    if not recipe.epochs:
        return recipe
    each = rows // recipe.batch
    if not each:
        raise ConfigError(f"batch is {recipe.batch}, but the data set has {rows} samples.", "Reduce batch.")
    steps, warmup = recipe.epochs * each, round(recipe.warmup_epochs * each)
    return replace(recipe, steps=steps, epochs=0, warmup=warmup, warmup_epochs=0.0)


def recipe_dict(recipe: Recipe) -> dict[str, Any]:
    """Convert a recipe to plain JSON types that `load_recipe` accepts as YAML."""
    return asdict(recipe)


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Dotted keys outside `MUTABLE_KEYS` in which two recipes differ."""
    return [key for key in _different(old, new) if key not in MUTABLE_KEYS]


def _different(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            keys += _different(a, b, f"{prefix}{key}.")
        elif a != b:
            keys.append(prefix + key)
    return keys


def _shares(what: str, shares: Mapping[str, float], accepted: tuple[str, ...]) -> None:
    for name, share in shares.items():
        check_choice(f"{what}: name", name, accepted)
        if not (isfinite(share) and share >= 0):
            raise ConfigError(f"{what}: the share of {name} is {share}; it must be 0 or more.")
    if not sum(shares.values()) > 0:
        raise ConfigError(f"{what} is {dict(shares)}; at least one share must be more than 0.")
