# SPDX-License-Identifier: Apache-2.0
"""The training loop: learning, options, learning rate, log, and values that are not finite."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional as F

from mlesam_ros import extras
from mlesam_ros.errors import CheckpointError, ConfigError, MlesamError, PackageError
from mlesam_ros.geometry.pixels import resize_nearest
from mlesam_ros.labels import load_label_space
from mlesam_ros.model.inference import argmax_with_confidence
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig, network_size
from mlesam_ros.resources import resource_path
from mlesam_training.augmentation import Augment
from mlesam_training.batch_loader import BatchLoader, SeededDropout2d, epoch_rows, sample_generator
from mlesam_training.loss import Grid, pixel_losses
from mlesam_training.stages import ExpertStage, PretrainStage
from mlesam_training.state import TrainState
from mlesam_training.train_run import model_config, train
from mlesam_training.trainer import (
    BAD_BATCH,
    LOG,
    STATE,
    TENSORBOARD,
    CpuAttention,
    poly,
    run,
    train_step,
    training_log,
)

STATISTICS = (torch.zeros(3), torch.ones(3))


def new_stage(recipe):
    torch.manual_seed(recipe.seed)
    return PretrainStage(model_config(recipe), recipe.mixture, None)


def trained(recipe, street, out, resume=True):
    out.mkdir(exist_ok=True)
    stage = new_stage(recipe)
    run(recipe, stage, street, Augment(recipe.augmentation, STATISTICS), out, resume)
    return stage.model.state_dict()


def losses(out):
    return [json.loads(line)["loss"] for line in (out / LOG).read_text().splitlines()]


def test_loss_decreases(smoke, street, tmp_path):
    trained(replace(smoke, steps=30, log_every=5), street, tmp_path)
    assert len(losses(tmp_path)) == 6
    assert losses(tmp_path)[-1] < 0.8 * losses(tmp_path)[0]


def test_log_entries(smoke, street, tmp_path, capsys):
    trained(replace(smoke, steps=2, log_every=1), street, tmp_path)
    entry = json.loads((tmp_path / LOG).read_text().splitlines()[1])
    assert set(entry) == {"step", "loss", "gradient_norm", "lr", "moments_per_s", "elapsed_s"}
    assert "pretrain 2/2: loss" in capsys.readouterr().err
    assert not (tmp_path / TENSORBOARD).exists()


def test_workers_do_not_change_the_result(smoke, street, tmp_path):
    recipe = replace(smoke, steps=5)
    alone, ahead = (trained(replace(recipe, workers=w), street, tmp_path / str(w)) for w in (0, 2))
    assert all(torch.equal(alone[name], ahead[name]) for name in alone)


def test_a_batch_in_parts_holds_the_same_samples_and_learns(smoke, street, tmp_path):
    stage, device = new_stage(smoke), torch.device("cpu")
    vary = Augment(smoke.augmentation, STATISTICS)
    (whole,), parts = (
        BatchLoader(replace(smoke, accumulate=n), street, vary, stage.plan, device).step(3) for n in (1, 2)
    )
    assert [row for part in parts for row in part.rows] == list(whole.rows)
    assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)
    for one, other in zip([s for part in parts for s in part.samples], whole.samples, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    out = trained(replace(smoke, steps=1, accumulate=2), street, tmp_path)
    assert any(not torch.equal(out[name], value) for name, value in new_stage(smoke).model.state_dict().items())


@pytest.mark.parametrize("labeled", [1.0, 0.03, 0.0])
@pytest.mark.parametrize("easy", [False, True])
def test_a_batch_in_parts_has_the_gradient_of_the_batch_in_one_piece(smoke, street, tmp_path, labeled, easy):
    """Mean of means. Both heads, dropout, class weights and OHEM's two branches; the oracle is one part."""
    recipe = replace(smoke, batch=4, precision="fp32", clip=1e9, lr=0.0)
    config = MLESAMConfig(rank=2)
    torch.manual_seed(0)
    stage = ExpertStage(config, str(resource_path("weights/hiera_nano.safetensors")), 1.0, torch.rand(25) + 0.5)
    vary = Augment(recipe.augmentation, STATISTICS)
    if easy:  # one class that both heads are sure of, so that only the hardest sixteenth counts
        stage.model.auxiliary.classify.bias.data[6] += 30
        heads, sure = stage.heads, torch.zeros(1, 25, 1, 1)
        sure[0, 6] = 30
        stage.heads = lambda batch: [logits + sure for logits in heads(batch)]
    found = []
    for accumulate in (1, 2, 4):
        batches = BatchLoader(
            replace(recipe, accumulate=accumulate), street, vary, stage.plan, torch.device("cpu")
        ).step(0)
        rows = torch.cat([batch.labels for batch in batches])
        if easy:
            rows[:] = 6
        rows[2:] = torch.where(torch.rand(rows[2:].shape, generator=sample_generator(0, 1)) < labeled, rows[2:], 255)
        batches = [
            replace(batch, labels=part)
            for batch, part in zip(batches, rows.split(recipe.batch // accumulate), strict=True)
        ]
        stage.model.train()
        loss, norm = train_step(recipe, stage, TrainState(recipe, stage.model), batches, 0.0, tmp_path)
        gradients = {name: p.grad.clone() for name, p in stage.model.named_parameters() if p.grad is not None}
        found.append((loss, norm, gradients))
    for loss, norm, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5) and norm == pytest.approx(found[0][1], rel=1e-4)
        whole, parts = (torch.cat([g[name].flatten() for name in gradients]) for g in (found[0][2], gradients))
        assert (parts - whole).norm() <= 1e-4 * whole.norm()


@pytest.mark.parametrize("backbone", ["hiera_nano", "vit_b"])
def test_weight_decay_acts_on_matrices_alone(smoke, backbone):
    """timm's rule, by name: no biases, norms, position codes or learned tokens; for both stages."""
    config = MLESAMConfig(backbone=backbone, modalities=("bias", "camera"), router_width=8, combine="concat")
    with torch.device("meta"):
        models = [MLESAM(config), PretrainStage(config, {"camera": 1.0}, None).model]
    decayed = set()
    for model in models:
        (with_decay, without), names = TrainState(smoke, model).optimizers[0].param_groups, {}
        names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
        ours, spared = ([names[id(p)] for p in group["params"]] for group in (with_decay, without))
        assert with_decay["weight_decay"] == smoke.weight_decay and without["weight_decay"] == 0
        assert sorted(ours + spared) == sorted(names.values())
        decayed |= {re.sub(r"\d+", "N", name) for name in ours}
        norms = [n for n, m in model.named_modules() if "LayerNorm" in type(m).__name__]
        assert not any(name.startswith(tuple(f"{norm}." for norm in norms)) for name in ours)
    words = ("bias", "biases", "norm", "pos_embed", "rel_pos", "class_tokens", "no_mask")
    assert not [name for name in decayed if any(w in name.replace("by_modality.bias", "") for w in words)]
    assert {"experts.by_modality.bias.a.N", "experts.by_modality.camera.b.N"} <= decayed
    assert {"decoder.hypernetworks.weights.N", "auxiliary.classify.weight", "router.mixes.semantic.weight"} <= decayed


def test_steps_of_muon_are_nearly_orthogonal_and_of_the_backbones_matrices_alone(smoke):
    """The singular values of a step are nearly equal; those of AdamW's first step, a matrix of signs, are not."""

    def shares(muon):
        model = new_stage(smoke).model
        before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        for p in model.parameters():
            p.grad = torch.randn(p.shape) if p.requires_grad else None
        TrainState(replace(smoke, muon=muon, weight_decay=0.0), model).step(0, 1e-3)
        steps = {name: p.detach() - before[name] for name, p in model.named_parameters() if name in before}
        values = {name: torch.linalg.svdvals(step) for name, step in steps.items() if step.ndim == 2}
        return {name: float((found > found.max() / 2).float().mean()) for name, found in values.items()}

    plain, muon = shares(False), shares(True)
    turned = [name for name in plain if name.startswith("backbone.")]
    assert turned and all(muon[name] > max(0.9, plain[name]) for name in turned if plain[name] < 0.9)
    assert all(muon[name] == plain[name] for name in plain if name not in turned)


def test_the_average_follows_the_weights(smoke, street, tmp_path):
    plain = trained(replace(smoke, steps=6), street, tmp_path / "plain")
    slow = trained(replace(smoke, steps=6, ema=0.9), street, tmp_path / "slow")
    first = new_stage(smoke).model.state_dict()
    name = "auxiliary.classify.weight"
    assert (slow[name] - first[name]).norm() < (plain[name] - first[name]).norm()
    again = trained(replace(smoke, steps=6, ema=0.9), street, tmp_path / "slow")
    assert all(torch.equal(slow[key], again[key]) for key in slow), "a finished run gives other weights when resumed"


def test_every_epoch_sees_every_row_once_and_another_order():
    epochs = [sorted(row for s in range(3) for row in epoch_rows(1, 12, 4, 3 * e + s)) for e in range(2)]
    assert epochs == [list(range(12))] * 2
    assert epoch_rows(1, 12, 4, 0) != epoch_rows(1, 12, 4, 3)


def test_another_recipe_or_other_data_does_not_resume(smoke, street, tmp_path, monkeypatch):
    recipe = replace(smoke, steps=1)
    trained(recipe, street, tmp_path)
    with pytest.raises(CheckpointError, match="another lr and seed"):
        trained(replace(recipe, lr=0.5, seed=1), street, tmp_path)
    trained(replace(recipe, threads=1, log_every=3), street, tmp_path)
    monkeypatch.setattr(street, "fingerprint", "another")
    with pytest.raises(CheckpointError, match=r"made with data set [0-9a-f]{64}, and this run has another\."):
        trained(recipe, street, tmp_path)
    monkeypatch.undo()
    for name, value, words in (
        (
            "preprocessors",
            {**street.preprocessors, "lidar": "deliver_lidar"},
            r"preprocessors .*range_intensity.*deliver_lidar",
        ),
        (
            "normalization",
            {**street.normalization, "lidar": ((0, 0, 0), (1, 1, 1))},
            r"preprocessors .*20\.0.*this run has",
        ),
        ("space", load_label_space("mcubes"), r"label space .*Building.*this run has .*asphalt"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(street, name, value)
            with pytest.raises(CheckpointError, match=words):
                trained(recipe, street, tmp_path)


def test_a_batch_that_cannot_be_filled_is_refused(smoke, street, tmp_path):
    with pytest.raises(ConfigError, match="batch is 9, but the data set has 8"):
        trained(replace(smoke, batch=9), street, tmp_path)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_nonfinite_loss_stops_the_run_and_saves_the_batch(smoke, street, tmp_path, accumulate):
    recipe, stage = replace(smoke, accumulate=accumulate), new_stage(smoke)
    heads, seen = stage.heads, []

    def nonfinite_modalities(batch):
        if not any(batch is other for other in seen):
            seen.append(batch)
        factor = float("nan") if seen[2 * accumulate - 1 :] and batch is seen[2 * accumulate - 1] else 1
        return [logits * factor for logits in heads(batch)]

    stage.heads = nonfinite_modalities
    with pytest.raises(MlesamError, match=rf"loss of step 1 is nan.*{BAD_BATCH}"):
        run(recipe, stage, street, Augment(smoke.augmentation, STATISTICS), tmp_path)
    kept = torch.load(tmp_path / BAD_BATCH, weights_only=True)
    spoiler = seen[-1]
    assert kept["step"] == 1 and kept["rows"] == list(spoiler.rows) and kept["loss"] != kept["loss"]
    assert torch.equal(kept["labels"], spoiler.labels) and kept["recipe"]["lr"] == smoke.lr
    for one, other in zip(kept["samples"], spoiler.samples, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)
    assert all(p.isfinite().all() for p in stage.model.parameters()), "the nonfinite_modalities step was taken"


def test_nonfinite_gradient_stops_the_run(smoke, street, tmp_path):
    stage = new_stage(smoke)
    stage.model.auxiliary.classify.bias.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(MlesamError, match="norm of its gradient"):
        run(smoke, stage, street, Augment(smoke.augmentation, STATISTICS), tmp_path)
    assert not (tmp_path / STATE).exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cpu_attention_equals_attention(dtype):
    q, k, v = (torch.randn(2, 3, n, 16, dtype=dtype, requires_grad=True) for n in (5, 7, 7))
    mask = torch.randn(5, 7, dtype=dtype)
    plain, biased = (F.scaled_dot_product_attention(q.float(), k.float(), v.float(), m) for m in (None, mask.float()))
    with CpuAttention():
        found = F.scaled_dot_product_attention(q, k, v)
        found_biased = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        masked = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.02}
    torch.testing.assert_close(found.float(), plain, **close)
    torch.testing.assert_close(found_biased.float(), biased, **close)
    causal = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(masked, causal)


def test_dropout_depends_on_the_sample_alone():
    drop, x = torch.nn.Dropout2d(0.5), torch.ones(4, 50, 2, 2)
    with SeededDropout2d([sample_generator(0, 7, place) for place in range(4)]):
        whole = drop(x)
    with SeededDropout2d([sample_generator(0, 7, place) for place in (2, 3)]):
        part = drop(x[2:])
    assert torch.equal(part, whole[2:]) and not torch.equal(whole[0], whole[1])
    assert set(whole.unique().tolist()) == {0.0, 2.0}
    assert whole.mean().item() == pytest.approx(1, abs=0.2)
    assert torch.equal(whole[:, :, 0, 0], whole[:, :, 1, 1])
    with SeededDropout2d([]):
        assert torch.equal(drop.eval()(x), x)


@pytest.mark.parametrize("stride", [1, 2, 4])
@pytest.mark.parametrize("size", [(512, 512), (640, 640), (480, 640)])
def test_masks_that_fit_the_labels_lie_where_the_scene_lies(size, stride):
    """Half-pixel conventions, from the label image through training's sampling to the mask that a node publishes.

    In place of a network free logits learn a scene of discs, whose edges are known; then the masks are shifted against
    the scene. The agreement is highest at no shift: its parabola peaks within 0.06 px of the camera.
    """
    rows, columns = np.mgrid[: size[0], : size[1]]
    rng, scene = np.random.default_rng(3), np.zeros(size, np.uint8)
    for y, x, radius in zip(
        rng.uniform(0, size[0], 60), rng.uniform(0, size[1], 60), rng.uniform(15, 40, 60), strict=True
    ):
        scene[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] ^= 1
    network = network_size(size, 256)
    labels = torch.from_numpy(resize_nearest(scene, network))[None]
    logits = torch.zeros(1, 2, network[0] // 4, network[1] // 4, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.5)
    for step in range(160):
        optimizer.param_groups[0]["lr"] = 0.5 * poly(step, 160, 0, 0.9)
        optimizer.zero_grad()
        first = torch.randint(stride, (2,), generator=sample_generator(2, step)).tolist()
        losses = pixel_losses(
            logits, labels[:, first[0] :: stride, first[1] :: stride], Grid(network, stride, tuple(first))
        )
        losses.mean().backward()
        optimizer.step()
    mask = resize_nearest(argmax_with_confidence(logits.detach(), network)[0].numpy(), size)
    for axis in (0, 1):
        shifts, inner = np.arange(-3, 4), (slice(8, -8),) * 2
        agreement = [(np.roll(mask, -shift, axis)[inner] == scene[inner]).mean() for shift in shifts]
        bend, slope, _ = np.polyfit(shifts, agreement, 2)
        assert abs(-slope / 2 / bend) < 0.06 and max(agreement) > 0.95


def test_warm_up_is_linear_from_a_tenth_to_one():
    assert [poly(step, 100, 10) for step in (0, 5, 10)] == pytest.approx([0.1, 0.55, 1.0])


def test_rate_decays_by_the_power():
    assert poly(55, 100, 10) == pytest.approx(0.5**0.9)
    assert poly(55, 100, 10, power=2) == pytest.approx(0.25)


def test_rate_stays_positive_to_the_last_step():
    factors = [poly(step, 50, 0) for step in range(50)]
    assert factors[0] == 1 and min(factors) > 0 and factors == sorted(factors, reverse=True)


def read(out):
    """Tag → (steps, values)."""
    events = EventAccumulator(str(out / TENSORBOARD)).Reload()
    scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    return {tag: ([e.step for e in found], [e.value for e in found]) for tag, found in scalars.items()}


def test_tensorboard_has_the_entries_of_the_log(smoke, tmp_path):
    recipe = replace(smoke, steps=3, log_every=1, tensorboard=True)
    with training_log(tmp_path, 0, recipe) as log:
        for step in range(3):
            log(step, 1.5 - step, 0.25, 1e-3 * step)
    entries = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    found = read(tmp_path)
    assert found.keys() == {"loss", "gradient_norm", "lr", "moments_per_s"}
    for tag, (steps, values) in found.items():
        assert steps == [0, 1, 2] and values == pytest.approx([entry[tag] for entry in entries], rel=1e-5, abs=1e-7)


def test_steps_that_a_resumed_run_repeats_are_replaced(smoke, tmp_path):
    recipe = replace(smoke, steps=4, log_every=1, tensorboard=True)
    for first, loss in ((0, 1.0), (2, 5.0)):
        with training_log(tmp_path, first, recipe) as log:
            for step in range(first, 4 if first else 3):
                log(step, loss, 1.0, 1.0)
    assert read(tmp_path)["loss"] == ([0, 1, 2, 3], [1, 1, 5, 5])
    with training_log(tmp_path, 0, recipe) as log:  # a run that was ended before its first state, or --restart
        log(0, 7.0, 1.0, 1.0)
    assert read(tmp_path)["loss"] == ([0], [7])


def test_missing_package_is_refused_before_anything_is_written(smoke, tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(PackageError, match=r"tensorboard, which is not installed.*pip install tensorboard"):
        train(replace(smoke, tensorboard=True), tmp_path / "out")
    assert not (tmp_path / "out").exists()
