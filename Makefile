# book · test · test-slow · bench · lint · lab · clean; each sets up .venv by itself, from the pins.
# Works from any folder: make -C /path/to/checkout book

ROOT := $(abspath $(dir $(lastword $(MAKEFILE_LIST))))
PYTHON ?= python3.11
PROFILE ?= quick
BIN := $(ROOT)/.venv/bin
READY := $(ROOT)/.venv/ready
SPREAD := -n logical --maxprocesses 4 --dist loadfile  # test files over the cores; each worker takes 1 GB

.PHONY: book test test-slow bench lint lab clean

book: $(READY)  ## execute the notebooks and build the pages: make book PROFILE=smoke|quick|paper
	cd $(ROOT) && $(BIN)/bhl book --profile $(PROFILE)

test: $(READY)  ## the quick tests
	cd $(ROOT) && $(BIN)/python -m pytest $(SPREAD) -m "not slow"

test-slow: $(READY)  ## all tests, the slow ones too
	cd $(ROOT) && $(BIN)/python -m pytest $(SPREAD)

bench: $(READY)-bench  ## measure against what a user would use instead: make bench ROWS="epoch votes"
	cd $(ROOT) && $(BIN)/python -m benchmarks $(ROWS)

lint: $(READY)  ## style of code and notebooks
	cd $(ROOT) && $(BIN)/ruff check . && $(BIN)/ruff format --check .
	cd $(ROOT) && $(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/book.yml

lab: $(READY)  ## JupyterLab with the package installed
	cd $(ROOT) && $(BIN)/jupyter lab notebooks

clean:  ## remove everything generated, trained runs too; the environment stays
	rm -rf $(ROOT)/build

$(READY): $(ROOT)/constraints.txt $(ROOT)/pyproject.toml
	@echo "Setting up $(ROOT)/.venv from constraints.txt (several minutes, about 6 GB) ..."
	$(PYTHON) -m venv --clear $(ROOT)/.venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(ROOT)/constraints.txt -e "$(ROOT)[dev]"
	@touch $(READY)

$(READY)-bench: $(READY)
	@echo "Adding what the benchmarks compare with (0.5 GB) ..."
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(ROOT)/constraints.txt -e "$(ROOT)[bench]"
	@touch $@
