# SPDX-License-Identifier: Apache-2.0
"""Model configuration. Choices that the paper leaves open are fields; their defaults are this package's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from torch import nn

from mlesam_ros.errors import ConfigError, MlesamError
from mlesam_ros.labels import LabelSpace, load_label_space
from mlesam_ros.model.backbones import BACKBONES, STRIDE
from mlesam_ros.preprocessing.base import Normalization
from mlesam_ros.strict_yaml import check_choice, short_repr
from mlesam_ros.types import MODALITIES, Modality

CHOICES: dict[str, tuple[str, ...]] = {
    "gate": ("linear", "sigmoid"),
    "features": ("average", "routed", "both"),
    "combine": ("mean", "sum", "concat"),
    "fuse": ("mean", "max_confidence", "main"),
}
"""Field → accepted values."""

_MAX_ABS = 1e6  # of a mean or standard deviation

MODALITY_NAME_RULE = "any string without a dot that is not a method of torch's ModuleDict, such as keys or type"
"""Description of valid modality names."""


def is_valid_modality(text: Any) -> bool:
    """Whether a modality may have that name: it is the key of its expert in a `ModuleDict`."""
    return isinstance(text, str) and bool(text) and "." not in text and not hasattr(nn.ModuleDict, text)


@dataclass(frozen=True)
class MLESAMConfig:
    """Configuration of a model. The defaults describe the shipped model; `paper()` describes the paper's.

    Attributes:
        backbone: a name in `backbones.BACKBONES`.
        modalities: the experts, in stacking order; any distinct names without a dot.
        label_space: the C classes.
        rank: of the LoRA experts. Paper: 32.
        image_size: long side in pixels of the network's input images, a multiple of 32, see `network_size`. Paper:
            1024.
        preprocessors: modality → name of its preprocessor; empty where the caller supplies the images.
        normalization: modality → mean and standard deviation of the preprocessor's normalization in training; checked
            before inference.
        settings: modality → settings of its preprocessor in training, such as the window of events; the preprocessor's
            defaults where an entry is missing, as in checkpoints of earlier versions.
        gate: whether the router's scores pass a sigmoid before the softmax. The σ in the paper's Eq. 8 can be read
            either way; the default is the plain softmax.
        router_width: hidden units of the router's scoring; 0 for one linear layer, as in the paper's formula.
        top_k: number of modalities that a level keeps. Unknown in the paper.
        renormalize: whether the weights kept by top-k are scaled to sum to one, which equals a softmax over the kept
            ones alone. Unknown in the paper.
        features: input of the decoder: the plain average over the modalities, the routed sum, or both.
        combine: with both, their mean, their sum, or a trained 1x1 convolution of their concatenation that is
            initialized as the mean. Unknown in the paper; the mean keeps the scale that SAM's decoder was trained on.
        auxiliary: whether there is an auxiliary head.
        fuse: combination of the two heads: mean of the logits, per pixel the more confident head, or the main head
            alone. Unknown in the paper.
        temperatures: subset of the modalities, see `subset_name` → divisor of its logits that calibrates the confidence
            (temperature scaling, arXiv 1706.04599); 1 where an entry is missing.
    """

    backbone: str = "hiera_nano"
    modalities: tuple[Modality, ...] = MODALITIES
    label_space: LabelSpace = field(default_factory=lambda: load_label_space("deliver"))
    rank: int = 16
    image_size: int = 256
    preprocessors: Mapping[Modality, str] = field(default_factory=dict)
    normalization: Mapping[Modality, Normalization] = field(default_factory=dict)
    settings: Mapping[Modality, Mapping[str, Any]] = field(default_factory=dict)
    gate: str = "linear"
    router_width: int = 0
    top_k: int = 2
    renormalize: bool = True
    features: str = "both"
    combine: str = "mean"
    auxiliary: bool = True
    fuse: str = "mean"
    temperatures: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Validate the values.

        Raises:
            ConfigError: names the value and the accepted ones.
        """
        for name, accepted in {"backbone": tuple(BACKBONES), **CHOICES}.items():
            check_choice(name, getattr(self, name), accepted)
        for name, least in {"rank": 1, "top_k": 1, "image_size": 1, "router_width": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigError(f"{name} is {value!r}; it must be an integer of at least {least}.")
        if self.image_size % STRIDE:
            raise ConfigError(f"image_size is {self.image_size}; it must be a multiple of {STRIDE}.")
        names = list(self.modalities)
        if not names or len(set(names)) < len(names) or not all(map(is_valid_modality, names)):
            raise ConfigError(f"modalities are {names}.", f"Give one or more distinct names: {MODALITY_NAME_RULE}.")
        for key in ("preprocessors", "normalization", "settings"):
            foreign = sorted(set(getattr(self, key)) - set(names))
            if foreign:
                raise ConfigError(f"{key} names {', '.join(foreign)}, but the modalities are {', '.join(names)}.")
        for modality, preprocessor in self.preprocessors.items():
            if not isinstance(preprocessor, str):
                raise ConfigError(
                    f"preprocessors names {short_repr(preprocessor)} for {modality}; accepted is the name of one."
                )
        for modality, pair in self.normalization.items():
            if not _is_normalization(pair):
                raise ConfigError(
                    f"normalization of {modality} is {short_repr(pair)}; it must be two times three finite numbers, "
                    "mean and standard deviation, the second above 0."
                )

        self._check_temperatures()

    def _check_temperatures(self) -> None:
        for subset, value in self.temperatures.items():
            named = {*subset.split(SUBSET_SEPARATOR)}
            known = subset == subset_name(m for m in self.modalities if m in named)
            if not known or isinstance(value, bool) or not 0 < value < _MAX_ABS:
                raise ConfigError(
                    f"temperatures has {short_repr(value)} for {short_repr(subset)}; accepted are finite numbers above "
                    f"0 for subsets of {subset_name(self.modalities)}, in this order."
                )

    @classmethod
    def paper(cls, **changes: Any) -> MLESAMConfig:
        """Configuration of the paper, where it is specified."""
        return cls(**{"backbone": "hiera_base_plus", "rank": 32, "image_size": 1024, **changes})

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MLESAMConfig:
        """Build from plain JSON or YAML types.

        Args:
            values: any of the fields; `label_space` is a shipped name, the path of a YAML file, or a mapping.

        Raises:
            ConfigError: an unknown key or an invalid value.
            LabelError: the label space is malformed.
        """
        for key in values:
            check_choice("model key", key, tuple(f.name for f in fields(cls)))
        try:
            return cls(**_convert(values))
        except MlesamError:
            raise
        except (TypeError, ValueError, AttributeError) as error:  # a list where a mapping belongs, and the like
            raise ConfigError(f"the model's configuration has a value of the wrong kind: {error}.") from error

    def to_dict(self) -> dict[str, Any]:
        """Convert to plain JSON types; inverse of `from_dict`."""
        values = asdict(self)
        values["modalities"] = list(self.modalities)
        values["label_space"] = self.label_space.to_dict()
        values["preprocessors"] = dict(self.preprocessors)
        values["settings"] = {m: dict(own) for m, own in self.settings.items()}
        values["temperatures"] = dict(self.temperatures)
        values["normalization"] = {m: [list(mean), list(std)] for m, (mean, std) in self.normalization.items()}
        return values


SUBSET_SEPARATOR = "+"


def subset_name(modalities: Iterable[Modality]) -> str:
    """Name of a subset of the modalities, such as `camera+lidar`; the order is that of the experts."""
    return SUBSET_SEPARATOR.join(modalities)


def network_size(camera: tuple[int, int], image_size: int) -> tuple[int, int]:
    """(h, w) of the network's images for a camera of (height, width).

    The long side is `image_size`; the short side keeps the aspect ratio, rounded to a multiple of 32 (halves up, so
    that 16:9 at 256 becomes 256x160), and is at least 32. Node, evaluation and training all use this function.
    """
    longest = max(camera)
    cells = [max(1, (2 * side * image_size + longest * STRIDE) // (2 * longest * STRIDE)) for side in camera]
    return cells[0] * STRIDE, cells[1] * STRIDE


def _convert(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert plain JSON values to the types of the fields."""
    ready = dict(values)
    if "modalities" in ready:
        ready["modalities"] = tuple(ready["modalities"])
    if "label_space" in ready:
        space = ready["label_space"]
        ready["label_space"] = LabelSpace.from_dict(space) if isinstance(space, dict) else load_label_space(space)
    if "normalization" in ready:
        ready["normalization"] = {m: (tuple(mean), tuple(std)) for m, (mean, std) in ready["normalization"].items()}
    if "settings" in ready:
        ready["settings"] = {m: dict(own) for m, own in ready["settings"].items()}
    return ready


def _is_normalization(pair: Any) -> bool:
    """Whether a pair is (mean, standard deviation) of three channels."""
    numbers = [value for values in pair for value in values]
    if len(pair) != 2 or [len(values) for values in pair] != [3, 3]:
        return False
    real = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in numbers)
    return real and all(-_MAX_ABS <= value <= _MAX_ABS for value in numbers) and min(pair[1]) > 0
