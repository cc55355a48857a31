# SPDX-License-Identifier: Apache-2.0
"""tools/oracles.py fetches pinned commits, and runs tests with them of which none may be skipped."""

import subprocess
from dataclasses import replace

import pytest
from oracles import CHECKOUT, SOURCES, TESTS, Source, link, run_tests

OSRF_PYCOMMON = SOURCES["humble"]["osrf_pycommon"]
"""The same for all distributions."""


@pytest.fixture
def upstream(tmp_path):
    """A repository with one tagged package, and its source."""
    folder = tmp_path / "upstream" / "owner+name"
    (folder / "src" / "package").mkdir(parents=True)
    (folder / "src" / "package" / "__init__.py").write_text("VERSION = 1\n")

    def git(*words):
        identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
        return subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True, text=True).stdout

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    git("tag", "-a", "1.0", "-m", "annotated")
    return Source("owner/name", "1.0", git("rev-parse", "HEAD").strip(), "src/package")


@pytest.fixture
def origin(tmp_path):
    return f"{tmp_path}/upstream/{{owner}}+{{name}}"


def test_commit_is_fetched_once(upstream, origin, tmp_path):
    build = tmp_path / "build"
    folder = upstream.fetch(origin, build)
    assert (folder / "__init__.py").read_text() == "VERSION = 1\n"
    (tmp_path / "upstream").rename(tmp_path / "gone")
    assert upstream.fetch(origin, build) == folder and len(list(build.iterdir())) == 1


def test_moved_and_missing_tags_are_refused(upstream, origin, tmp_path):
    with pytest.raises(SystemExit, match=rf"tag 1\.0 of .* is {upstream.commit}, but {'0' * 40} is pinned"):
        replace(upstream, commit="0" * 40).fetch(origin, tmp_path / "build")
    with pytest.raises(SystemExit, match=r"git fetch .*refs/tags/2\.0 failed: "):
        replace(upstream, tag="2.0").fetch(origin, tmp_path / "build")


def test_modules_are_imported_from_the_sources_and_a_skipped_test_is_an_error(upstream, origin, tmp_path):
    source = upstream.fetch(origin, tmp_path / "build")
    link(tmp_path / "path", {"package": source, "another_package": source})
    link(tmp_path / "path", {"package": source})
    assert (source / "__init__.py").is_file()
    passing, skipping = tmp_path / "test_passing.py", tmp_path / "test_skipping.py"
    passing.write_text("import package\n\ndef test_it():\n    assert package.VERSION == 1\n")
    skipping.write_text("import pytest\n\ndef test_it():\n    pytest.importorskip('another_package')\n")
    assert run_tests(tmp_path / "path", [str(passing)])["tests"] == 1
    with pytest.raises(SystemExit, match="'skipped': 1"):
        run_tests(tmp_path / "path", [str(passing), str(skipping)])
    passing.write_text("import os\n\nos._exit(3)\n")
    with pytest.raises(SystemExit, match="no report and returned 3"):
        run_tests(tmp_path / "path", [str(passing)])


def test_every_module_with_tests_has_a_source_or_is_named_in_the_help():
    fetched = {name for modules in SOURCES.values() for name in modules}
    assert TESTS.keys() - fetched == {"cv_bridge"}
    assert all((CHECKOUT / path).is_file() for path in TESTS.values())
    commits = [source.commit for modules in SOURCES.values() for source in {*modules.values()} - {OSRF_PYCOMMON}]
    assert len(set(commits)) == len(commits)
