# Every target sets itself up: it makes .venv, installs what is needed, builds, then does its job.
#   make demo | test | check | bench | soak | build | clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILD := build/dev
BENCH_VENV := .venv-bench
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
	    --config-settings=build-dir=$(BUILD) --config-settings=setup-args=-Dwerror=true .
	touch $@

test: build
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: build
	$(BIN)/ruff check $(wildcard src tests bench examples tools)
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint src

demo: build
	$(BIN)/ferrule demo

bench: $(BENCH_VENV)/.ferrule
	$(BENCH_VENV)/bin/python -m bench $(BENCH_ARGS)

# The peers live in an environment of their own, beside the very wheel that a user would install.
$(BENCH_VENV)/.peers: bench/requirements.txt tools/prepare-machine
	tools/prepare-machine $(PYTHON)
	test -x $(BENCH_VENV)/bin/python || $(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	for tool in wrk fio; do command -v $$tool >/dev/null || { test "$$(id -u)" = 0 && \
	    apt-get update -q && apt-get install -y -q --no-install-recommends $$tool; } || \
	    echo "Without $$tool its rows are skipped (Debian: apt-get install $$tool)."; done
	touch $@

$(BENCH_VENV)/.ferrule: $(VENV)/.built $(BENCH_VENV)/.peers
	rm -rf build/wheel
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip wheel --quiet \
	    --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir build/wheel \
	    --config-settings=build-dir=$(BUILD) --config-settings=setup-args=-Dwerror=true .
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	    --no-deps --force-reinstall build/wheel/*.whl
	touch $@

soak: build
	FERRULE_SOAK=long $(BIN)/python -m pytest tests -k "soak or fuzz" $(PYTEST_ARGS)

clean:
	rm -rf build $(VENV) $(BENCH_VENV)
