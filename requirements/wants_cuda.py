# SPDX-License-Identifier: Apache-2.0
"""Exits with 0 where the PyTorch that was installed wants NVIDIA's libraries, as that of the public index does."""

from importlib import metadata

raise SystemExit(not any(line.startswith("nvidia-") for line in metadata.requires("torch") or ()))
