import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.model.router import Router

CHANNELS = {"semantic": 12}


def router(**changes):
    torch.manual_seed(1)
    return Router(MLESAMConfig(**changes), CHANNELS)


def features(count, batch=3):
    return torch.randn(count, batch, 12, 4, 5)


@settings(deadline=None, max_examples=40)
@given(
    order=st.integers(1, 5).flatmap(lambda n: st.permutations(range(n))),
    top_k=st.integers(1, 5),
    how=st.sampled_from(["average", "routed", "both"]),
    gate=st.sampled_from(["linear", "sigmoid"]),
    combine=st.sampled_from(["mean", "sum", "concat"]),
    width=st.sampled_from([0, 3]),
    seed=st.integers(0, 1000),
)
def test_permuting_modalities_permutes_weights_and_nothing_else(order, top_k, how, gate, combine, width, seed):
    module = router(top_k=top_k, features=how, gate=gate, combine=combine, router_width=width)
    torch.manual_seed(seed)
    x = features(len(order))
    fused, weights = module("semantic", x)
    permuted_fused, permuted_weights = module("semantic", x[list(order)])
    torch.testing.assert_close(permuted_fused, fused)
    torch.testing.assert_close(permuted_weights, weights[:, list(order)])


@settings(deadline=None, max_examples=40)
@given(count=st.integers(1, 5), top_k=st.integers(1, 6), renormalize=st.booleans())
def test_keeps_the_k_best(count, top_k, renormalize):
    _, weights = router(top_k=top_k, renormalize=renormalize)("semantic", features(count))
    assert weights.shape == (3, count)
    assert ((weights > 0).sum(1) == min(top_k, count)).all()
    if renormalize or top_k >= count:
        torch.testing.assert_close(weights.sum(1), torch.ones(3))
    else:
        assert (weights.sum(1) < 1).all()


def test_the_formula_by_hand():
    module, x = router(top_k=2, features="both", combine="sum"), features(3, batch=1)
    layer = module.scores["semantic"]
    scores = torch.stack([layer.weight[0] @ x[m, 0].mean((1, 2)) + layer.bias[0] for m in range(3)])
    share = scores.exp() / scores.exp().sum()
    share[share.argmin()] = 0
    share = share / share.sum()
    expected = sum((1 / 3 + share[m]) * x[m, 0] for m in range(3))
    fused, weights = module("semantic", x)
    torch.testing.assert_close(weights[0], share)
    torch.testing.assert_close(fused[0], expected)


def test_renormalised_top_k_is_a_softmax_over_the_kept_ones():
    # The two readings of "softmax and top-k" are one.
    scores = torch.randn(5, 4)
    kept = scores.masked_fill(scores < scores.topk(2).values[:, -1:], -torch.inf)
    torch.testing.assert_close(router(top_k=2, renormalize=True).gate(scores), kept.softmax(-1))


def test_concat_starts_as_the_mean_and_is_trained():
    x = features(4)
    mean, weights = router(combine="mean")("semantic", x)
    module = router(combine="concat")
    fused, same = module("semantic", x)
    torch.testing.assert_close(fused, mean)
    assert torch.equal(same, weights)
    fused.square().mean().backward()
    assert module.mixes["semantic"].weight.grad.abs().sum() > 0
    assert not list(router(combine="concat", features="average").parameters())


def test_hidden_units_of_the_scoring():
    module = router(router_width=5)
    assert sum(p.numel() for p in module.parameters()) == (12 * 5 + 5) + (5 + 1)


def test_a_sigmoid_gate_bounds_how_far_weights_differ():
    x = 100 * features(2)
    _, linear = router(gate="linear")("semantic", x)
    _, sigmoid = router(gate="sigmoid")("semantic", x)
    assert linear.max() > 0.99
    assert sigmoid.max() < 0.74  # e / (1 + e)


@pytest.mark.parametrize("how", ["average", "routed", "both"])
def test_a_single_modality_passes_unchanged(how):
    x = features(1)
    fused, weights = router(features=how)("semantic", x)
    torch.testing.assert_close(fused, x[0])
    assert (weights == 1).all()


def test_the_ablation_rows_are_values():
    x = features(4)
    average, uniform = router(features="average")("semantic", x)
    routed, weights = router(features="routed")("semantic", x)
    both, _ = router(features="both", combine="mean")("semantic", x)
    torch.testing.assert_close(average, x.mean(0))
    torch.testing.assert_close(uniform, torch.full((3, 4), 0.25))
    torch.testing.assert_close(both, (average + routed) / 2)
    assert not torch.allclose(weights, uniform)
    assert not list(router(features="average").parameters())


def test_it_learns():
    module, x = router(top_k=4), features(4)
    fused, _ = module("semantic", x)
    fused.square().mean().backward()
    assert module.scores["semantic"].weight.grad.abs().sum() > 0
