"""EMM, RMM and NM (arXiv 2503.18445): modalities that are missing, full of holes, or noisy.

Damage is done to the normalised pictures that the network reads. A damaged modality is not left out but shown to the
network in its state, as the benchmark's own scripts do; leaving it out, as a robot that knows its sensor is dead does,
is the any-modal protocol of `evaluate.subset_predictor`.

The encoder sees every picture once intact, once empty, once per share of holes and once per level of noise; the subsets
are put together from these features, since no modality's features depend on another's picture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mlesam_ros.frame import EVENT, Modality
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.robustness import MISSING, NOISE, Subset, expectation, subsets, with_holes, with_noise
from mlesam_ros.training.datasets.frames import LabelledFrames
from mlesam_ros.training.evaluate import How, Predict, Score, evaluate

Try = tuple[str, str, Subset]
"""Protocol (`emm`, `rmm`, `nm`), level, and the modalities that are intact."""


def robustness(model: MLESAM, dataset: LabelledFrames, how: How) -> dict[Try, Score]:
    """Try everything that the three protocols ask for. The full set without damage is among EMM's and RMM's subsets.

    Args:
        model: in evaluation mode.
        dataset: rows that the model was not trained on.
        how: see `evaluate.How`.
    """
    modalities = model.config.modalities
    return evaluate(_predictor(model), dataset, modalities, tries(modalities), how)


def tries(modalities: Sequence[Modality]) -> list[Try]:
    """Everything that is tried."""
    every = subsets(modalities)
    emm = [("emm", "", subset) for subset in every]
    rmm = [("rmm", f"{share:g}", subset) for share in MISSING for subset in every]
    return [*emm, *rmm, *(("nm", level, ()) for level in NOISE)]


def summary(scores: Mapping[Try, Score]) -> dict[str, Any]:
    """The protocols' figures, mIoU in percent over the classes present in the truth.

    Returns:
        `emm` {average, expected}, `rmm` {share: {average, expected}}, `nm` {level: mIoU}; and `over_all_classes`: the
        same three over all of the label space with absent classes as 0, as the published figures are.
    """
    every = _figures(scores, lambda score: 100 * score.whole.miou_all)
    return {**_figures(scores, lambda score: 100 * score.whole.miou_present), "over_all_classes": every}


def _figures(scores: Mapping[Try, Score], measure: Callable[[Score], float]) -> dict[str, Any]:
    return {
        "emm": expectation(_of(scores, "emm", "", measure)),
        "rmm": {f"{share:g}": expectation(_of(scores, "rmm", f"{share:g}", measure)) for share in MISSING},
        "nm": {level: round(measure(scores["nm", level, ()]), 2) for level in NOISE},
    }


def _of(
    scores: Mapping[Try, Score], protocol: str, level: str, measure: Callable[[Score], float]
) -> dict[Subset, float]:
    return {t[2]: measure(score) for t, score in scores.items() if t[:2] == (protocol, level)}


def _predictor(model: MLESAM) -> Predict[Try]:
    every = subsets(model.config.modalities)

    def predict(images: dict[Modality, Tensor], rows: Sequence[int]) -> Iterator[tuple[Try, Tensor]]:
        intact = model.features(images)
        for (protocol, level), damage in _damages().items():
            damaged = model.features(_damaged(images, rows, damage))
            if protocol == "nm":
                yield (protocol, level, ()), model.heads(damaged).fused
                continue
            for subset in every:
                yield (protocol, level, subset), model.heads(damaged.exchanged(intact, subset)).fused

    return predict


_Damage = Callable[[Modality, Tensor, torch.Generator], Tensor]


def _damages() -> dict[tuple[str, str], _Damage]:
    """Protocol and level → what happens to a damaged picture."""
    out: dict[tuple[str, str], _Damage] = {("emm", ""): _emptied}
    out |= {("rmm", f"{share:g}"): partial(_holed, share) for share in MISSING}
    return out | {("nm", level): partial(_noisy, *amounts) for level, amounts in NOISE.items()}


def _emptied(modality: Modality, picture: Tensor, chance: torch.Generator) -> Tensor:
    return torch.zeros_like(picture)


def _holed(share: float, modality: Modality, picture: Tensor, chance: torch.Generator) -> Tensor:
    return with_holes(picture, share, chance)


def _noisy(density: float, sigma: float, modality: Modality, picture: Tensor, chance: torch.Generator) -> Tensor:
    return with_noise(picture, density, 0.0 if modality == EVENT else sigma, chance)


def _damaged(images: Mapping[Modality, Tensor], rows: Sequence[int], damage: _Damage) -> dict[Modality, Tensor]:
    """Every row and modality by its own chance, so that it is the same in whatever batch and process."""
    return {
        name: torch.stack([damage(name, p, _chance(row, name)) for row, p in zip(rows, batch, strict=True)])
        for name, batch in images.items()
    }


def _chance(row: int, modality: Modality) -> torch.Generator:
    digest = hashlib.sha256(f"{row} {modality}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
