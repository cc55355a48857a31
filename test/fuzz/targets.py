# SPDX-License-Identifier: Apache-2.0
"""Everything that is attacked with seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import files
import live

import weights


def all_targets(folder: Path) -> dict[str, Any]:
    """Name → target; their files go into the folder."""
    return {**live.targets(), **files.file_targets(folder), **weights.weights_targets(folder)}
