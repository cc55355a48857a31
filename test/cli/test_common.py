# SPDX-License-Identifier: Apache-2.0
"""Shared parts of the commands: ROS domains and result folders."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlesam_ros.cli import common as domain_module
from mlesam_ros.cli.common import allocate_domain, prepare_own_domain
from mlesam_ros.errors import ConfigError

CHECKOUT = Path(__file__).resolve().parents[2]
CLAIM = """
import sys
from pathlib import Path
from mlesam_ros.cli.common import allocate_domain
print(allocate_domain(Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""


def claimant(folder):
    return subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )


def test_domains_are_exclusive_and_freed_with_their_process(tmp_path):
    first, second = claimant(tmp_path), claimant(tmp_path)
    try:
        taken = {int(first.stdout.readline()), int(second.stdout.readline())}
        assert len(taken) == 2
        assert allocate_domain(tmp_path) not in taken
        first.kill()
        first.wait()
        assert allocate_domain(tmp_path) in taken
    finally:
        for process in (first, second):
            process.kill()
            process.communicate()


def test_error_if_all_domains_are_claimed(tmp_path, monkeypatch):
    monkeypatch.setattr(domain_module, "DOMAINS", range(2, 0, -1))
    assert {allocate_domain(tmp_path), allocate_domain(tmp_path)} == {1, 2}
    with pytest.raises(ConfigError, match="all 2 ROS domains are claimed"):
        allocate_domain(tmp_path)


def test_user_domain_is_kept(monkeypatch):
    monkeypatch.setattr("mlesam_ros.cli.common.configure_ros_env", lambda: None)
    monkeypatch.setenv("ROS_DOMAIN_ID", "7")
    prepare_own_domain()
    assert os.environ["ROS_DOMAIN_ID"] == "7"
