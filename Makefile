# The one door to everything. `make help` lists what there is.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

PYTHON ?= python3
# Folder of recorded provider traffic; tests and `make conformance` skip, and say so, where it is absent.
RECORDINGS ?= $(abspath $(wildcard ../shared/recordings))
# A lean upstream in C for benchmarks; the sandbox stands in where it is absent.
MOCK_UPSTREAM ?= $(abspath $(wildcard ../shared/bench/mock_upstream.c))
export RECORDINGS MOCK_UPSTREAM

BIN := .venv/bin
STUBS := .venv-proto/bin/python tools/generate_stubs.py
BUF := XDG_CACHE_HOME=$(CURDIR)/.cache $(BIN)/buf
BASELINE := proto/milestones/0.3.binpb

.PHONY: help
help: ## Lists the targets.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "  %-12s %s\n", $$1, $$2}'

.PHONY: setup
setup: .venv/ready ## Makes the environment in .venv, with .venv/bin/keyswitch.

.venv/ready: requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "keyswitch needs Python 3.11 or newer; set PYTHON=")'
	@test -x .venv/bin/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

.venv-proto/ready: requirements/proto.txt
	@test -x .venv-proto/bin/python || $(PYTHON) -m venv .venv-proto
	@.venv-proto/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/proto.txt
	@touch $@

.PHONY: demo
demo: setup ## Streams one generation from CLI to sandbox and back, and shows the receipt.
	@$(BIN)/python tools/demo.py

.PHONY: test
test: setup ## Runs the tests.
	@$(BIN)/python -m pytest

.PHONY: test-engine
test-engine: setup ## Builds llama.cpp's server (minutes) and streams a model of random weights through keyswitch.
	@TEST_ENGINE=1 $(BIN)/python -m pytest -rP --timeout 1800 tests/genuine

.PHONY: check
check: setup .venv-proto/ready ## Lint, types, import rules, contract, drift of everything generated.
	@echo 'lint'; $(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .
	@echo 'types'; $(BIN)/mypy --no-error-summary
	@echo 'imports'; $(BIN)/lint-imports >/dev/null || $(BIN)/lint-imports
	@echo 'contract'; $(BUF) lint && $(BUF) format --diff --exit-code && $(BUF) breaking --against $(BASELINE)
	@echo 'stubs'; $(STUBS) --check
	@echo 'docs'; $(BIN)/python tools/generate_docs.py --check

.PHONY: proto
proto: .venv-proto/ready ## Generates the stubs from the .proto files.
	@$(STUBS)

.PHONY: milestone
milestone: setup ## Makes the contract as it is the one that `check` compares with.
	@$(BUF) build -o $(BASELINE)

.PHONY: docs
docs: setup ## Generates the tables in docs/.
	@$(BIN)/python tools/generate_docs.py

.PHONY: run
run: setup ## Runs the server on its defaults.
	@$(BIN)/keyswitch serve

.PHONY: conformance
conformance: setup ## Compares every recorded answer with `decode`, and recorded requests with what is sent; prints agreement.
	@$(BIN)/python tools/conformance.py
	@$(BIN)/python tools/request_conformance --show 3 --least 0.95

.PHONY: fuzz
fuzz: setup ## Damages answers of every dialect for some minutes; nothing but an error of the tree may come of it.
	@FUZZ_EXAMPLES=8000 $(BIN)/python -m pytest -q --timeout 1800 tests/engine/test_decoders_hostile.py

.PHONY: mutants
mutants: setup ## Breaks the rules of routing one by one in a copy; none may go unnoticed by the decision table. Some minutes.
	@$(BIN)/python tools/mutants.py

.PHONY: bench
bench: setup ## Measures CPU a unit of work, beside what the upstream alone costs.
	@$(BIN)/python tests/bench/run.py
	@$(BIN)/python tests/bench/decode.py
	@$(BIN)/python tests/bench/routing.py

.PHONY: lock
lock: setup ## Pins the newest versions that fit, with hashes and without index addresses.
	@test -x .cache/uv/bin/uv || { $(PYTHON) -m venv .cache/uv && .cache/uv/bin/python -m pip install --quiet uv; }
	@for name in dev proto peers engine; do .cache/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-emit-index-url --no-annotate --no-header --no-emit-package keyswitch \
	  -o requirements/$$name.txt requirements/$$name.in; done

.PHONY: format
format: setup ## Formats the code.
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet . ; $(BUF) format -w

.PHONY: clean
clean: ## Removes everything that was made.
	@rm -rf .venv .venv-proto .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
