"""The loop: it learns, its options do what they say, and what is not a number stops it."""

import json
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from mlesam_ros.errors import CheckpointError, ConfigError, MlesamError
from mlesam_ros.training.attention import PlainAttention
from mlesam_ros.training.chance import SampleDropout, generator
from mlesam_ros.training.feed import Feed, epoch_rows
from mlesam_ros.training.log import LOG, SCALARS
from mlesam_ros.training.loop import BAD_BATCH, STATE, run
from mlesam_ros.training.pretrain import PretrainStage
from mlesam_ros.training.transforms import Augment

STATISTICS = (torch.zeros(3), torch.ones(3))


def new_stage(recipe):
    torch.manual_seed(recipe.seed)
    return PretrainStage("hiera_nano", 25, recipe.mixture, None)


def trained(recipe, street, out, resume=True):
    out.mkdir(exist_ok=True)
    stage = new_stage(recipe)
    run(recipe, stage, street, Augment(recipe.augmentation, STATISTICS), out, resume)
    return stage.model.state_dict()


def losses(out):
    return [json.loads(line)["loss"] for line in (out / LOG).read_text().splitlines()]


def test_the_loss_goes_down(smoke, street, tmp_path):
    trained(replace(smoke, steps=30, log_every=5), street, tmp_path)
    assert len(losses(tmp_path)) == 6
    assert losses(tmp_path)[-1] < 0.8 * losses(tmp_path)[0]


def test_what_is_written_while_it_goes(smoke, street, tmp_path, capsys):
    trained(replace(smoke, steps=2, log_every=1), street, tmp_path)
    entry = json.loads((tmp_path / LOG).read_text().splitlines()[1])
    assert set(entry) == {"step", "loss", "gradient_norm", "lr", "moments_per_s", "elapsed_s"}
    assert "pretrain 2/2: loss" in capsys.readouterr().err
    assert len(list((tmp_path / SCALARS).iterdir())) == 1


def test_threads_that_read_ahead_change_nothing(smoke, street, tmp_path):
    recipe = replace(smoke, steps=5)
    alone, ahead = (trained(replace(recipe, workers=w), street, tmp_path / str(w)) for w in (0, 2))
    assert all(torch.equal(alone[name], ahead[name]) for name in alone)


def test_a_batch_in_parts_holds_the_same_samples_and_learns(smoke, street, tmp_path):
    stage, device = new_stage(smoke), torch.device("cpu")
    vary = Augment(smoke.augmentation, STATISTICS)
    (whole,), parts = (Feed(replace(smoke, accumulate=n), street, vary, stage.plan, device).step(3) for n in (1, 2))
    assert [row for part in parts for row in part.rows] == list(whole.rows)
    assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)
    for one, other in zip([s for part in parts for s in part.samples], whole.samples, strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    out = trained(replace(smoke, steps=1, accumulate=2), street, tmp_path)
    assert any(not torch.equal(out[name], value) for name, value in new_stage(smoke).model.state_dict().items())


def test_the_average_follows_the_weights(smoke, street, tmp_path):
    plain = trained(replace(smoke, steps=6), street, tmp_path / "plain")
    slow = trained(replace(smoke, steps=6, ema=0.9), street, tmp_path / "slow")
    first = new_stage(smoke).model.state_dict()
    name = "head.classify.weight"
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
    with pytest.raises(CheckpointError, match="other data"):
        trained(recipe, street, tmp_path)


def test_a_batch_that_cannot_be_filled_is_refused(smoke, street, tmp_path):
    with pytest.raises(ConfigError, match="batch is 9, but the data set has 8"):
        trained(replace(smoke, batch=9), street, tmp_path)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_batch(smoke, street, tmp_path, accumulate):
    recipe, stage = replace(smoke, accumulate=accumulate), new_stage(smoke)
    loss, calls = stage.loss, []

    def spoilt(batch):
        calls.append(batch)
        return loss(batch) * (float("nan") if len(calls) == 2 * accumulate else 1)

    stage.loss = spoilt
    with pytest.raises(MlesamError, match=rf"loss of step 1 is nan.*{BAD_BATCH}"):
        run(recipe, stage, street, Augment(smoke.augmentation, STATISTICS), tmp_path)
    kept = torch.load(tmp_path / BAD_BATCH, weights_only=True)
    spoiler = calls[-1]
    assert kept["step"] == 1 and kept["rows"] == list(spoiler.rows) and kept["loss"] != kept["loss"]
    assert torch.equal(kept["labels"], spoiler.labels) and kept["recipe"]["lr"] == smoke.lr
    for one, other in zip(kept["samples"], spoiler.samples, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)
    assert all(p.isfinite().all() for p in stage.model.parameters()), "the spoilt step was taken"


def test_a_gradient_that_is_not_a_number_stops_the_run_too(smoke, street, tmp_path):
    stage = new_stage(smoke)
    stage.model.head.classify.bias.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(MlesamError, match="norm of its gradient"):
        run(smoke, stage, street, Augment(smoke.augmentation, STATISTICS), tmp_path)
    assert not (tmp_path / STATE).exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_attention_is_attention(dtype):
    q, k, v = (torch.randn(2, 3, n, 16, dtype=dtype, requires_grad=True) for n in (5, 7, 7))
    expected = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    with PlainAttention():
        found = F.scaled_dot_product_attention(q, k, v, dropout_p=0.0)
        masked = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.02}
    torch.testing.assert_close(found.float(), expected, **close)
    causal = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(masked, causal)


def test_dropout_of_a_sample_does_not_know_its_neighbours():
    drop, x = torch.nn.Dropout2d(0.5), torch.ones(4, 50, 2, 2)
    with SampleDropout([generator(0, 7, place) for place in range(4)]):
        whole = drop(x)
    with SampleDropout([generator(0, 7, place) for place in (2, 3)]):
        part = drop(x[2:])
    assert torch.equal(part, whole[2:]) and not torch.equal(whole[0], whole[1])
    assert set(whole.unique().tolist()) == {0.0, 2.0}
    assert whole.mean().item() == pytest.approx(1, abs=0.2)
    assert torch.equal(whole[:, :, 0, 0], whole[:, :, 1, 1])
    with SampleDropout([]):
        assert torch.equal(drop.eval()(x), x)
