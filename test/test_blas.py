"""A process of ours multiplies points in the thread that asks for it, and no other turns in a circle afterwards."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
UNDECIDED = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
PRODUCT = """
import os
import numpy as np
np.ones((200_000, 3), np.float32) @ np.ones((3, 3), np.float32)
print(len(os.listdir("/proc/self/task")))
"""
OURS = "from mlesam_ros.resources import limit_blas_threads\nlimit_blas_threads()\n" + PRODUCT
SHOWN = "import os, sys; sys.stderr.write('decided: ' + os.environ.get('OPENBLAS_NUM_THREADS', 'no')); os._exit(3)"


def threads(program, **environment):
    command = [sys.executable, "-c", program]
    return int(subprocess.run(command, env={**UNDECIDED, **environment}, check=True, capture_output=True).stdout)


def test_numpy_starts_no_threads_unless_asked_to():
    alone, shared = threads(PRODUCT, OPENBLAS_NUM_THREADS="1"), threads(PRODUCT)
    if shared == alone:
        pytest.skip("the NumPy of this machine multiplies in one thread anyway")
    assert threads(OURS) == alone
    assert threads(OURS, OPENBLAS_NUM_THREADS="2") > alone


@pytest.mark.parametrize("script", sorted(SCRIPTS.iterdir()), ids=lambda path: path.name)
def test_every_process_of_ours_decides_before_numpy_is_there(script, tmp_path):
    """Started with a NumPy in the way that shows what was decided when it was imported."""
    (tmp_path / "numpy.py").write_text(SHOWN)
    paths = os.pathsep.join([str(tmp_path), str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(script), "info", "nothing"]
    done = subprocess.run(command, check=False, env={**UNDECIDED, "PYTHONPATH": paths}, capture_output=True)
    assert (done.returncode, done.stderr) == (3, b"decided: 1")
