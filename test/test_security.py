# SPDX-License-Identifier: Apache-2.0
"""What no line of the project does, whatever comes in: run code that it was sent, or write where it was not told to."""

import ast
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.evaluation.bag_outputs import unique_names
from mlesam_ros.evaluation.plots import Line, heat_map, line_plot, presence_plot
from mlesam_ros.evaluation.report import ReportSample, write_overview, write_report
from mlesam_ros.evaluation.results import reliability_rows
from mlesam_ros.evaluation.scores import MaskMetrics
from mlesam_ros.labels import LabelSpace
from mlesam_ros.metrics import Reliability

CHECKOUT = Path(__file__).resolve().parents[1]
FOLDERS = ("mlesam_ros", "training", "launch", "requirements")
SOURCES = [CHECKOUT / "setup.py", *sorted(path for f in FOLDERS for path in (CHECKOUT / f).rglob("*.py"))]
"""What is installed, and what installs it."""

EXECUTES = {"eval", "exec", "compile", "__import__"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
UNPICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
SAFE_LOADERS = {"_StrictLoader"}  # of strict_yaml, by descent from SafeLoader


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    """(dotted name as it is written, call)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def words(call: ast.Call) -> dict[str, str]:
    return {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords if keyword.arg}


def faults(path: Path) -> list[str]:
    """Calls and imports that run what they are given."""
    found = []
    for name, call in calls(path):
        given = words(call)
        if name in EXECUTES or name in SHELLS or given.get("shell", "False") != "False":
            found.append(f"line {call.lineno}: {name} runs a text")
        if name.endswith("torch.load") and given.get("weights_only") != "True":
            found.append(f"line {call.lineno}: torch.load without weights_only=True unpickles")
        if name.endswith(("np.load", "numpy.load")) and given.get("allow_pickle", "False") != "False":
            found.append(f"line {call.lineno}: {name} unpickles")
        if name.startswith("yaml.") and "load" in name and name != "yaml.safe_load":
            loader = given.get("Loader") or ast.unparse(call.args[1])
            if not set(loader.replace(" if unique else ", " ").split()) <= SAFE_LOADERS:
                found.append(f"line {call.lineno}: {name} with {loader} makes objects")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [f"line {node.lineno}: import of {name}" for name in names if name.split(".")[0] in UNPICKLES]
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(CHECKOUT)))
def test_nothing_that_comes_in_is_run(path):
    assert faults(path) == []


@pytest.mark.parametrize(
    "line",
    [
        "eval(text)", "exec(text)", "os.system(text)", "subprocess.run(text, shell=True)", "import pickle",
        "from pickle import loads", "torch.load(path)", "torch.load(path, weights_only=False)",
        "yaml.load(t, yaml.Loader)", "yaml.unsafe_load(t, 0)", "yaml.load(t, Loader=yaml.FullLoader)",
        "np.load(path, allow_pickle=True)",
    ],
)  # fmt: skip
def test_the_check_sees_it(line, tmp_path):
    (tmp_path / "some.py").write_text(line)
    assert len(faults(tmp_path / "some.py")) == 1


def test_settings_come_in_by_one_door():
    """strict_yaml knows no tag but YAML's own; nobody else parses YAML."""
    readers = {path.name for path in SOURCES for name, _ in calls(path) if name.startswith("yaml.") and "load" in name}
    assert readers == {"strict_yaml.py"}


# Names from outside that become names of files


@pytest.mark.parametrize("name", [".mcap", "..mcap", "...mcap", ".drive.mcap", "..zstd.mcap", ".mcap.zstd", "..", "."])
def test_the_folder_of_a_bag_lies_in_the_output_folder(name, tmp_path):
    inside = tmp_path / "a"
    inside.mkdir()
    path = inside / name
    if name not in ("..", "."):
        path.write_bytes(b"x")
    for key in unique_names([path, path]):
        assert key and (tmp_path / "out" / key).resolve().parent == (tmp_path / "out").resolve(), key


@pytest.mark.parametrize("topic", ["/../../up", "/a/../../../b", "/", "a\0b", "/" + "x" * 300])
def test_topics_are_no_names_of_files(topic, tmp_path):
    """A bag's topics, written and read, leave the bag and nothing beside it."""
    with BagWriter(tmp_path / "deep" / "er" / "bag") as writer:
        writer.add(topic, "std_msgs/msg/Header", 1, {})
    with BagReader(tmp_path / "deep" / "er" / "bag") as reader:
        assert list(reader.topics) == [topic] and len(list(reader)) == 1
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["bag.mcap", "metadata.yaml"]


# The report


EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&"


class Tags(HTMLParser):
    """The elements and attributes of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data):
        self.text += data


def pages(folder: Path, text: str) -> list[Tags]:
    """The pages of one bag and of two, with a text in every place that a bag or a path can fill."""
    milliseconds = {"p50": 1.0, "p95": 2.0, "p99": None}
    outcomes = dict.fromkeys(("received", "used", "superseded", "late", "unmatched", "refused"), 1)
    sensor = {"topic": f"/{text}", "type": text, "unusable": 0, "skew_ms": milliseconds, **outcomes}
    row = {"bag": text, "masks": 1, "miou": None, "consistency": None, "latency_ms": milliseconds, "warnings": 1}
    reliability = Reliability()
    reliability.add(np.zeros(2, int), np.array([0, 1]), np.array([0.9, 0.6]))
    figures = {
        "bag": f"/{text}", "bag_sha256": text, "masks": 2, "sets": 2, "compared": 1, "miou": 1.0, "confidence": 50.0,
        "consistency": None, "latency_ms": milliseconds, "counters": outcomes, "per_class": {text: 1.0},
        "class_shares": {text: 1.0}, "confusion": [[1, 0]],
        "subsets": [{"sensors": [text], "miou": 1.0, "agreement": 1.0, "masks": 1}],
        "any_modal": {"average": 1.0, "expected": {"0.1": 1.0}}, "emm": {}, "rmm": {}, "nm": {text: 1.0},
        "reliability": reliability_rows({(text,): reliability}), "sensors": {text: sensor}, "warnings": [text],
        "config": {text: text, "list": [text], "map": {text: [text]}}, "versions": {text: text},
    }  # fmt: skip
    masks = [
        MaskMetrics(n, (text,), {text: 0.0}, {text: {"camera": 1.0}}, 0.5, None, {"model": 0.01}) for n in range(2)
    ]
    space = LabelSpace("deliver", (text,), ((1, 2, 3),))
    sample = ReportSample(masks[0], None, {"mask": ""}, {"camera": ""}, None, (1, 1), None, [0])
    write_report(folder / "one.html", figures, masks, [sample], space)
    write_overview(folder / "all.html", figures, [{**row, "report": f"{text}/"}, {"bag": text, "error": text}], space)
    return [Tags((folder / name).read_text()) for name in ("one.html", "all.html")]


def test_report_shows_text_of_a_bag_and_does_not_run_it(tmp_path):
    plots = [
        heat_map(np.ones((1, 1)), [EVIL], [EVIL], [[EVIL]]),
        line_plot(np.arange(2.0), [Line(EVIL, "red", np.arange(2.0))], EVIL),
        presence_plot(np.arange(2.0), [Line(EVIL, "red", np.ones(2))]),
    ]
    for page in map(Tags, plots):
        assert EVIL in page.text
        assert not any(tag in ("script", "img") or "onerror" in names for tag, names in page.tags)
    for page, harmless in zip(pages(tmp_path, EVIL), pages(tmp_path, "text"), strict=True):
        assert page.tags == harmless.tags and EVIL in page.text
