# SPDX-License-Identifier: Apache-2.0
"""The loss against its definition, pixel by pixel."""

import math

import pytest
import torch
import torch.nn.functional as F

from mlesam_training.loss import Grid, batch_loss, pixel_losses, select


def loss_of(logits, labels, weights=None):
    """The loss of one head and a batch in one part."""
    return batch_loss([pixel_losses(logits, labels)], labels, weights)


def by_the_definition(logits, labels):
    losses = []
    for b, row, column in (labels != 255).nonzero().tolist():
        probability = torch.softmax(logits[b, :, row, column].double(), 0)[int(labels[b, row, column])]
        losses.append(-math.log(probability))
    losses.sort(reverse=True)
    hard = [loss for loss in losses if loss > -math.log(0.7)]
    least = math.ceil(len(losses) / 16)
    kept = hard if len(hard) >= least else losses[:least]
    return sum(kept) / len(kept)


@pytest.mark.parametrize("sharpness", [0.1, 3.0, 8.0])
def test_hard_pixels_are_those_of_the_definition(sharpness):
    torch.manual_seed(0)
    labels = torch.randint(0, 5, (2, 8, 9), dtype=torch.uint8)
    logits = torch.randn(2, 5, 8, 9) + sharpness * F.one_hot(labels.long(), 5).permute(0, 3, 1, 2)
    labels[0, :3] = 255
    assert loss_of(logits, labels).item() == pytest.approx(by_the_definition(logits, labels), rel=1e-3)


def test_logits_of_another_size_are_resized_bilinearly():
    torch.manual_seed(1)
    logits, labels = torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 16, 16))
    large = F.interpolate(logits, size=(16, 16), mode="bilinear", align_corners=False)
    assert loss_of(logits, labels).item() == pytest.approx(loss_of(large, labels).item())


def test_no_labeled_pixel_gives_zero_and_a_zero_gradient():
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = loss_of(logits, torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0 and logits.grad is not None and not logits.grad.any()


def test_weights_scale_the_share_of_their_class():
    labels = torch.tensor([[[0, 1]]])
    logits = torch.zeros(1, 2, 1, 2, requires_grad=True)
    loss_of(logits, labels, torch.tensor([1.0, 3.0])).backward()
    gradient = logits.grad.abs().sum((0, 1, 2))
    assert gradient[1].item() == pytest.approx(3 * gradient[0].item())


def test_both_heads_count_the_same():
    torch.manual_seed(2)
    first, second, labels = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4), torch.randint(0, 3, (1, 4, 4))
    one = loss_of(first, labels)
    both = batch_loss([pixel_losses(logits, labels) for logits in (first, second)], labels)
    assert both == one + loss_of(second, labels)


def uneven(sharpness):
    """Two samples, one of which has 8 labeled pixels of 256; see `test_hard_pixels_are_those_of_the_definition`."""
    torch.manual_seed(0)
    labels = torch.randint(0, 5, (2, 16, 16))
    labels[1, 0, 8:] = 255
    labels[1, 1:] = 255
    truth = F.one_hot(labels.clamp(max=4), 5).permute(0, 3, 1, 2)
    return (torch.randn(2, 5, 16, 16) + sharpness * truth).requires_grad_(), labels


@pytest.mark.parametrize("sharpness", [0.0, 3.0, 9.0])
@pytest.mark.parametrize("weights", [None, torch.tensor([1.0, 4.0, 0.25, 2.0, 1.0])])
def test_a_batch_in_parts_weighs_pixels_and_not_parts(sharpness, weights):
    """Mean of means. The oracle is the batch in one piece."""
    logits, labels = uneven(sharpness)
    (expected,) = torch.autograd.grad(loss_of(logits, labels, weights), logits)
    parts = [(logits[i : i + 1], labels[i : i + 1]) for i in range(2)]
    losses = [pixel_losses(*part) for part in parts]
    chosen = select([part.detach() for part in losses], [truth for _, truth in parts], weights)
    pairs = zip(losses, parts, strict=True)
    loss = sum(batch_loss([part], truth, weights, [chosen]) for part, (_, truth) in pairs)
    (found,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(loss, loss_of(logits, labels, weights))
    torch.testing.assert_close(found, expected)


def test_a_part_without_labels_takes_nothing_from_the_others():
    logits, labels = uneven(0.0)
    labels[1] = 255
    expected = loss_of(logits[:1], labels[:1])
    losses = [pixel_losses(logits[i : i + 1], labels[i : i + 1]).detach() for i in range(2)]
    chosen = select(losses, [labels[:1], labels[1:]])
    torch.testing.assert_close(batch_loss(losses[:1], labels[:1], None, [chosen]), expected)
    assert batch_loss(losses[1:], labels[1:], None, [chosen]) == 0


@pytest.mark.parametrize(
    ("size", "stride", "first"), [((32, 48), 2, (0, 1)), ((32, 48), 4, (3, 2)), ((32, 47), 3, (1, 0))]
)
def test_label_stride_moves_no_pixel(size, stride, first):
    """Half-pixel conventions. The oracle is the loss of all pixels, of which every n-th is looked at."""
    torch.manual_seed(4)
    logits, labels = torch.randn(2, 3, 8, 12), torch.randint(0, 3, (2, *size))
    picked = (slice(None), slice(first[0], None, stride), slice(first[1], None, stride))
    found = pixel_losses(logits, labels[picked], Grid(size, stride, first))
    torch.testing.assert_close(found, pixel_losses(logits, labels)[picked])
