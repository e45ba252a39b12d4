# The commands of the project; `make` alone lists them. Needs make, Python 3.11 or later with its venv module, and a
# package index for the first run. Everything lands in .venv, of the versions and hashes in requirements/.

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
PYTHON := $(BIN)/python
PIP := $(PYTHON) -m pip --disable-pip-version-check --quiet
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url --no-emit-find-links
SOURCES := $(wildcard services gateway ops bench tests)
SUITES := $(wildcard tests/unit tests/contract tests/integration tests/conformance tests/faults)
CAMPAIGN := $(wildcard tests/campaign tests/system)
MIGRATIONS := $(wildcard services/*/migrations/*.sql gateway/migrations/*.sql services/runtime/sql/*.sql)
# More arguments for the command behind a target: make test ARGS="-k coalescer"
ARGS ?=

.PHONY: help
help: ## list the commands
	@awk 'BEGIN { FS = ":.*## " } /^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

##@ Use

.PHONY: run
run: .venv/.project-stamp ## start the whole platform here; Ctrl-C stops it, its data stays
	@exec $(BIN)/dmp run $(ARGS)

##@ Test

# Whole files go to as many processes as there are processors, and all tests of the shared platform to one of them;
# WORKERS=0 runs all in one.
WORKERS ?= auto

.PHONY: test
test: .venv/.dev-stamp ## unit, contract, integration, conformance and fault tests
	@$(PYTHON) -m tests.supervise --numprocesses=$(WORKERS) --dist=loadgroup --no-loadscope-reorder \
		$(SUITES) $(ARGS)

.PHONY: test-system
test-system: .venv/.dev-stamp tests/system/node_modules/.stamp ## tests that need root, or programs of the system
	@$(PYTHON) -m tests.supervise tests/system $(ARGS)

.PHONY: campaign
campaign: .venv/.dev-stamp ## the same tests with full counts; long (DMP_CAMPAIGN_SECONDS bounds each)
	@DMP_CAMPAIGN=1 $(PYTHON) -m tests.supervise --timeout=3600 $(SUITES) $(CAMPAIGN) $(ARGS)

# Each part fails by itself; all are run. One alone: make bench PARTS=bench.overload. A look: make bench ARGS=--quick.
PARTS ?= bench bench.native bench.overload bench.consent bench.audit bench.identity bench.document bench.gateway \
	bench.gateway_flood

.PHONY: bench
bench: .venv/.dev-stamp ## measure (PARTS, ARGS=--quick); writes docs/performance.md and bench/results.json
	@low=0; for part in $(PARTS); do echo "--- $$part"; $(PYTHON) -m $$part $(ARGS) || low=1; done; exit $$low

##@ Check

.PHONY: checks
checks: lint types protos-check migrations-check manifests-check ## all checks below

.PHONY: lint
lint: .venv/.dev-stamp ## style, format, and who may import whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

.PHONY: types
types: .venv/.dev-stamp ## mypy --strict
	@$(BIN)/mypy $(SOURCES)

.PHONY: protos-check
protos-check: .venv/.dev-stamp ## contracts: lint, format, compatibility, fresh stubs
	@$(PYTHON) -m ops.protos check

.PHONY: stubs-check
stubs-check: .venv/.dev-stamp ## only whether stubs/ is what protos/ generates
	@$(PYTHON) -m ops.protos stale

.PHONY: migrations-check
migrations-check: .venv/.dev-stamp ## statements that would lock or break a live database
	@if [ -n "$(MIGRATIONS)" ]; then $(BIN)/squawk $(MIGRATIONS); else echo "no migrations"; fi

.PHONY: manifests-check
manifests-check: .venv/.dev-stamp ## Kubernetes manifests, rendered and validated strictly; the Dockerfile
	@$(BIN)/hadolint Dockerfile
	@$(PYTHON) -m ops.manifests

##@ Change

.PHONY: format
format: .venv/.dev-stamp ## format code and contracts, and fix what can be fixed
	@$(BIN)/ruff check --fix --exit-zero --quiet .
	@$(BIN)/ruff format .
	@$(BIN)/buf format --write protos

.PHONY: protos
protos: .venv/.dev-stamp ## write stubs/ from protos/
	@$(PYTHON) -m ops.protos generate

.PHONY: protos-baseline
protos-baseline: .venv/.dev-stamp ## take the contracts as they are for the published ones
	@$(PYTHON) -m ops.protos baseline

.PHONY: lock
lock: $(PYTHON) ## resolve requirements/*.in anew into *.txt
	@[ -x $(BIN)/uv ] || $(PIP) install uv
	@cd requirements && ../$(COMPILE) $(ARGS) dev.in --output-file dev.txt
	@cd requirements && ../$(COMPILE) $(ARGS) --constraint dev.txt run.in --output-file run.txt

.PHONY: clean
clean: ## remove .venv and caches; the data of `make run` stays
	@rm -rf .venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environment: dev.txt holds run.txt with the same pins, so one .venv serves both -----------------------------

$(PYTHON):
	@found=""; \
	for python in python3.13 python3.12 python3.11 python3; do \
		if "$$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
		then found="$$python"; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
		echo "make: no Python 3.11 or later with its venv module; on Debian or Ubuntu: apt install python3 python3-venv" >&2; \
		exit 1; \
	fi; \
	echo "making .venv with $$("$$found" --version)"; \
	"$$found" -m venv --clear .venv

.venv/.run-stamp: requirements/run.txt | $(PYTHON)
	@echo "installing what the platform runs on"
	@$(PIP) install --require-hashes -r requirements/run.txt
	@touch $@

.venv/.project-stamp: pyproject.toml | .venv/.run-stamp
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

tests/system/node_modules/.stamp: tests/system/package-lock.json
	@echo "installing what the system tests hold the platform against"
	@cd tests/system && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

.venv/.dev-stamp: requirements/dev.txt | .venv/.project-stamp
	@echo "installing what tests and checks need"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@
