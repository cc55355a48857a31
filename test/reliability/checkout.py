# SPDX-License-Identifier: Apache-2.0
"""Import paths for the scripts of this folder: the checkout and the shared helpers of the tests."""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT / folder) for folder in (".", "tools", "benchmarks", "test", "test/ros")]
