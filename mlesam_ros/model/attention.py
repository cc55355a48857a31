"""SAM 1's attention as one fused product, although it adds a code of relative positions to every score.

That code is decomposed: between a query q at row i, column j and a key at row s, column t it is q · R_is + q · C_jt,
from two tables. Meta's code writes all scores out in order to add it, 0.4 GB per picture and global block of ViT-B at
1024 pixels in bfloat16. But a sum of products is a product of longer vectors:

    q' = ( q / √d,  q · R_i1 … q · R_ih,  q · C_j1 … q · C_jw )        k' = ( k,  e_s,  e_t )

with e_s, e_t the unit vectors of the key's row and column; so softmax(q' k'ᵀ) v is what a fused kernel computes, and no
score is ever stored. Exact but for rounding. The third way, the code as the mask of a fused kernel, still stores a
number per score; on a CPU it is slower in bfloat16, and in float32 faster only for global blocks at 1024 pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mlesam_ros.model.vit import image_encoder

_MULTIPLE = 8  # fused kernels want the length of their vectors to be one of it


class FusedRelPosAttention(image_encoder.Attention):  # type: ignore[misc]  # Meta's package has no types
    """Meta's layer with a second way to compute the same.

    Attributes:
        folds: whether it takes the second.
    """

    folds = False
    _kept: tuple[Any, tuple[Tensor, Tensor, Tensor]] | None = None

    @classmethod
    def from_linear(cls, plain: Any) -> FusedRelPosAttention:
        """Share the weights of Meta's layer."""
        with torch.device("meta"):
            layer = cls(plain.qkv.in_features, plain.num_heads, use_rel_pos=True, input_size=(1, 1))
        layer.qkv, layer.proj = plain.qkv, plain.proj
        layer.rel_pos_h, layer.rel_pos_w = plain.rel_pos_h, plain.rel_pos_w
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) tokens to the same."""
        if not self.fused:
            plain: Tensor = super().forward(x)
            return plain
        batch, height, width, _ = x.shape
        q, k, v = self.qkv(x).view(batch, height * width, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)  # (B, n, HW, d)
        rows, columns, codes = self._tables(height, width)
        grid = q.unflatten(2, (height, width))
        up = torch.einsum("bnhwd,hkd->bnhwk", grid, rows).flatten(2, 3)  # (B, n, HW, H)
        along = torch.einsum("bnhwd,wkd->bnhwk", grid, columns).flatten(2, 3)  # (B, n, HW, W)
        depth, length = q.shape[-1], q.shape[-1] + codes.shape[-1]
        q = F.pad(torch.cat((q * self.scale, up, along), -1), (0, length - depth - height - width))
        k = torch.cat((k, codes.expand(*k.shape[:-1], -1)), -1)
        out = F.scaled_dot_product_attention(q, k, F.pad(v, (0, length - depth)), scale=1.0)[..., :depth]
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(batch, height, width, -1))
        return projected

    def _tables(self, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """R (H, H, d), C (W, W, d), and the keys' unit vectors (HW, H + W and some zeros); kept in inference."""
        tables = self.rel_pos_h, self.rel_pos_w
        if not torch.is_inference_mode_enabled() or any(t.is_inference() for t in tables):
            return self._make_tables(height, width)
        key = (height, width, *((t.dtype, t.device, t._version) for t in tables))  # the version counts changes in place
        if self._kept is None or self._kept[0] != key:
            self._kept = key, self._make_tables(height, width)
        return self._kept[1]

    def _make_tables(self, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        rows = image_encoder.get_rel_pos(height, height, self.rel_pos_h)
        columns = image_encoder.get_rel_pos(width, width, self.rel_pos_w)
        row, column = (torch.eye(n, dtype=rows.dtype, device=rows.device) for n in (height, width))
        codes = torch.cat((row.repeat_interleave(width, 0), column.repeat(height, 1)), 1)
        padding = -(rows.shape[-1] + height + width) % _MULTIPLE
        return rows, columns, F.pad(codes, (0, padding))
