"""What the 16-bit event formats have in common: words with their kind in the top four bits, and values that hold.

An event is one word plus the newest value of each other kind before it. How many words of a kind came before is that
kind's rank at the event, so the newest value is found by rank, without a loop over words.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from mlesam_ros.errors import PacketError

Words = npt.NDArray[np.uint16]
Places = npt.NDArray[np.intp]
"""Positions in a run of words, ascending."""
Decoded = tuple[npt.NDArray[np.uint16], npt.NDArray[np.uint16], npt.NDArray[np.int64], npt.NDArray[np.bool_]]
"""(x, y, t, polarity), each (n,), in order of arrival."""

LONGEST_RUN = (1 << 15) - 1
"""Words that `running_ranks` counts at once: four ranks of 15 bits share 64, and a run fits in the L2 cache."""

BITS = ((np.arange(4096)[:, None] >> np.arange(12)) & 1).astype(np.bool_)
"""(4096, 12): the bits of each mask, the lowest first."""
COUNT = BITS.sum(axis=1).astype(np.uint8)
"""(4096,): how many bits each mask has."""


def as_words(data: npt.NDArray[np.uint8], encoding: str, order: str = "<") -> Words:
    """A packet's bytes as words in this machine's order; a view where that is the packet's own.

    Raises:
        PacketError: the packet is not a whole number of words.
    """
    if len(data) % 2:
        raise PacketError(f"{encoding} packet has {len(data)} bytes; it must be a whole number of 16-bit words.")
    return np.ascontiguousarray(data).view(f"{order}u2").astype(np.uint16, copy=False)


def chunks(words: Words) -> list[Words]:
    """The words cut into runs of at most `LONGEST_RUN`; one empty run for none."""
    return [words[start : start + LONGEST_RUN] for start in range(0, max(len(words), 1), LONGEST_RUN)]


def joined(parts: Sequence[Decoded]) -> Decoded:
    """The events of consecutive runs as one."""
    if len(parts) == 1:
        return parts[0]
    x, y, t, polarity = zip(*parts, strict=True)
    return np.concatenate(x), np.concatenate(y), np.concatenate(t), np.concatenate(polarity)


def by_kind(words: Words) -> list[Places]:
    """Where the words of each of the sixteen kinds are."""
    kind = (words >> 12).astype(np.uint8)
    order = np.argsort(kind, kind="stable")
    ends = kind[order].searchsorted(_KINDS, side="right").tolist()
    return [order[a:b] for a, b in pairwise([0, *ends])]


_KINDS = np.arange(16, dtype=np.uint8)


def merge_sorted(first: Places, second: Places) -> Places:
    """Both in ascending order."""
    if not len(first) or not len(second):
        return first if len(first) else second
    return np.sort(np.concatenate((first, second)), kind="stable")


def running_ranks(at: Places, length: int, kinds: Sequence[Places]) -> list[Places]:
    """How many words of each kind come before each of some words.

    Args:
        at: the words in question, of none of these kinds.
        length: of the run, at most `LONGEST_RUN`.
        kinds: at most four.

    Returns:
        One (len(at),) per kind; 0 before the first word of the kind.
    """
    steps = np.zeros(length, np.int64)
    for field, places in enumerate(kinds):
        steps[places] = 1 << 15 * field
    np.add.accumulate(steps, out=steps)
    found = steps[at]
    return [(found >> 15 * field) & LONGEST_RUN for field in range(len(kinds))]


def hold_table(carried: int, values: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """(1 + n,): what to look up by rank. The value carried over from before the run, then those of the run."""
    table = np.empty(len(values) + 1, dtype)
    table[0] = carried
    table[1:] = values
    return table


def expand_vectors(
    decoded: Decoded, vector: npt.NDArray[np.bool_], masks: Words, axis: int
) -> tuple[Decoded, npt.NDArray[np.uint8]]:
    """Vectors as the events of their masks' bits.

    Args:
        decoded: one entry per word that gives events, a vector's first pixel among them.
        vector: (n,) which of these are vectors.
        masks: of the vectors.
        axis: 0 where a vector's pixels lie along x, 1 along y.

    Returns:
        The events, and how many of them each word gave.
    """
    counts = np.ones(len(vector), np.uint8)
    counts[vector] = COUNT[masks]
    x, y, t, polarity = decoded
    x, y, t, polarity = x.repeat(counts), y.repeat(counts), t.repeat(counts), polarity.repeat(counts)
    (x, y)[axis][vector.repeat(counts)] += np.nonzero(BITS[masks])[1].astype(np.uint16)
    return (x, y, t, polarity), counts


def skip_first(decoded: Decoded, count: int) -> Decoded:
    """All events but the first few."""
    x, y, t, polarity = decoded
    return (x[count:], y[count:], t[count:], polarity[count:]) if count else decoded


def clip_to_sensor(decoded: Decoded, size: tuple[int, int]) -> tuple[Decoded, int]:
    """The events within a sensor of (height, width), and how many were not."""
    x, y, t, polarity = decoded
    if not len(x) or (x.max() < size[1] and y.max() < size[0]):
        return decoded, 0
    keep = (x < size[1]) & (y < size[0])
    return (x[keep], y[keep], t[keep], polarity[keep]), int(len(x) - np.count_nonzero(keep))
