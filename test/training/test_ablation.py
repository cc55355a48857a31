"""The ablation: four rows, one recipe, one table."""

import json

import pytest
import yaml
from typer.testing import CliRunner

from mlesam_ros.cli.app import app
from mlesam_ros.errors import ConfigError
from mlesam_ros.model.checkpoint import describe_checkpoint
from mlesam_training.recipe import load_recipe
from mlesam_training.train_run import EXPERTS, ROWS, ablate, train


def test_four_rows_of_one_budget_end_in_one_table(smoke_file, tmp_path):
    fields = yaml.safe_load(smoke_file.read_text()) | {"steps": 1}
    pretrain, experts = tmp_path / "pretrain.yaml", tmp_path / "experts.yaml"
    pretrain.write_text(yaml.safe_dump(fields))
    weights = train(pretrain, tmp_path / "pretrain").weights
    experts.write_text(yaml.safe_dump(fields | {"stage": "experts", "backbone": str(weights)}))
    out, result = tmp_path / "out", tmp_path / "result.json"
    told = CliRunner().invoke(app, ["train", str(experts), "--ablation", "--out", str(out), "--json", str(result)])
    assert told.exit_code == 0, told.output
    content = json.loads((out / "ablation.json").read_text())
    assert json.loads(result.read_text()) == {"ablation": str(out / "ablation.json")}
    assert [row["name"] for row in content["rows"]] == list(ROWS) and content["steps"] == 1
    assert set(content["rows"][0]["conditions"]) == {"night", "none", "sun"}
    configs = {name: describe_checkpoint(out / name / EXPERTS)["config"] for name in ROWS}
    assert [(c["features"], c["auxiliary"]) for c in configs.values()] == [
        ("average", False), ("routed", False), ("both", False), ("both", True)
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="Give a recipe of stage experts"):
        ablate(load_recipe(pretrain), tmp_path)
