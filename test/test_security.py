"""What no line of the project does, whatever comes in: run code that it was sent, or write where it was not told to."""

import ast
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from mlesam_ros.bags.reader import BagReader
from mlesam_ros.bags.writer import BagWriter
from mlesam_ros.evaluation.bag_outputs import unique_names
from mlesam_ros.evaluation.report import tables
from mlesam_ros.evaluation.report.plots import Line, heat_map, line_plot, presence_plot

CHECKOUT = Path(__file__).resolve().parents[1]
FOLDERS = ("mlesam_ros", "training", "launch", "requirements")
SOURCES = [CHECKOUT / "setup.py", *sorted(path for f in FOLDERS for path in (CHECKOUT / f).rglob("*.py"))]
"""What is installed, and what installs it."""

EXECUTES = {"eval", "exec", "compile", "__import__"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"}
UNPICKLES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
SAFE_LOADERS = {"_Loader", "_LaterWins"}  # of strict_yaml, by descent from SafeLoader


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


def is_harmless(page: str) -> bool:
    """Whether the evil words are only shown."""
    found = Tags(page)
    runs = any(tag in ("script", "img") or "onerror" in names for tag, names in found.tags)
    return not runs and "<script>" in found.text


def test_the_report_shows_what_a_bag_says_and_does_not_run_it():
    skew = {"p50": 0.0, "p95": 0.0}
    fates = dict.fromkeys(("used", "superseded", "late", "unmatched", "refused"), 1)
    entry = {"topic": f"/{EVIL}", "type": EVIL, "received": 5, "unusable": 0, "skew_ms": skew, **fates}
    pieces = {
        "warnings": tables.warning_list([EVIL]),
        "facts": tables.key_values({EVIL: EVIL, "list": [EVIL], "map": {EVIL: EVIL}}),
        "fates": tables.outcome_table({EVIL: entry}),
        "cards": tables.cards([(EVIL, EVIL, EVIL)]),
        "table": tables.plain_table([EVIL], [[EVIL]]),
        "heat": heat_map(np.ones((1, 1)), [EVIL], [EVIL], [[EVIL]]),
        "lines": line_plot(np.arange(2.0), [Line(EVIL, "red", np.arange(2.0))], EVIL),
        "presence": presence_plot(np.arange(2.0), [Line(EVIL, "red", np.ones(2))]),
    }
    for name, piece in pieces.items():
        assert is_harmless(piece), name
