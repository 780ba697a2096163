# Two commands: `make run` starts a server, `make test` checks everything. Both need only python3 (3.11+) and a package index.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: help run test check fast faults bench bench-quick docs lock clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed 's/:.*## /\t/' | expand -t 12

run: .venv/run ## start the server on http://127.0.0.1:3000 with its data in ./data
	$(BIN)/agentidp serve

test: .venv/test ## everything: style, types, floors, and all tests on SQLite and PostgreSQL
	$(MAKE) --no-print-directory style
	$(BIN)/python -m pytest -n 2 --dist loadgroup --durations 10

check: .venv/test style fast ## style, types, floors, architecture, fast tests: before each commit

.PHONY: style
style: .venv/test
	$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet .
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --verbose > .venv/lint-imports.log 2>&1 || (cat .venv/lint-imports.log; exit 1)

fast: .venv/test
	$(BIN)/python -m pytest -n 2 --dist loadgroup -q -m "not slow"

faults: .venv/test ## long fault runs: kill -9, power loss, full disk, lost databases (about half an hour); prints what docs/faults.md holds
	$(BIN)/python -m pytest tests/faults --faults long -q -p no:randomly

bench: .venv/test ## measure everything (about half an hour, 30 GB of disk); writes bench/results and docs/performance.md
	$(BIN)/python -m bench $(BENCH)

bench-quick: .venv/test ## the first ratios only, in under a minute
	$(BIN)/python -m bench --quick

docs: .venv/test ## write docs/reference, docs/forged-tokens.md and docs/audit-tampering.md anew from the code
	$(BIN)/python -m tests.reference
	$(BIN)/python -m tests.policies.forged
	$(BIN)/python -m tests.audit.test_tamper

lock: .venv/test ## resolve the lock files anew (hashes, no addresses)
	$(INSTALL) uv
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra postgres pyproject.toml requirements/build.in -o requirements/run.txt
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra nats --extra postgres --extra redis --extra stripe --group test pyproject.toml requirements/build.in -c requirements/run.txt -o requirements/test.txt

clean: ## remove the environment; ./data stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis bench/.work

.venv/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "AgentIdP needs Python 3.11 or later, this is " + sys.version)'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/run: .venv/python requirements/run.txt pyproject.toml
	$(INSTALL) --require-hashes -r requirements/run.txt
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m compileall -q src
	@touch $@

.venv/test: .venv/run requirements/test.txt
	$(INSTALL) --require-hashes -r requirements/test.txt
	@touch $@
