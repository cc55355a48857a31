# SPDX-License-Identifier: Apache-2.0
"""Meta's `segment_anything.modeling`: SAM 1's image encoder, two-way transformer and layer norm."""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

_ALIAS = "_segment_anything_modeling"


def _import_modeling() -> ModuleType:
    """Import `segment_anything.modeling` without its parent package.

    `segment_anything/__init__.py` imports the interactive predictor, which imports torchvision; neither is used here.
    The modules of `modeling` import only each other, relatively, so the folder can be loaded as a package of any name,
    whether or not torchvision is installed.

    Raises:
        ModuleNotFoundError: segment-anything is not installed.
    """
    parent = find_spec("segment_anything")  # finds it without importing it
    if parent is None or not parent.submodule_search_locations:
        raise ModuleNotFoundError("segment_anything is missing: pip install segment-anything==1.0")
    folder = Path(parent.submodule_search_locations[0], "modeling")
    spec = spec_from_file_location(_ALIAS, folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[_ALIAS] = module
    spec.loader.exec_module(module)
    return module


_modeling = _import_modeling()
image_encoder: Any = _modeling.image_encoder
"""Module of the ViT image encoder."""
Attention: Any = _modeling.transformer.Attention
TwoWayTransformer: Any = _modeling.transformer.TwoWayTransformer
LayerNorm2d: Any = _modeling.common.LayerNorm2d
