# SPDX-License-Identifier: Apache-2.0
"""OpCounter counts operations, transfers, waits, and memory while it is alive."""

import torch
from counting import count


def test_memory_is_counted_while_it_is_alive():
    def work():
        a = torch.zeros(1000)
        b = a + 1
        del a
        return b.view(10, 100) + 1

    counting = count(work)
    assert (counting.operations, counting.views) == (3, 1)
    assert (counting.allocations, counting.allocated, counting.peak) == (3, 12_000, 8_000)
    assert counting.alive == 0  # the result is gone, too


def test_work_in_place_allocates_nothing():
    x = torch.zeros(10)
    counting = count(lambda: x.add_(1).relu_())
    assert (counting.operations, counting.allocations, counting.views) == (2, 0, 0)


def test_whatever_the_host_must_know_is_a_wait():
    x = torch.arange(5.0)
    assert count(lambda: x.sum().item()).waits == {"_local_scalar_dense": 1}
    assert count(x.nonzero).waits == {"nonzero": 1}
    assert sum(count(lambda: x[x > 2]).waits.values()) == 1
    assert not count(lambda: x.where(x > 2, 0).sum()).waits


def test_inference_mode_hides_nothing():
    layer, x = torch.nn.Linear(4, 4), torch.zeros(2, 4)

    def infer():
        with torch.inference_mode():
            layer(x)

    def work():
        with torch.no_grad():
            layer(x)

    assert vars_of(count(infer)) == vars_of(count(work))


def vars_of(counting):
    return counting.operations, counting.views, counting.allocations, counting.peak


def test_the_meta_device_stands_for_a_gpu():
    def work():
        there = torch.ones(6, dtype=torch.uint8).to("meta")
        back = (there + 1).cpu()
        assert back.tolist() == [0] * 6
        return torch.zeros(4, 2, device="meta")[torch.tensor([2, 0])]

    counting = count(work)
    assert (counting.uploads, counting.uploaded) == (2, 6 + 16)  # an index has to go there as well
    assert (counting.reads, counting.read) == (1, 6)


def test_fused_attention_is_one_operation():
    q = torch.zeros(1, 2, 16, 8, device="meta")
    with torch.inference_mode():
        assert count(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q)).operations == 1
