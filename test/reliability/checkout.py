"""Lets a script of this folder find the package of its own checkout, and what the tests share."""

import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(CHECKOUT / folder) for folder in (".", "tools", "benchmarks", "test", "test/ros")]
