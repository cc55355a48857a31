"""What is said when a network does not fit."""

import pytest
import torch

from mlesam_ros.errors import ConfigError
from mlesam_ros.model.inference import explain_oom

WEIGHTS = torch.nn.Linear(500, 500, bias=False)  # one megabyte


@pytest.mark.parametrize(
    ("error", "needed"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of"), 2148),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), 22),
        (MemoryError(), 1),
    ],
)
def test_how_much_is_needed(error, needed):
    words = rf"needs at least {needed} MB there, 1 MB of them weights.* MB are free"
    with pytest.raises(ConfigError, match=words), explain_oom(WEIGHTS, "cpu"):
        raise error


def test_the_cpus_own_words_are_understood():
    with (
        pytest.raises(ConfigError, match="memory of cpu: it needs at least 40000001 MB"),
        explain_oom(WEIGHTS, "cpu"),
    ):
        torch.empty(10**13)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"), explain_oom(WEIGHTS, "cpu"):
        WEIGHTS(torch.zeros(3))
