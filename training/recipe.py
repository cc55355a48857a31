"""Recipes: everything that decides what a training run makes, in one YAML file."""

from __future__ import annotations

import difflib
import types
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from mlesam_ros.errors import ConfigError
from mlesam_ros.frame import MODALITIES

T = TypeVar("T")


@dataclass(frozen=True)
class Split:
    """A part of the data set. Every second street is at night.

    Attributes:
        first_seed: seed of the first street; they are numbered upwards from it.
        streets: how many.
        moments: moments taken from each, spread over its length.
    """

    first_seed: int
    streets: int
    moments: int


@dataclass(frozen=True)
class Data:
    """What to render and where to keep it.

    Attributes:
        folder: of the rendered arrays; relative to the working directory.
        size: height and width in pixels of the encoded pictures and labels.
        world_size: height and width in pixels that the simulated cameras have.
        train, held_out: the parts; their seeds must not overlap.
        processes: that render side by side; it does not change the data.
    """

    folder: str
    train: Split
    held_out: Split
    size: int = 256
    world_size: int = 512
    processes: int = 2

    def __post_init__(self) -> None:
        """Refuse a test on streets that the network has seen.

        Raises:
            ConfigError: the seeds overlap.
        """
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
        data: the data set.
        model: the model's configuration, see `mlesam_ros.model.config.MLESAMConfig`.
        backbone: file of the frozen backbone's weights; for the stage `experts`.
        start: file that the stage made before, to begin with instead of random weights.
        steps, batch: length of the run, and moments per step.
        lr, weight_decay, warmup, power, clip: AdamW, the schedule, and the largest norm of the gradient.
        mixture: for `pretrain`, modality → share of the pictures.
        full_share: for `experts`, share of the steps with every modality; the others see a random subset.
        balance: exponent on the inverse class frequency that weighs the loss; 0 for equal weights.
        label_stride: the loss looks at every n-th row and column of the labels; 4 is the size of the logits.
        precision: `fp32` or `bf16` (autocast).
        seed: of weights, order, augmentation and modality dropout.
        threads, log_every, checkpoint_minutes: how it runs; they do not change what it makes.
    """

    stage: str
    data: Data
    model: dict[str, Any]
    steps: int
    backbone: str | None = None
    start: str | None = None
    batch: int = 8
    lr: float = 5e-4
    weight_decay: float = 0.01
    warmup: int = 100
    power: float = 0.9
    clip: float = 1.0
    mixture: dict[str, float] = field(default_factory=lambda: {"camera": 1.0})
    full_share: float = 0.4
    balance: float = 0.0
    label_stride: int = 2
    precision: str = "fp32"
    augmentation: Augmentation = field(default_factory=Augmentation)
    seed: int = 3407
    threads: int = 2
    log_every: int = 20
    checkpoint_minutes: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what could not run to its end.

        Raises:
            ConfigError: with the value and what is accepted.
        """
        _one_of("stage", self.stage, ("pretrain", "experts"))
        _one_of("precision", self.precision, ("fp32", "bf16"))
        for modality in self.mixture:
            _one_of("modality in mixture", modality, MODALITIES)
        for name in ("steps", "batch", "label_stride", "threads", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if self.stage == "experts" and not self.backbone:
            raise ConfigError("a recipe of stage experts needs backbone: the file of the frozen backbone's weights.")


# What may change between a killed run and the one that resumes it.
FREE = ("threads", "log_every", "checkpoint_minutes", "backbone")


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Raises:
        ConfigError: no such file, not YAML, or a key or value that is not accepted.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"recipe {path} cannot be read: {' '.join(str(error).split())}.") from error
    return _build(Recipe, content, f"recipe {path}")


def recipe_dict(recipe: Recipe) -> dict[str, Any]:
    """Plain JSON types that `load_recipe` would accept as YAML."""
    return asdict(recipe)


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Keys, dotted, on which two recipes make different things."""
    return [key for key in _different(old, new) if key not in (*FREE, "data.folder", "data.processes")]


def _different(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            keys += _different(a, b, f"{prefix}{key}.")
        elif a != b:
            keys.append(prefix + key)
    return keys


def _one_of(what: str, value: str, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        near = difflib.get_close_matches(str(value), accepted, 1)
        hint = f"did you mean {near[0]}?" if near else f"accepted are {', '.join(accepted)}."
        raise ConfigError(f"{what} {value!r} is not known; {hint}")


def _build(kind: type[T], content: Any, where: str) -> T:
    """A dataclass from a mapping, nested ones included."""
    if not isinstance(content, dict):
        raise ConfigError(f"{where} is {content!r}; it must be a mapping.")
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for key in content:
        _one_of(f"{where}: key", key, tuple(known))
    needed = [n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING]
    if missing := [name for name in needed if name not in content]:
        raise ConfigError(f"{where} lacks {' and '.join(missing)}.")
    hints = get_type_hints(kind)
    return kind(**{key: _value(hints[key], value, f"{where}: {key}") for key, value in content.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    """The value, if it is of the type; integers are taken for floats."""
    if is_dataclass(hint):
        return _build(hint, value, where)  # type: ignore[arg-type]
    if get_origin(hint) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        return None if value is None else _value(kinds[0], value, where)
    kind = get_origin(hint) or hint
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where} is {value!r}; it must be of type {kind.__name__}.")
    return value
