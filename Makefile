# SPDX-License-Identifier: Apache-2.0
# make run     watch four simulated sensors being segmented, two of them failing on the way
# make test    linters and tests                           (ARGS="-k sync" goes to pytest, TESTS=test/ros narrows it)
# make setup   the set-up alone, which run and test begin with; it leaves $(VENV)/bin/mlesam
# make lint    ruff and mypy; make pytest: the tests alone
# make faults  every fault of every sensor, and pairs of them, over the real transport; the table goes to docs/reliability.md
# make soak    the node for an hour beside ten readings a second of each sensor, watched (MINUTES=... for less,
#              PAGE=docs/reliability.md to put the table there)
# make fuzz    100,000 damaged messages and files at every reader (CASES=... for more, SEED=... for others)
# make oracles   the tests that compare with launch, bondpy, message_filters and sensor_msgs_py, which have no wheels: their
#              sources are fetched by git                 (ARGS="--only kilted", ARGS="--from ..." for a mirror)
# make coverage  the tests, then a table of the lines that they did not run
# make package   a wheel, checked; from it alone, in an empty environment, the node on a played bag, and the demo
# make site    the documentation as a site, in build/site
# make lock    write down versions and hashes of what requirements/ leads to       (UPGRADE=1 for newer versions)
# make clean   remove what was built; distclean removes the virtual environments as well
#
# For a machine without ROS: everything comes from wheels into a virtual environment beside this file. With ROS_DISTRO=jazzy
# that is .venv-jazzy. On a machine with ROS 2, build with colcon instead; README.md says how.

ROS_DISTRO ?= kilted
PYTHON ?= python3
TESTS ?= test
ARGS ?=
CASES ?= 100000
SEED ?= 1
MINUTES ?= 60
PAGED := $(addprefix --page ,$(PAGE))

VENV := $(if $(filter kilted,$(ROS_DISTRO)),.venv,.venv-$(ROS_DISTRO))
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps

# A sourced ROS, or the environment of another virtual environment's Python, must not leak into this one.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV AMENT_PREFIX_PATH CMAKE_PREFIX_PATH LD_LIBRARY_PATH _ROS_WHEELS_BOOTSTRAP_COMPLETE
# Discovery stays on this machine. Every distribution with wheels reads this variable; Humble reads ROS_LOCALHOST_ONLY.
export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
export MLESAM_REQUIRE_MESSAGES := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export SAM2_BUILD_CUDA := 0
# Two workers on the cores that there are; mlesam_ros/resources.py says what NumPy would do with them.
export OPENBLAS_NUM_THREADS := 1

ifeq ($(wildcard requirements/ros-$(ROS_DISTRO).txt),)
$(error ROS_DISTRO=$(ROS_DISTRO) has no wheels; kilted and jazzy have, and on a ROS machine colcon builds this package)
endif

# A stamp's name carries the hash of what it stands for, so that a change of content, and nothing else, does the step again.
hash = $(shell find $(1) -type f ! -name '*.pyc' 2>/dev/null | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -c1-16)
PACKAGE := mlesam_ros training msg config launch weights scripts cmake CMakeLists.txt package.xml setup.py pyproject.toml
READY := $(STAMPS)/requirements-$(call hash,requirements)
INSTALLED := $(STAMPS)/package-$(call hash,$(PACKAGE))

# Nothing is installed whose hash is not in requirements/locked, and those files are complete: nothing is resolved.
PIP := $(BIN)/python -m pip -qq --no-input install --no-deps --no-build-isolation
HASHED := $(PIP) --require-hashes -r requirements/locked
say = @printf '==> %s\n' '$(1)'

# One thing after the other, whatever -j says: the last line of a test run is pytest's.
.NOTPARALLEL:
.PHONY: run test pytest oracles coverage faults fuzz soak package setup lint site lock clean distclean

run: setup
	@$(BIN)/mlesam demo $(ARGS)

setup: $(INSTALLED)

test: lint pytest

pytest: setup
	$(call say,pytest on ROS 2 $(ROS_DISTRO))
	@$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS) $(TESTS)

coverage: setup
	@$(BIN)/python -m pytest -n 2 --dist loadfile --cov --cov-report term-missing:skip-covered $(ARGS) $(TESTS)

oracles: setup
	@$(BIN)/python tools/oracles.py $(ARGS)

fuzz: setup
	$(call say,$(CASES) damaged messages and files of seed $(SEED): the table below is in build/fuzz, too)
	@MLESAM_FUZZ=$(CASES) MLESAM_FUZZ_SEED=$(SEED) $(BIN)/python -m pytest -n 2 --durations 5 $(ARGS) test/fuzz

faults: setup
	$(call say,every fault of every sensor and of pairs)
	@$(BIN)/python test/reliability/faults.py --page docs/reliability.md

soak: setup
	$(call say,$(MINUTES) minutes of traffic at 10 Hz)
	@$(BIN)/python test/reliability/soak.py --minutes $(MINUTES) $(PAGED)

package: setup
	$(call say,wheel)
	@$(BIN)/python tools/fresh_install.py --ros $(ROS_DISTRO) $(PAGED)

lint: setup
	$(call say,ruff)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	$(call say,mypy)
	@$(BIN)/mypy

site: setup
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(call say,build/site/index.html)

lock:
	@$(PYTHON) -m venv build/lock
	@build/lock/bin/python -m pip -qq install --require-hashes -r requirements/locked/uv.txt
	@build/lock/bin/python requirements/lock.py

clean:
	rm -rf build install log .mypy_cache .pytest_cache .ruff_cache .hypothesis

distclean: clean
	rm -rf .venv .venv-jazzy

$(READY):
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info[:2] <= (3, 13) or sys.exit("python3 is " + \
	  sys.version.split()[0] + ", and 3.11 to 3.13 have all the wheels; name another: make PYTHON=python3.12")'
	$(call say,1/5 system libraries and compiler)
	@PYTHON=$(PYTHON) requirements/system.sh
	$(call say,2/5 PyTorch into $(VENV): the largest download)
	@$(PYTHON) -m venv $(VENV)
	@$(HASHED)/torch.txt
	@if $(BIN)/python requirements/wants_cuda.py; then $(HASHED)/cuda.txt; fi
	$(call say,3/5 ROS 2 $(ROS_DISTRO) from wheels)
	@$(HASHED)/ros-$(ROS_DISTRO).txt
	$(call say,4/5 libraries and tools)
	@$(HASHED)/core.txt
	@mkdir -p $(STAMPS) && touch $@

$(INSTALLED): $(READY)
	$(call say,5/5 mlesam_ros and its messages)
	@$(PIP) .
	@rm -f $(STAMPS)/package-* && touch $@
