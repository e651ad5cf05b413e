# `make demo` and `make test` do all the set-up; `make retrain DATA=folder` replaces the shipped models.
PYTHON ?= $(shell command -v python3.11 || echo python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := pip install --quiet --disable-pip-version-check --constraint constraints.txt
INSTALL := $(BIN)/$(PIP_INSTALL)
PARALLEL := --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

export GPAW_CONFIG := $(CURDIR)/workflows/dos/gpaw/siteconfig.py
export OMP_NUM_THREADS ?= 1

.PHONY: demo test lint pytest fast compiled docs check-wheel retrain clean

demo: $(VENV)/installed
	$(BIN)/screen run --max-ehull 0.5
	$(BIN)/screen report

test: lint pytest

pytest: compiled
	$(BIN)/pytest $(PARALLEL)

# While you work: what needs neither a server nor DFT nor a browser, and is soon done.
fast: $(VENV)/installed-dev
	$(BIN)/pytest $(PARALLEL) -m "not (slow or mongo or dft or browser or wheel or live)"

# What tests import is compiled once, not by each of their processes. They say themselves what is wrong.
compiled: $(VENV)/installed-dev
	-$(BIN)/pytest --collect-only --quiet > /dev/null

# The wheel where nothing is of this folder: minutes.
check-wheel: $(VENV)/installed-dev $(VENV)/wheel/installed
	SCREEN_TEST_WHEEL=$(VENV)/wheel $(BIN)/pytest tests/test_wheel.py

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/deptry .

docs: $(VENV)/installed-dev
	$(BIN)/sphinx-build --fail-on-warning --keep-going --conf-dir docs \
	  --doctree-dir docs/_build/doctrees . docs/_build/html

# Called again after an interruption it goes on; .retrained has the names of what is finished.
retrain: $(VENV)/installed
	@test -n "$(DATA)" || { echo "make retrain DATA=folder with edos_gpaw, mp_snapshot and phdos_jarvis.parquet"; exit 2; }
	mkdir -p .retrained
	$(MAKE) $(addprefix .retrained/,$(ZOO))
	rm -r .retrained

ZOO := tight-binding-edos mat2spec-edos mat2spec-plus-edos mat2spec-phdos mat2spec-plus-phdos springs-phdos
TRAIN = $(BIN)/screen train models/zoo/$(@F).yaml --out models/zoo/$(@F) $(if $(wildcard models/zoo/$(@F)/.progress),--resume)
EDOS := --labels $(DATA)/edos_gpaw.parquet --labels models/data/edos_labels.parquet --structures $(DATA)/mp_snapshot.parquet

.retrained/tight-binding-edos .retrained/mat2spec-edos:
	$(TRAIN) $(EDOS)
	touch $@

$(DATA)/taught.parquet: .retrained/tight-binding-edos
	$(BIN)/screen distill $(DATA)/mp_snapshot.parquet $@ --max-sites 30

.retrained/mat2spec-plus-edos: $(DATA)/taught.parquet
	$(TRAIN) $(EDOS) --teacher-labels $<
	touch $@

.retrained/%-phdos:
	$(TRAIN) --labels $(DATA)/phdos_jarvis.parquet
	touch $@

$(BIN)/python:
	$(PYTHON) -m venv --upgrade-deps $(VENV)

$(VENV)/torch: constraints.txt | $(BIN)/python
	$(INSTALL) torch
	touch $@

$(VENV)/installed: $(VENV)/torch pyproject.toml
	$(INSTALL) --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/torch pyproject.toml
	$(INSTALL) --editable ".[dev,docs,gpaw,e3nn,dashboard,hub,optimade]"
	touch $(VENV)/installed $@

# All that the wheel needs, without it. Its folder lies in the other environment's.
$(VENV)/wheel/installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PYTHON) -m venv --clear --upgrade-deps $(VENV)/wheel
	$(VENV)/wheel/bin/$(PIP_INSTALL) torch
	$(VENV)/wheel/bin/$(PIP_INSTALL) .
	$(VENV)/wheel/bin/pip uninstall --quiet --yes edos-screening
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
