# SPDX-License-Identifier: Apache-2.0
"""Performance targets and optimizations, with the benchmark results that measure them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Result = Mapping[str, Any]
Row = Mapping[str, Any]

_GPU = "four sensors, 1024x1024, Hiera-B+, bf16, H200-class GPU"
_PLAIN = "one sensor after the other"
_NODE = "1080p, 131072 points, 300000 events"


def speedup_of(row: Row) -> float:
    """Speedup over the alternative: by processor time where it was measured, otherwise by wall-clock time."""
    if row.get("cpu") and row.get("alternative_cpu"):
        return float(row["alternative_cpu"] / row["cpu"])
    return float(row["ratio"])


@dataclass(frozen=True)
class Target:
    """A performance target and the benchmark row that measures it.

    Attributes:
        words: description of the target.
        limit: the limit as text.
        result: file in benchmarks/results/ without suffix; empty if there is no benchmark.
        row, alternative: prefixes of the row's name and of its alternative.
        figure: computes the measured value from the row.
        unit: unit of the value.
        least, most: inclusive range of accepted values.
        gpu: whether only a result measured on a GPU counts.
        core: whether a result from a CPU is then shown as processor time.
        remark: additional text for the table.
    """

    words: str
    limit: str
    result: str = ""
    row: str = ""
    alternative: str = ""
    figure: Callable[[Row], float] = speedup_of
    unit: str = "times"
    least: float = -math.inf
    most: float = math.inf
    gpu: bool = False
    core: bool = False
    remark: str = ""

    def found(self, result: Result) -> Row:
        """Return the row that measures the target.

        Raises:
            StopIteration: no row matches.
        """
        rows: list[Row] = [r for r in result["rows"] if r["name"].startswith(self.row)]
        return next(r for r in rows if (r["alternative"] or "").startswith(self.alternative))

    def verdict(self, result: Result | None) -> tuple[str, str]:
        """Return whether the target is reached, as text, and the formatted value."""
        if result is None:
            return ("not measured" if self.gpu else ""), ""
        row, config = self.found(result), result["config"]
        found = self.figure(row)
        if self.gpu and not str(config["device"]).startswith("cuda"):
            figure = f"{_short(row['cpu'])} {self.unit} of a core" if self.core else f"{_short(found)} {self.unit}"
            return "not measured", f"{config['backbone']} at {config['size']} pixels on a CPU: {figure}"
        reached = "reached" if self.least <= found <= self.most else "not reached"
        return f"**{reached}**", f"{_short(found)} {self.unit}"


def _short(value: float) -> str:
    return f"{float(f'{value:.3g}'):g}"


def _median(row: Row) -> float:
    return float(row["median"])


def _seconds(row: Row) -> float:
    return float(row["median"]) / 1e3


def _part(row: Row) -> float:
    return 1 / speedup_of(row)


GOALS = (
    Target(f"Network, {_GPU}, median", "≤ 10 ms", "model", "hiera_nano", _PLAIN, _median, "ms",
         most=10, gpu=True, core=True),
    Target("… stamp to mask, 99th percentile", "≤ 20 ms", gpu=True),
    Target("… beside the plain way: sensor by sensor, eager, LoRA wrappers, fp32", "≥ 5 times as fast",
         "model", "hiera_nano", _PLAIN, least=5, gpu=True),
    Target("… beside the frozen encoder alone, same batch and precision", "≤ 1.15 of its time", "model",
         "hiera_nano", "the frozen encoder", _part, "of its time", most=1.15, gpu=True),
    Target("… from weights in memory to ready", "≤ 60 s", "model", "hiera_nano 256x256, 4 sensors, bf16: from", "",
         _seconds, "s", most=60, gpu=True),
    Target("hiera_nano, four sensors, in the full node on two cores", "≥ 10 Hz", "node", "512x512, street robot: masks",
         "", _median, "Hz", least=10, remark="the rate of the sensors"),
    Target(f"Node: all but the network, {_NODE}, stamp to publish", "≤ 5 ms", "node",
         f"{_NODE}: everything but the model", "", _median, "ms", most=5, remark="see [the node](#the-node)"),
    Target("131,072 points projected, beside OpenCV", "≥ 8 times", "sensors", "project 131072 points of a sweep",
         "", least=8),
    Target("300,000 events counted, beside `np.add.at`", "≥ 20 times as fast", "sensors", "count 300000 events",
         "np.add.at", least=20, remark="as fast as NumPy writes to as many places"),
    Target("Synchronizer, per message of four sensors, events at 1 kHz", "≤ 50 µs", "sync",
         "message of 4 modalities, 30 Hz", "", _median, "µs", most=50),
    Target("Memory of the node over an hour", "flat", remark="`make soak`: [reliability.md](reliability.md)"),
)  # fmt: skip
"""Performance targets, in the order of the docs page."""


@dataclass(frozen=True)
class OptionResult:
    """An optimization that can be turned off, its test and its measured speedup.

    Attributes:
        name: the option that turns it off.
        words: description.
        test: test that compares its output with that of the plain implementation.
        tolerance: tolerance of this comparison.
        rows: (result, suffix of the row's name) pairs that measure its speedup.
        unmeasured: why there is no measurement; empty if there is one.
    """

    name: str
    words: str
    test: str
    tolerance: str
    rows: tuple[tuple[str, str], ...] = ()
    unmeasured: str = ""

    def speedup(self, results: Mapping[str, Result]) -> str:
        """Format the measured speedups as text, with the memory where the option changes it."""
        parts = []
        for name, end in self.rows:
            row = next(r for r in results[name]["rows"] if r["name"].endswith(end))
            memory = ""
            if abs(row["memory"] - row["alternative_memory"]) > _SAME_MEMORY * row["memory"]:
                memory = f", {row['memory']:.3g} MB ({row['alternative_memory']:.3g})"
            where = row["name"].partition(":")[0]
            parts.append(f"{where}: ×{speedup_of(row):.2f}{memory}")
        return "; ".join([*parts, *filter(None, [self.unmeasured])])


_FAST = "test/model/test_inference.py"
_EACH = f"{_FAST}::test_each_option_equals_the_reference"
ROUNDING = "1e-5 of the largest logit and of a weight, fp32"
"""The usual tolerance."""
_SAME_MEMORY = 0.05
"""Largest relative change of the memory that is not shown."""
_NO_GPU = "no effect on a CPU"

SWITCHES = (
    OptionResult("`InferenceOptions.merged`", "one Q/K/V matrix per sensor, no low-rank product", _EACH, ROUNDING,
           (("paths", "merged"),)),
    OptionResult("`InferenceOptions.cache_pos_embed`", "cached positional embedding of Hiera", _EACH, ROUNDING,
           (("paths", "cache_pos_embed"),)),
    OptionResult("`InferenceOptions.fused_rel_pos`", "SAM 1's relative positions inside a fused attention", _EACH,
           ROUNDING, (("paths_vit_b", "fused_rel_pos"),)),
    OptionResult("`InferenceOptions.channels_last`", "memory format `channels_last`", _EACH, ROUNDING,
           (("paths", "channels_last"),)),
    OptionResult("`InferenceOptions.graphs`", "a CUDA graph per subset of the sensors and image size",
           "test/model/test_inference.py::test_every_subset_is_captured_once_and_equals_the_reference",
           "labels of 99.9 % of the pixels, confidence 1/255, weights 1e-5", unmeasured=_NO_GPU),
    OptionResult("`precision`", "bf16 where it is faster",
           f"{_FAST}::test_options_add_little_error_in_bf16",
           "1.5 times the error of bf16 alone, below 10 %", (("paths", "precision"),)),
    OptionResult("all of these", "", f"{_FAST}::test_all_options_together_equal_the_reference",
           ROUNDING, (("paths", "all of these"), ("paths_vit_b", "all of these"))),
    OptionResult("`Pipeline.encodes_on_device`", "range, intensity, height, depth on the device",
           "test/preprocessing/test_cuda.py::test_any_lens_size_and_dilation",
           "the same points on a CPU; a GPU may round at edges", unmeasured=_NO_GPU),
)  # fmt: skip
"""Optimizations, in the order of the docs page."""
