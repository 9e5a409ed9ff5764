# convc: what a person types. `make` alone lists the targets.
#
# Everything lives in one environment, .venv, made by python3 -m venv and pip. Two
# stamp files in it say how much is installed: enough to run, or enough to test. An older
# triton lies in a folder of its own there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check install -qq

# The torch that the tests compare with; e.g. TORCH=torch for the newest.
TORCH ?= torch==2.13.0
# The triton that emitted kernels are tested with, and the oldest one they must run on.
TRITON ?= triton
OLD_TRITON ?= 3.6.0
EPOCHS ?= 5
BATCH ?= 128
ARGS ?=
# Processes that share the tests; auto is one for each core.
WORKERS ?= auto
PYTEST = -m pytest -q -n $(WORKERS) --dist worksteal

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv mnist test test-triton lint imports bench clean

help:
	@echo "make mnist   train the MNIST network on the NumPy backend"
	@echo "             (EPOCHS=$(EPOCHS) BATCH=$(BATCH), ARGS=... are passed to convc train)"
	@echo "make test    run the tests (ARGS=... are passed to pytest)"
	@echo "make test-triton"
	@echo "             run those of the Triton backend on triton $(OLD_TRITON)"
	@echo "make lint    check style, types and the boundaries between packages"
	@echo "make bench   race two_conv against PyTorch and what else is installed"
	@echo "make venv    make the environment in $(VENV) and install convc in it"
	@echo "make clean   remove the environment and everything built"
	@echo
	@echo "PYTHON=...   the Python to make the environment with (3.11 or newer)"
	@echo "CONVC_DATA   the folder that holds the MNIST files, if you have them"

venv: $(VENV)/.run-installed
	@echo "ready: $(BIN)/convc"

mnist: $(VENV)/.run-installed
	@$(BIN)/python -m convc train two_conv --epochs $(EPOCHS) --batch $(BATCH) $(ARGS)

test: $(VENV)/.test-installed
	@$(BIN)/python $(PYTEST) $(ARGS)

# What PYTHONPATH names is found before the environment's own triton.
OLD = PYTHONPATH=$(abspath $(VENV))/triton-$(OLD_TRITON) $(BIN)/python

test-triton: $(VENV)/.test-installed $(VENV)/triton-$(OLD_TRITON)/.installed
	@$(OLD) -c 'import triton; assert triton.__version__ == "$(OLD_TRITON)"'
	@$(OLD) $(PYTEST) tests/backends/gpu tests/helpers $(ARGS)

lint: $(VENV)/.test-installed
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	@$(MAKE) imports

# The import linter sees files, not the mapping of ir/, backends/ and examples/ into convc, so
# it reads a copy that lies as the wheel does.
imports:
	@rm -rf build/imports
	@mkdir -p build/imports
	@cp -R convc build/imports/convc
	@cp -R ir backends examples build/imports/convc
	cd build/imports && $(abspath $(BIN))/lint-imports --no-cache --no-logo --config ../../pyproject.toml

bench: $(VENV)/.test-installed
	@$(BIN)/python -m convc bench two_conv --inference 1,128 --rounds 5 $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find convc ir backends tests -type d -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "convc needs Python 3.11 or newer, and $(PYTHON) is" \
	    "$$($(PYTHON) --version 2>&1 || true); name another one: make PYTHON=python3.12" >&2; \
	  exit 1; }
	@echo "making the environment in $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make an environment (the lines above say why);" \
	    "on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.run-installed: pyproject.toml | $(VENV)/.created
	@echo "installing convc and what it needs to run"
	@$(PIP) -e '.[digits]'
	@touch $@

$(VENV)/.test-installed: $(VENV)/.run-installed
	@echo "installing what the tests need, $(TORCH) among it (minutes, the first time)"
	@$(PIP) -e '.[digits,test,dev]' '$(TORCH)' '$(TRITON)'
	@touch $@

$(VENV)/triton-%/.installed: | $(VENV)/.created
	@echo "installing triton $* beside the environment's own"
	@$(PIP) --no-deps --upgrade --target $(@D) 'triton==$*'
	@touch $@
