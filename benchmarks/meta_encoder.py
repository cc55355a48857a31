# SPDX-License-Identifier: Apache-2.0
"""SAM 2's image encoder as Meta's package `sam2` builds it, and its comparison with ours."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from torch import Tensor, nn

from mlesam_ros.bench.measurement import BenchmarkResult, measure
from mlesam_ros.model.backbones import BACKBONES, HieraSpec, build_backbone
from mlesam_ros.model.hiera import PatchEmbed

SHAPES = ((256, 256), (160, 256), (512, 512), (320, 512))
"""Height and width of square and wide images; the windows divide only some of their grids."""
_BATCH = 4
_FEWER = 10  # repeats of a larger encoder than hiera_nano are divided by this


def build_meta_encoder(name: str) -> ImageEncoder:
    """Build Meta's encoder in evaluation mode, with random weights.

    Args:
        name: a Hiera in `BACKBONES`.
    """
    size = BACKBONES[name]
    assert isinstance(size, HieraSpec)
    trunk = Hiera(
        embed_dim=size.width,
        num_heads=size.heads,
        stages=size.stages,
        global_att_blocks=size.globals,
        window_spec=size.windows,
        window_pos_embed_bkg_spatial_size=(size.position, size.position),
    )
    if size.two_convs:  # hiera_nano begins otherwise than Meta's; all that follows is compared
        trunk.patch_embed.proj = PatchEmbed(size.width, size.two_convs).proj
    for parameter in (trunk.pos_embed, trunk.pos_embed_window):  # zero in a new one
        nn.init.normal_(parameter)
    levels = {"fpn_interp_model": "nearest", "fpn_top_down_levels": [2, 3]}
    neck = FpnNeck(nn.Identity(), size.neck, trunk.channel_list, **levels)
    return ImageEncoder(trunk, neck, scalp=1).eval()


def run(repeats: int) -> list[BenchmarkResult]:
    """Measure every Hiera in float32 beside Meta's with the same weights and memory format."""
    names = [name for name, size in BACKBONES.items() if isinstance(size, HieraSpec)]
    counts = {name: repeats if name == "hiera_nano" else max(1, repeats // _FEWER) for name in names}
    return list(chain.from_iterable(_rows(name, counts[name]) for name in names))


def _rows(name: str, repeats: int) -> Iterator[BenchmarkResult]:
    theirs, ours = build_meta_encoder(name), build_backbone(name).eval()
    ours.load_state_dict(theirs.state_dict())
    for encoder in (theirs, ours):
        encoder.to(memory_format=torch.channels_last)

    for shape in SHAPES:
        images = torch.randn(_BATCH, 3, *shape).contiguous(memory_format=torch.channels_last)

        def meta(images: Tensor = images) -> list[Tensor]:
            with torch.inference_mode():
                return list(theirs(images)["backbone_fpn"][::-1])

        def own(images: Tensor = images) -> list[Tensor]:
            with torch.inference_mode():
                return list(ours(images).values())

        distance = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(own(), meta(), strict=True))
        label = f"{name} {shape[0]}x{shape[1]}, batch of {_BATCH}, fp32"
        yield from measure(label, own, repeats, (f"Meta's, distance {distance:.0e} of the largest value", meta))
