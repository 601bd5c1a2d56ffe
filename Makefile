# Two commands: `make demo` needs Python only, `make test` runs everything there is. `make` alone lists them.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
ROOMS  := choreo.events choreo.tracing choreo.services choreo.saga
WHAT   ?= tests
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test soak lint format parts bench mutants histories clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 14

demo: $(VENV)/installed ## Watch a shop of five services: orders that succeed, fail and are undone
	$(BIN)/saga demo $(ARGS)

test: lint parts ## Lint, types and every test, with a real Kafka and PostgreSQL (WHAT=tests/saga for one suite)
	$(BIN)/pytest -n $(WORKERS) --dist loadfile $(WHAT)

soak: $(VENV)/installed-for-tests ## Explore the demo shop with everything going wrong, fuzz the decoders, check the capacity model (SOAK=60 minutes, SEED=0 to begin at)
	SOAK="$(SOAK)" SEED="$(SEED)" $(BIN)/python -m tests.soak

lint: $(VENV)/installed-for-tests ## ruff, and mypy --strict over the package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPYPATH=$(VENV)/src $(BIN)/mypy --strict -m choreo $(ROOMS:%=-p %)

format: $(VENV)/installed-for-tests ## Sort the imports and format the code
	$(BIN)/ruff check --fix --select I .
	$(BIN)/ruff format .

parts: $(VENV)/installed-for-tests ## Fetch the real parts of the tests into the cache (~/.cache/choreo-dev or CHOREO_CACHE)
	$(BIN)/python -m tests.support.fetch

bench: $(VENV)/installed-for-tests parts ## Events and sagas per second on this machine
	$(BIN)/python -m benchmarks $(ARGS)

mutants: $(VENV)/installed-for-tests ## Is everything found that is wrong? Seeded bugs by explore, small changes by the pure tests (an hour)
	$(BIN)/python -m tests.mutants bugs
	$(BIN)/python -m tests.mutants score $(ARGS)

histories: $(VENV)/installed-for-tests ## Record the histories of a release, to be replayed for ever (RELEASE=0.2.0)
	$(BIN)/python -m tests.histories.record $(RELEASE)

clean: ## Remove the environment and everything that was built; the cache of downloads stays
	rm -rf $(VENV) build dist *.egg-info .choreo .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find events tracing services saga tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "choreo needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) -V 2>&1`. Name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# An editable installation always runs the code as it is now, so it goes stale only with its dependencies.
$(VENV)/installed: pyproject.toml | $(BIN)/pip
	@test -e $(VENV)/installed-for-tests || { echo "installing (once)"; $(BIN)/python -m pip install --quiet --editable .; }
	@touch $@

# mypy and setuptools must see the checkout, whatever it is called, as the package `choreo`: hence the link.
$(VENV)/installed-for-tests: pyproject.toml tests/requirements.txt | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --requirement tests/requirements.txt --editable .
	@mkdir -p $(VENV)/src && ln -sfn ../.. $(VENV)/src/choreo
	@touch $@
