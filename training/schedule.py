"""The learning rate over the run."""

from __future__ import annotations


def poly(step: int, steps: int, warmup: int, power: float = 0.9, start: float = 0.1) -> float:
    """Factor on the base learning rate: linear warm-up, then polynomial decay to nearly zero.

    Args:
        step: 0 … steps - 1.
        steps: of the whole run, warm-up included.
        warmup: steps over which the factor grows from `start` to 1.
        power: of the decay (1 - progress) ** power.
        start: the factor of step 0 where there is a warm-up.

    Returns:
        A factor in (0, 1].
    """
    if step < warmup:
        return start + (1 - start) * step / warmup
    return float((1 - (step - warmup) / max(1, steps - warmup)) ** power)
