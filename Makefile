# book · test · test-slow · bench · lint · lab · clean; each sets up .venv by itself, from the pins.
# Names are relative to this folder, whose path may have spaces; from elsewhere: make -C /path/to/checkout book

PYTHON ?= python3.14 python3.13 python3.12 python3.11 python3  # the first that works sets up .venv
PROFILE ?= quick
SPREAD := -n logical --maxprocesses 4 --dist loadfile  # test files over the cores; each worker takes 1 GB

.PHONY: book test test-slow bench lint lab clean

book: .venv/ready  ## execute the notebooks and build the pages: make book PROFILE=smoke|quick|paper
	.venv/bin/bhl book --profile $(PROFILE)

test: .venv/ready  ## the quick tests
	.venv/bin/python -m pytest $(SPREAD) -m "not slow"

test-slow: .venv/ready  ## all tests, the slow ones too
	.venv/bin/python -m pytest $(SPREAD)

bench: .venv/ready-bench  ## measure against what a user would use instead: make bench ROWS="epoch votes"
	.venv/bin/python -m benchmarks $(ROWS)

lint: .venv/ready  ## style of code and notebooks, imports between modules, the workflow
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	if grep -q "^\[tool.importlinter\]" pyproject.toml; then .venv/bin/lint-imports; fi
	.venv/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/book.yml
	.venv/bin/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	.venv/bin/zizmor --offline --quiet .github

lab: .venv/ready  ## JupyterLab with the package installed
	.venv/bin/jupyter lab notebooks

clean:  ## remove everything generated, trained runs too; the environment stays
	rm -rf build

# A name on the PATH may be a shim with no Python behind it, or a Python that lacks what makes environments.
.venv/ready: constraints.txt pyproject.toml
	@for python in $(PYTHON); do \
	    "$$python" -c "import sys; sys.exit(sys.version_info < (3, 11))" 2> /dev/null || continue; \
	    "$$python" -c "import ensurepip, venv" 2> /dev/null || { lacking="$$lacking $$python"; continue; }; \
	    echo "Setting up .venv from constraints.txt with $$("$$python" --version) (a minute or more, 7 GB) ..."; \
	    exec "$$python" -m venv --clear .venv; \
	done; \
	for python in $$lacking; do \
	    echo "$$python cannot make an environment: its module ensurepip is missing." \
	        "On Debian and Ubuntu, 'apt-get install $$python-venv' brings it."; \
	done >&2; \
	echo "This needs Python 3.11 or newer, and none of these works here: $(strip $(PYTHON))." \
	    "Install one, or name one that is not on the PATH, as in: make book PYTHON=/opt/python3.12/bin/python3" >&2; \
	exit 1
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	.venv/bin/uv pip install --python .venv --compile-bytecode -c constraints.txt -e ".[dev]"
	@touch $@

.venv/ready-bench: .venv/ready
	@echo "Adding what the benchmarks compare with (0.3 GB) ..."
	.venv/bin/uv pip install --python .venv --compile-bytecode -c constraints.txt -e ".[bench]"
	@touch $@
