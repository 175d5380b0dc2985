# The one entry point. `make demo` and `make test` work as the first command ever typed: they need Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
SOURCES := spotinference_pipeline proxy simulators benchmarks tests conftest.py

.PHONY: help demo install test check format lock bench soak clean
.DEFAULT_GOAL := help

help:  ## show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

demo: $(VENV)/.runtime  ## simulators, proxy, Dagster, nine past days, the number; ONCE=1 ends after publishing
	@$(BIN)/spotinference demo $(if $(ONCE),--once)

install: $(VENV)/.runtime  ## what production needs, into .venv

test: $(VENV)/.dev  ## everything: lint, types, import rules, tests with coverage
	@$(MAKE) --no-print-directory check
	$(BIN)/pytest -n auto --dist worksteal --durations=25 --cov --cov-report=term:skip-covered --cov-fail-under=95

check: $(VENV)/.dev  ## lint, types, import rules, SQL style
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/sqlfluff lint --disable-progress-bar sql

format: $(VENV)/.dev  ## put Python and SQL into the house's form
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/sqlfluff fix --disable-progress-bar sql

lock: $(VENV)/.uv  ## resolve the locks anew, hashed and without any registry's address
	$(BIN)/uv pip compile pyproject.toml proxy/pyproject.toml simulators/pyproject.toml --group build \
		--generate-hashes --no-emit-index-url --no-header --no-annotate --quiet --upgrade -o requirements.lock
	$(BIN)/uv pip compile pyproject.toml proxy/pyproject.toml simulators/pyproject.toml --group dev -c requirements.lock \
		--generate-hashes --no-emit-index-url --no-header --no-annotate --quiet --upgrade -o requirements-dev.lock

bench: $(VENV)/.dev  ## the proxy beside nginx, vllm-router and LiteLLM (some 10 minutes); ARGS="--quick" for half a minute
	$(BIN)/python -m benchmarks.proxy $(ARGS)

soak: $(VENV)/.dev  ## the long versions of the random tests
	HYPOTHESIS_PROFILE=soak $(BIN)/pytest --timeout 3600

clean:  ## remove the environment
	rm -rf $(VENV)

# uv where it can be had, else pip alone: both install from the same hashed lock.
$(VENV)/.uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "spotinference needs Python 3.11 or newer, found " + sys.version.split()[0])'
	@$(PYTHON) -m venv $(VENV) || { echo "python venv: expected the module, found none; on Debian: apt-get install python3-venv"; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION) || echo "uv could not be had: going on with pip alone"
	@touch $@

$(VENV)/.runtime: requirements.lock pyproject.toml proxy/pyproject.toml simulators/pyproject.toml | $(VENV)/.uv
	@$(call install,requirements.lock)
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml proxy/pyproject.toml simulators/pyproject.toml | $(VENV)/.uv
	@$(call install,requirements-dev.lock)
	@touch $@ $(VENV)/.runtime

define install
echo "installing $(1)"; \
if [ -x $(BIN)/uv ]; then installer="$(BIN)/uv pip install --quiet --python $(BIN)/python"; \
else installer="$(BIN)/pip install --quiet --disable-pip-version-check"; fi; \
$$installer --require-hashes -r $(1) && \
$$installer --no-deps --no-build-isolation -e . -e proxy -e simulators
endef
