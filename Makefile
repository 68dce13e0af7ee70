# Every target sets itself up: it makes .venv, installs what is needed, builds, then does its job.
#   make demo | test | check | bench | soak | build | clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILD := build/dev
SOURCES := $(shell find src -type f -not -name '*.pyc') meson.build pyproject.toml

.PHONY: build test check demo bench soak clean
.DELETE_ON_ERROR:

build: $(VENV)/.built

# Debian splits off venv and the headers; root can be helped, others are told.
$(VENV)/.deps: requirements-dev.txt tools/prepare-machine
	tools/prepare-machine $(PYTHON)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# A plain (not editable) install from a build folder that is kept: ninja compiles only what changed,
# and what is tested is what a user gets.
$(VENV)/.built: $(VENV)/.deps $(SOURCES)
	mkdir -p $(BUILD)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --no-build-isolation --no-deps --force-reinstall \
	    -Cbuild-dir=$(BUILD) -Csetup-args=-Dwerror=true .
	touch $@

test: build
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: build
	$(BIN)/ruff check src tests bench examples
	$(BIN)/mypy
	$(BIN)/cython-lint src

demo: build
	$(BIN)/ferrule demo

bench: build
	$(BIN)/python -m bench $(BENCH_ARGS)

soak: build
	FERRULE_SOAK=long $(BIN)/python -m pytest tests -k soak $(PYTEST_ARGS)

clean:
	rm -rf build $(VENV)
