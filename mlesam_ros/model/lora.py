# SPDX-License-Identifier: Apache-2.0
"""One LoRA expert per modality, and the layer that applies all of them at once to one batch.

For every block of the trunk, with x the tokens of modality m and W its frozen projections (LoRA: arXiv 2106.09685):

    Q = x W_q + x A_q^m B_q^m        K = x W_k        V = x W_v + x A_v^m B_v^m

The batch is modality-major: M runs of equal length, one per active modality. Window partition keeps that order, so
inside every block the tokens still split into M equal runs, and the low-rank terms of all modalities are two batched
products with the matrices

    A^m = (A_q^m  A_v^m)          B^m = ( B_q^m  0    0   )
                                        (   0    0  B_v^m )
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlesam_ros.errors import ConfigError
from mlesam_ros.model.model_config import MODALITY_NAME_RULE, is_valid_modality
from mlesam_ros.types import Modality


class LoRAExpert(nn.Module):
    """LoRA weights of one modality, for every block.

    No bias, no dropout, and no scaling (α = r), as in the code of the paper's group.
    """

    def __init__(self, widths: Sequence[tuple[int, int]], rank: int) -> None:
        """Initialize as the identity: A is random, B zero.

        Args:
            widths: per block, the input and output widths of its attention. They differ at Hiera's stage transitions,
                where Q and V are twice as wide as the tokens.
            rank: r.
        """
        super().__init__()
        self.rank = rank
        self.a = nn.ParameterList(torch.empty(2, read, rank) for read, _ in widths)  # Q and V
        self.b = nn.ParameterList(torch.zeros(2, rank, write) for _, write in widths)
        for a in self.a:
            # kaiming-uniform with a = √5 over a fan-in of `read`
            nn.init.uniform_(a, -1 / math.sqrt(a.shape[1]), 1 / math.sqrt(a.shape[1]))


class LoRALinear(nn.Linear):
    """Frozen qkv projection plus the low-rank terms of the active experts. Its weights keep their names."""

    a: Tensor | None = None  # (M, C, 2r): the stacked form
    b: Tensor | None = None  # (M, 2r, 3D)
    merged: Tensor | None  # (M, C, 3D): the merged form
    exact: Tensor | None = None  # (3D, C) the weight in float32, from before it was rounded

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> LoRALinear:
        """Share the weight and bias of a plain layer."""
        layer = cls(linear.in_features, linear.out_features, device="meta")
        layer.weight, layer.bias = linear.weight, linear.bias
        # A buffer, like the weights: other inputs of a CUDA graph are copied before every replay.
        layer.register_buffer("merged", None, persistent=False)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """Project.

        Args:
            x: (M * N, …, C) tokens, modality-major.

        Returns:
            (M * N, …, 3D): Q, K and V.
        """
        if self.merged is not None:
            runs = x.reshape(self.merged.shape[0], -1, x.shape[-1])  # (M, N, C)
            project = project_each if x.is_cuda else torch.baddbmm
            return project(self.bias, runs, self.merged).view(*x.shape[:-1], -1)
        qkv = super().forward(x)
        if self.a is None or self.b is None:
            return qkv
        runs = x.reshape(len(self.a), -1, x.shape[-1])  # (M, N, C)
        stacked = qkv.view(len(self.a), -1, qkv.shape[-1])  # (M, N, 3D)
        return torch.baddbmm(stacked, runs @ self.a, self.b).view_as(qkv)


def project_each(bias: Tensor, runs: Tensor, weights: Tensor) -> Tensor:
    """`torch.baddbmm` as a product per modality, whose kernels on a GPU add the bias before they write the result.

    The batched product copies the bias into the whole result first, and reads it again.

    Args:
        bias: (3D,).
        runs: (M, N, C) tokens.
        weights: (M, C, 3D).
    """
    result = runs.new_empty(*runs.shape[:2], weights.shape[-1])
    for row, (tokens, weight) in enumerate(zip(runs, weights, strict=True)):
        torch.addmm(bias, tokens, weight, out=result[row])
    return result


class ExpertBank(nn.Module):
    """Experts of a backbone, by modality. They may be added, replaced and removed at any time."""

    def __init__(self, blocks: Iterable[Any], modalities: Sequence[Modality], rank: int) -> None:
        """Replace every block's qkv projection by a `LoRALinear` and make one new expert per modality.

        Args:
            blocks: of Hiera or ViT, in order: each has one projection `attn.qkv` for queries, keys and values.
            modalities: names, in stacking order.
            rank: r.
        """
        super().__init__()
        self.layers: list[LoRALinear] = []  # a plain list: these weights belong to the backbone
        for block in blocks:
            block.attn.qkv = LoRALinear.from_linear(block.attn.qkv)
            self.layers.append(block.attn.qkv)
        self.by_modality = nn.ModuleDict()
        self._merged: list[Tensor] | None = None
        self._chosen: dict[tuple[int, ...], list[Tensor]] = {}  # subset → its merged projections
        for modality in modalities:
            self.add(modality, self.new_expert(rank))

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities that have an expert, in stacking order."""
        return tuple(self.by_modality)

    def new_expert(self, rank: int) -> LoRAExpert:
        """Make a new expert, initialized as the identity."""
        return LoRAExpert([(layer.in_features, layer.out_features // 3) for layer in self.layers], rank)

    @property
    def merged(self) -> list[Tensor]:
        """Merged projections of all modalities, in stacking order: one (M, C, 3D) per block; empty if not merged."""
        return self._merged or []

    @property
    def rank(self) -> int:
        """r, the same for all experts."""
        return self.expert(self.modalities[0]).rank

    def add(self, modality: Modality, expert: LoRAExpert) -> None:
        """Add an expert, or replace the one of that modality. It moves to the others' device and precision.

        In the merged form only its own projections are computed; the others' stay equal bit for bit.

        Raises:
            ConfigError: its shapes do not match the blocks, its rank differs from the others', or the name is invalid.
        """
        self._check_expert(modality, expert)
        rows = self._merged_rows()
        weight = self.layers[0].weight
        self.by_modality[modality] = expert.to(weight.device)
        rows.pop(modality, None)
        self._restore(rows)  # from the expert's own precision
        expert.to(weight.dtype)

    def remove(self, modality: Modality) -> None:
        """Remove the expert of a modality.

        Raises:
            ConfigError: no such expert, or it is the last one.
        """
        if modality not in self.by_modality or len(self.by_modality) == 1:
            raise ConfigError(f"cannot remove the expert {modality!r} of {', '.join(self.modalities)}.")
        rows = self._merged_rows()
        del self.by_modality[modality]
        self._restore(rows)

    def expert(self, modality: Modality) -> LoRAExpert:
        """The expert of a modality."""
        return cast(LoRAExpert, self.by_modality[modality])

    @torch.no_grad()
    def merge(self) -> None:
        """Precompute every modality's projections, so that `active` computes no low-rank product. For inference.

        The current weights are kept as `exact`: an expert added after the model was rounded to another precision is
        merged with the same values as one added before.
        """
        for layer in self.layers:
            layer.exact = layer.weight.data
        self._set_merged([self._merge(block, self.modalities) for block in range(len(self.layers))])

    def unmerge(self) -> None:
        """Return to the stacked form, which follows every change of the weights. For training."""
        self._set_merged(None)

    @contextmanager
    def active(self, modalities: Sequence[Modality]) -> Iterator[None]:
        """Context manager: the trunk applies these modalities' experts to the runs of a batch, in this order."""
        rows = tuple(self.modalities.index(m) for m in modalities)
        for block, layer in enumerate(self.layers):
            if self._merged is not None:
                layer.merged = self._choose(rows)[block]
            else:
                layer.a, layer.b = self._stack(block, modalities)
        try:
            yield
        finally:
            for layer in self.layers:
                layer.a = layer.b = layer.merged = None

    def _choose(self, rows: tuple[int, ...]) -> list[Tensor]:
        """Merged projections of a subset. Their memory stays in place, so that captured CUDA graphs stay valid."""
        assert self._merged is not None
        if rows not in self._chosen:
            first, count = rows[0], len(rows)
            neighbors = rows == tuple(range(first, first + count))  # a view suffices
            self._chosen[rows] = [w[first : first + count] if neighbors else w[list(rows)] for w in self._merged]
        return self._chosen[rows]

    def _check_expert(self, modality: Modality, expert: LoRAExpert) -> None:
        if not is_valid_modality(modality):
            raise ConfigError(f"a modality cannot be called {modality!r}; {MODALITY_NAME_RULE}.")
        ours = [(layer.in_features, layer.out_features // 3) for layer in self.layers]
        theirs = [(a.shape[1], b.shape[2]) for a, b in zip(expert.a, expert.b, strict=True)]
        if theirs != ours:
            raise ConfigError(
                f"the expert for {modality} has {len(theirs)} blocks of widths {_run_lengths(theirs)}; this backbone "
                f"has {len(ours)} of widths {_run_lengths(ours)}.",
                "Give an expert that was trained on it.",
            )
        ranks = [self.expert(m).rank for m in self.modalities if m != modality]
        if any(rank != expert.rank for rank in ranks):
            raise ConfigError(
                f"the expert for {modality} has rank {expert.rank}, but the others have {ranks[0]}; all need one."
            )

    def _merge(self, block: int, modalities: Sequence[Modality]) -> Tensor:
        """(M, C, 3D) weights: W transposed plus the low-rank products, summed in float32 and rounded once."""
        weight, exact = self.layers[block].weight, self.layers[block].exact
        assert exact is not None
        a, b = (x.to(exact.device, torch.float32) for x in self._stack(block, modalities))
        return (exact.T.float() + a @ b).to(weight.device, weight.dtype)

    def _set_merged(self, weights: list[Tensor] | None) -> None:
        self._merged, self._chosen = weights, {}

    def _merged_rows(self) -> dict[Modality, list[Tensor]]:
        """Modality → its merged projections, block by block; empty in the stacked form."""
        if self._merged is None:
            return {}
        return {m: [weights[row] for weights in self._merged] for row, m in enumerate(self.modalities)}

    @torch.no_grad()
    def _restore(self, rows: Mapping[Modality, Sequence[Tensor]]) -> None:
        """Rebuild the merged form after a change of the experts; projections that `rows` lacks are computed."""
        if self._merged is None:
            return
        self._set_merged(
            [
                torch.stack([rows[m][block] if m in rows else self._merge(block, (m,))[0] for m in self.modalities])
                for block in range(len(self.layers))
            ]
        )

    def _stack(self, block: int, modalities: Sequence[Modality]) -> tuple[Tensor, Tensor]:
        experts = [self.expert(m) for m in modalities]
        a = torch.stack([torch.cat((*e.a[block],), 1) for e in experts])  # (M, C, 2r)
        q, v = torch.stack([e.b[block] for e in experts], 1)  # (M, r, D) each
        width = q.shape[-1]
        b = torch.cat((F.pad(q, (0, 2 * width)), F.pad(v, (2 * width, 0))), 1)  # (M, 2r, 3D)
        return a, b

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ExpertBank:
        # Called by `.to(...)`: the merged weights are not parameters, but move with them.
        if self._merged is not None:
            self._set_merged([fn(weight) for weight in self._merged])
        super()._apply(fn, recurse)
        return self


def _run_lengths(widths: Sequence[tuple[int, int]]) -> str:
    """Run-length encode widths, so that 48 blocks fit into a message: `2 x 112→112, 1 x 112→224`."""
    return ", ".join(f"{len(list(run))} x {read}→{write}" for (read, write), run in groupby(widths))
