# SPDX-License-Identifier: Apache-2.0
"""Optional packages, and the extra of `pip install mlesam_ros[EXTRA]` that brings each of them."""

from __future__ import annotations

import platform
from importlib.util import find_spec

from mlesam_ros.errors import PackageError

OPEN3D = "open3d-cpu" if platform.machine() == "x86_64" else "open3d"
"""The build without CUDA, a fifth of the size; there is one for x86-64 only."""
EXTRAS = {
    "h5py": ("train", "h5py"),
    "jinja2": ("report", "jinja2"),
    "nncf": ("export", "nncf"),
    "onnx": ("export", "onnx"),
    "onnxruntime": ("onnx", "onnxruntime"),
    "onnxscript": ("export", "onnxscript"),
    "open3d": ("sim", OPEN3D),
    "openvino": ("openvino", "openvino"),
    "tensorboard": ("train", "tensorboard"),
}
"""Module → (extra, name of the distribution)."""


def is_installed(module: str) -> bool:
    """Whether the package of a module is installed. Does not import it."""
    return find_spec(module) is not None


def require_extra(module: str, purpose: str) -> None:
    """Check that the package of an extra is installed. Does not import it.

    Args:
        module: key of `EXTRAS`.
        purpose: subject of the message, such as "the simulated street".

    Raises:
        PackageError: it is not installed.
    """
    if not is_installed(module):
        extra, distribution = EXTRAS[module]
        raise PackageError(
            f"{purpose} needs the package {distribution}, which is not installed.",
            f"Install it with pip install {distribution}, or with the whole extra: pip install 'mlesam_ros[{extra}]'.",
        )
