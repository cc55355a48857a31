"""Rendered streets: kept, replaced when outdated, never half-done."""

from pathlib import Path

import pytest

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.cli.demo import runner as recording
from mlesam_ros.cli.demo.runner import ProcessError, StreetRecording, recordings_for, render


def test_streets_differ_and_are_none_of_the_training():
    made = recordings_for([("day", 5), ("night", 6)], 64)
    assert [(r.daylight, r.steps, r.side) for r in made] == [("day", 5, 64), ("night", 6, 64)]
    assert len({r.seed for r in made}) == 2
    assert min(r.seed for r in made) >= 9000


def test_rendered_once_and_again_when_the_code_has_changed(tmp_path, monkeypatch):
    wanted = [StreetRecording("day", 2, 32, 9000)]
    (path,) = render(wanted, tmp_path)
    with BagReader(path) as reader:
        assert reader.counts["/ground_truth/labels"] == 2
    assert list(tmp_path.iterdir()) == [path]
    born = path.stat().st_ino
    assert render(wanted, tmp_path) == [path]
    assert path.stat().st_ino == born
    monkeypatch.setattr(recording, "_CACHE_SOURCES", ("errors.py",))
    (newer,) = render(wanted, tmp_path)
    assert list(tmp_path.iterdir()) == [newer] != [path]


def test_failure_leaves_nothing_behind(tmp_path):
    with pytest.raises(ProcessError, match="dusk"):
        render([StreetRecording("dusk", 2, 32, 9000)], tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_code_that_a_recording_depends_on_exists():
    package = Path(recording.__file__).resolve().parents[2]
    assert [pattern for pattern in recording._CACHE_SOURCES if not list(package.glob(pattern))] == []
