# `make demo` and `make test` need git, make and Python 3.11 or newer; all else is installed into .venv.
VENV := .venv
BIN := $(VENV)/bin
# CPython versions that the constraints cover.
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
# The first of these that is supported is used; choose one yourself with `make demo PYTHON=/path/to/python`.
PYTHON ?= python3
PYTHONS := $(PYTHON) python3.13 python3.12 python3.11 python3.14 python
# --no-deps: the constraints are complete, so there is nothing left to resolve.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --no-deps
# $(call install,FILE): install the pinned packages of FILE, then this one, and count them aloud.
define install
	@total=$$(grep -c '==' $(1)); ( $(PIP) --require-hashes -r $(1) 2>&1 || echo "pip failed" ) | awk -v total=$$total ' \
	  /^(Collecting|Processing)/ { sub(".*/", "", $$2); printf "\r  %d of at most %d packages: %-40.40s", ++n, total, $$2; fflush() } \
	  /^Installing/ { printf "\r  unpacking %d packages (a minute on a slow disk) %-20s", n, ""; fflush() } \
	  /^ERROR|^error:|^  *ERROR/ { print "\n" $$0 } /^pip failed$$/ { failed = 1 } END { print ""; exit failed }'
	@$(PIP) --quiet --no-build-isolation -e .
endef
ARGS ?=

.PHONY: help demo bench test check lint format types tests test-slow lock clean

help:  ## this list
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1|\2/p' Makefile | awk -F'|' '{ printf "%-11s %s\n", $$1, $$2 }'

demo: $(VENV)/.core  ## data, training, sweep and report in minutes; options: make demo ARGS="--help"
	@$(BIN)/steerflow demo $(ARGS)

bench: $(VENV)/.core  ## after make demo: speed beside the usual way and the limit; some: make bench ARGS="training acting"
	@$(BIN)/python -m bench $(ARGS)

test: check  ## the same as check

check: lint types tests  ## all that .ci/run runs: style, types and tests

lint: $(VENV)/.dev  ## style and format, nothing is changed
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(VENV)/.dev  ## put the code into the format that lint asks for
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(VENV)/.dev  ## static types
	$(BIN)/basedpyright --pythonpath $(BIN)/python

tests: $(VENV)/.dev  ## the tests, in up to four processes; some of them: make tests ARGS="tests/test_cli.py"
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

test-slow: $(VENV)/.dev  ## the longer tests that check leaves out
	$(BIN)/python -m pytest -m slow $(ARGS)

lock:  ## newest versions that fit together into constraints*.txt (needs uv)
	@for group in build dev; do \
	  out=constraints-$$group.txt; [ $$group = dev ] || out=constraints.txt; \
	  uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	    --no-annotate --no-header pyproject.toml --group $$group -o $$out || exit 1; \
	done

clean:  ## remove the environment and caches; data/ and runs/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@for python in $(PYTHONS); do \
	  if $$python -c '$(SUPPORTED)' 2>/dev/null; then \
	    echo "Making $(VENV) with $$($$python --version)"; \
	    rm -rf $(VENV); \
	    if $$python -m venv $(VENV); then touch $@; exit 0; fi; \
	    rm -rf $(VENV); \
	    echo "$$python cannot make a virtual environment. On Debian and Ubuntu: sudo apt install python3-venv" >&2; \
	    exit 1; \
	  fi; \
	done; \
	echo "steerflow needs CPython 3.11 to 3.14, but none of these is one: $(PYTHONS)." >&2; \
	echo "Install one, or name it: make PYTHON=/path/to/python3.12" >&2; \
	exit 1

$(VENV)/.core: $(VENV)/.made constraints.txt pyproject.toml
	@echo "Installing the pinned packages into $(VENV) (about 1 GB; only the first time)"
	$(call install,constraints.txt)
	@touch $@

$(VENV)/.dev: $(VENV)/.made constraints-dev.txt pyproject.toml
	@echo "Installing the pinned packages and the tools for development into $(VENV) (only the first time)"
	$(call install,constraints-dev.txt)
	@touch $@ $(VENV)/.core
