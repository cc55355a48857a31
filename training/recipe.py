"""Recipes: everything that decides what a training run makes, in one YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

from mlesam_ros.errors import ConfigError
from mlesam_ros.frame import MODALITIES
from mlesam_ros.strict_yaml import read_yaml
from mlesam_ros.training.checkpointing import CHECKPOINTING, NONE
from mlesam_ros.training.fields import PathText, check_choice, from_mapping
from mlesam_ros.training.sets import BagData, PublishedData
from mlesam_ros.world.faults import FAULTS, NO_FAULT
from mlesam_ros.world.weather import WEATHERS


@dataclass(frozen=True)
class Split:
    """A part of the street. See `conditions` for which street has which weather and fault.

    Attributes:
        first_seed: seed of the first street; they are numbered upwards from it.
        streets: how many.
        moments: moments taken from each, spread over its length.
        weathers: weather → share of the streets.
        faults: fault, or `none` → share of the streets of each weather.
    """

    first_seed: int
    streets: int
    moments: int
    weathers: dict[str, float] = field(default_factory=lambda: {"sun": 0.5, "night": 0.5})
    faults: dict[str, float] = field(default_factory=lambda: {NO_FAULT: 1.0})

    def __post_init__(self) -> None:
        """Refuse what is no part of a street.

        Raises:
            ConfigError: names the value and what is accepted.
        """
        for name, least in (("first_seed", 0), ("streets", 1), ("moments", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {least}.")
        _shares("weathers", self.weathers, WEATHERS)
        _shares("faults", self.faults, FAULTS)


@dataclass(frozen=True)
class Data:
    """What to render and where to keep it.

    Attributes:
        folder: of the rendered arrays; relative to the working directory.
        size: height and width in pixels of the encoded pictures and labels.
        world_size: height and width in pixels that the simulated cameras have.
        train, held_out: the parts; their seeds must not overlap.
        processes: that render side by side; it does not change the data.
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
        """Refuse a test on streets that the network has seen, and pictures that no network reads.

        Raises:
            ConfigError: names the value and what is accepted.
        """
        if self.size < 32 or self.size % 32:
            raise ConfigError(f"size is {self.size}; it must be a multiple of 32.")
        first, second = sorted((self.train, self.held_out), key=lambda split: split.first_seed)
        if first.first_seed + first.streets > second.first_seed:
            raise ConfigError(
                f"train and held_out share the seed {second.first_seed}; a held-out street must be one never seen."
            )


@dataclass(frozen=True)
class Augmentation:
    """How samples are varied. See `transforms.Augment`.

    Attributes:
        flip: probability of a mirrored sample.
        zoom: largest factor by which a random crop is magnified; 1 for none.
        jitter: largest relative change of brightness, contrast and saturation of the camera's picture.
        thin: largest share of sparse returns (LiDAR, events) that are dropped.
    """

    flip: float = 0.5
    zoom: float = 1.5
    jitter: float = 0.3
    thin: float = 0.3


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes:
        stage: `pretrain` makes a backbone, `experts` makes experts, routers and decoder on a frozen one.
        data: the data set; its key `kind` is street where it is not said.
        model: the model's configuration, see `mlesam_ros.model.config.MLESAMConfig`.
        backbone: file of the frozen backbone's weights; for the stage `experts`.
        start: file that the stage made before, to begin with instead of random weights.
        steps, batch: length of the run, and moments per step over all processes.
        epochs, warmup_epochs: the length and the warm-up in passes through the data, instead of `steps` and `warmup`.
        accumulate: parts into which a batch is cut where it does not fit into memory at once.
        lr, weight_decay, warmup, power, clip: AdamW, the schedule, and the largest norm of the gradient.
        mixture: for `pretrain`, modality → share of the pictures.
        full_share: for `experts`, share of the steps with every modality; the others see a random subset.
        balance: exponent on the inverse class frequency that weighs the loss; 0 for equal weights.
        label_stride: the loss looks at every n-th row and column of the labels; 4 is as many as the logits have.
        ema: decay of the running average of the weights that is measured and saved; 0 for the weights themselves.
        precision: `fp32` or `bf16` (autocast).
        checkpointing: `none`, or `blocks` for less memory and more time; see `checkpointing`.
        seed: of weights, order, augmentation and modality dropout.
        robustness: whether the evaluation tries missing, holed and noisy sensors as well.
        device: `auto`, `cpu` or `cuda`.
        threads: of the CPU.
        workers: threads that read and vary the next batches meanwhile; 0 for none.
        log_every, checkpoint_minutes: steps and minutes between what is written.
    """

    stage: str
    data: Data | PublishedData | BagData
    model: dict[str, Any]
    steps: int = 0
    epochs: int = 0
    warmup_epochs: float = 0.0
    backbone: PathText | None = None
    start: PathText | None = None
    batch: int = 8
    accumulate: int = 1
    lr: float = 5e-4
    weight_decay: float = 0.01
    warmup: int = 100
    power: float = 0.9
    clip: float = 1.0
    mixture: dict[str, float] = field(default_factory=lambda: {"camera": 1.0})
    full_share: float = 0.4
    balance: float = 0.0
    label_stride: int = 2
    ema: float = 0.0
    precision: str = "fp32"
    checkpointing: str = NONE
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 3407
    robustness: bool = False
    device: str = "auto"
    threads: int = 2
    workers: int = 0
    log_every: int = 20
    checkpoint_minutes: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what could not run to its end.

        Raises:
            ConfigError: with the value and what is accepted.
        """
        check_choice("stage", self.stage, ("pretrain", "experts"))
        check_choice("precision", self.precision, ("fp32", "bf16"))
        check_choice("checkpointing", self.checkpointing, CHECKPOINTING)
        check_choice("device", self.device, ("auto", "cpu", "cuda"))
        _shares("mixture", self.mixture, MODALITIES)
        if bool(self.epochs) == bool(self.steps):
            raise ConfigError(f"steps is {self.steps} and epochs is {self.epochs}.", "Give one of the two.")
        least = dict.fromkeys(("batch", "accumulate", "label_stride", "threads", "log_every"), 1)
        for name, value in {**dict.fromkeys(("steps", "epochs", "warmup_epochs"), 0), **least}.items():
            if getattr(self, name) < value:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least {value}.")
        if self.batch % self.accumulate:
            raise ConfigError(f"batch is {self.batch}; with accumulate {self.accumulate} it must be a multiple of it.")
        for name in ("ema", "full_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be from 0 to 1.")
        if self.stage == "experts" and not self.backbone:
            raise ConfigError("a recipe of stage experts needs backbone: the file of the frozen backbone's weights.")


FREE = (
    "threads", "workers", "device", "checkpointing", "log_every", "checkpoint_minutes", "backbone", "robustness",
    "data.folder", "data.processes", "data.root", "data.held_out", "data.kind", "epochs", "warmup_epochs",
)  # fmt: skip
"""What may change between a killed run and the one that resumes it: a published set is known by its fingerprint, and
the length of a run counts in steps."""


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Raises:
        ConfigError: no such file, not YAML, or a key or value that is not accepted, its parameter file's among them.
    """
    recipe = from_mapping(Recipe, read_yaml(path, "recipe"), f"recipe {path}")
    data = recipe.data
    if not isinstance(data, BagData):
        return recipe
    if data.params is not None:
        data = replace(data, params=str(Path(path).absolute().parent / data.params))
    data.description()
    return replace(recipe, data=data)


def scheduled(recipe: Recipe, rows: int) -> Recipe:
    """The same run with its length in steps: an epoch is as many as there are whole batches in the data."""
    if not recipe.epochs:
        return recipe
    each = rows // recipe.batch
    if not each:
        raise ConfigError(f"batch is {recipe.batch}, but the data set has {rows} moments.", "Take fewer.")
    steps, warmup = recipe.epochs * each, round(recipe.warmup_epochs * each)
    return replace(recipe, steps=steps, epochs=0, warmup=warmup, warmup_epochs=0.0)


def recipe_dict(recipe: Recipe) -> dict[str, Any]:
    """Plain JSON types that `load_recipe` would accept as YAML."""
    return asdict(recipe)


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Keys, dotted, on which two recipes make different things."""
    return [key for key in _different(old, new) if key not in FREE]


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
