"""Registry of the published data sets by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from mlesam_ros.errors import ConfigError
from mlesam_training.datasets.deliver import Deliver
from mlesam_training.datasets.labelled_dataset import FileDataset
from mlesam_training.datasets.mcubes import MCubeS
from mlesam_training.datasets.muses import Muses

DATASETS: dict[str, Callable[..., FileDataset]] = {"deliver": Deliver, "muses": Muses, "mcubes": MCubeS}


def open_dataset(name: str, split: str, options: Mapping[str, Any]) -> FileDataset:
    """Open one split of a published data set.

    Args:
        name: deliver, muses or mcubes.
        split: name of the split in the data set.
        options: `root`, and further arguments of the data set's class, such as modalities, weather or protocol.

    Raises:
        ConfigError: a name or option is unknown, or a value is not accepted.
        DatasetError: a file of the expected layout is missing.
    """
    if name not in DATASETS:
        raise ConfigError(f"data set {name!r} is not known; {_nearest(name, DATASETS)}")
    accepted = [key for key in inspect.signature(DATASETS[name]).parameters if key != "split"]
    for key in options:
        if key not in accepted:
            raise ConfigError(f"data set {name} has no option {key!r}; {_nearest(key, accepted)}")
    if "root" not in options:
        raise ConfigError(f"data set {name} lacks root: the folder in which it lies.")
    return DATASETS[name](split=split, **options)


def _nearest(word: str, accepted: Any) -> str:
    near = difflib.get_close_matches(word, accepted, 1)
    return f"did you mean {near[0]}?" if near else f"accepted are {', '.join(accepted)}."
