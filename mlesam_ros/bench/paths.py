"""What every fast path of the network brings: all of them together, beside all but one, in turn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

from mlesam_ros.bench.model import Options, facts
from mlesam_ros.bench.row import Row, row
from mlesam_ros.bench.timing import interleaved
from mlesam_ros.model.backbones import HieraSize, backbone_size
from mlesam_ros.model.fast_paths import PLAIN, FastPaths

__all__ = ["Options", "facts", "run"]

_WORDS = {
    "merged": "low-rank products beside the frozen ones",
    "keeps_position": "Hiera's positional code made for each picture",
    "folded": "SAM 1's attention as Meta writes it",
    "channels_last": "feature maps channel by channel",
    "compiler": "eager",
}


def run(repeats: int, options: Options | None = None) -> list[Row]:
    """Time each.

    Args:
        repeats: how often.
        options: what is measured; with a compiler, that is one of the paths.
    """
    options = options or Options()
    paths = FastPaths(compiler=options.compiler)
    names = [field.name for field in fields(FastPaths) if _matters(field.name, options)]
    ways = [paths, *(_without(paths, name) for name in names), PLAIN]
    timings = interleaved([_frame(options, way) for way in ways], repeats)
    ours, *others, plain = timings
    rows = [
        row(f"{options.name}: {name}", "ms", 1e3, ours, (_WORDS[name], timing))
        for name, timing in zip(names, others, strict=True)
    ]
    return [*rows, row(f"{options.name}: all of these", "ms", 1e3, ours, ("none of them, same batch", plain))]


def _without(paths: FastPaths, name: str) -> FastPaths:
    return replace(paths, compiler="") if name == "compiler" else replace(paths, **{name: False})  # type: ignore[arg-type]


def _matters(name: str, options: Options) -> bool:
    hiera = isinstance(backbone_size(options.backbone), HieraSize)
    return {"keeps_position": hiera, "folded": not hiera, "compiler": bool(options.compiler)}.get(name, True)


def _frame(options: Options, paths: FastPaths) -> Callable[[], object]:
    pipeline, images = options.pipeline(options.network(), paths), options.images()
    return lambda: pipeline.answer(images)
