# SPDX-License-Identifier: Apache-2.0
"""A finished checkpoint on a published set: the figures of the evaluation after its training, or a refusal."""

import json

import pytest
from small_recipes import tiny
from typer.testing import CliRunner

from mlesam_ros.cli.app import app
from mlesam_training.train_run import train


@pytest.fixture(scope="module", params=["deliver", "mcubes"])
def trained(request, roots, tmp_path_factory):
    """A data set, its folder, and the result of a short training on it."""
    folder = tmp_path_factory.mktemp("run")
    recipe = tiny(request.param, roots[request.param], folder / "recipe.yaml", robustness=True)
    return request.param, roots[request.param], train(recipe, folder / "out")


def asked(name, root, *more):
    return CliRunner().invoke(app, ["evaluate", str(root), "--dataset", name, *map(str, more)])


def test_scores_equal_those_of_the_training_run(trained, tmp_path):
    name, root, made = trained
    split = "test" if name == "mcubes" else "val"
    done = asked(name, root, "--split", split, "--checkpoint", made.weights, "--precision", "fp32", "--robustness",
                 "--output", tmp_path, "--json", tmp_path / "figures.json")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "figures.json").read_text())
    assert json.loads((tmp_path / "latest" / "metrics.json").read_text()) == found
    assert found.pop("output_dir").startswith(str(tmp_path))
    wanted = json.loads(made.evaluation.read_text())
    assert found.pop("data").split()[:2] == wanted.pop("data").split()[:2] == [name, split]
    for entry in (*found["subsets"], *wanted["subsets"]):  # of all rows here, of those without a fit there
        for key in ("calibration_error", "calibration_error_before", "temperature", "pixels", "bins", "coverage"):
            entry.pop(key, None)
    assert found == wanted


def test_other_conditions_are_other_rows(roots, tmp_path):
    root = roots["deliver"]
    made, found = train(tiny("deliver", root, tmp_path / "recipe.yaml"), tmp_path / "out"), {}
    for weather in ("sun", "rain"):
        out = tmp_path / f"{weather}.json"
        chosen = "--split", "train", "--option", f"weather={weather}", "--checkpoint", made.weights
        done = asked("deliver", root, *chosen, "--output", tmp_path, "--json", out)
        assert done.exit_code == 0, done.output
        found[weather] = json.loads(out.read_text())
    assert list(found["sun"]["subsets"][0]["conditions"]["weather"]) == ["sun"]
    assert found["sun"]["subsets"] != found["rain"]["subsets"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--drop", "camera"], "--drop is for bags"),
        (["--threads", "1"], "--threads is for bags"),
        (["--option", "weather"], "Write KEY=VALUE"),
        (["--option", "wether=sun"], "did you mean weather?"),
        (["--split", "nowhere"], "nowhere"),
        (["--precision", "fp16"], "precision"),
        (["more"], "2 folders"),
    ],
)
def test_invalid_options_are_refused(arguments, words, roots, tmp_path):
    done = asked("deliver", roots["deliver"], "--output", tmp_path, *arguments)
    assert done.exit_code == 2
    assert words in " ".join(done.output.split())


def test_experts_of_other_encodings_are_refused(roots, tmp_path):
    done = asked("deliver", roots["deliver"], "--output", tmp_path)
    assert done.exit_code == 2
    said = " ".join(done.output.split())
    assert "trained on images of log_depth, but those of the data set are of hha" in said
