# Every target sets itself up: it makes .venv, installs what is needed, builds, then does its job.
#   make demo | test | test-backends | test-free-threaded | test-portability | sanitize | sanitize-all | check | bench | soak | build | clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILD := build/dev
BENCH_VENV := .venv-bench
comma := ,
# Without make's jobserver, which ninja would look for in vain: only lines with $(MAKE) are given it.
ALONE := MAKEFLAGS=
WITH_TOOLS := $(ALONE) PATH="$(CURDIR)/$(BIN):$$PATH"
WALK_PEERS_SCRIPT := ../shared/deps/walk-peers.sh
SANITIZED := build/sanitize
SANITIZE_FLAGS := -O1 -g -fno-omit-frame-pointer -fno-sanitize-recover=all
EXTRA_CHECKS := -fsanitize=float-cast-overflow
SANITIZE_TESTS = $(wildcard tests/test_ring_*.py)
EXPLORING := $(wildcard tests/c/explore_*.c)
C_TESTS := $(filter-out $(EXPLORING),$(wildcard tests/c/*.c))
C_TESTS := $(C_TESTS:tests/c/%.c=$(SANITIZED)/c/%)
SANITIZED_C := $(C_TESTS:=.address) $(C_TESTS:=.thread) $(SANITIZED)/c/mistakes.so \
    $(EXPLORING:tests/c/%.c=$(SANITIZED)/c/%.explored)
SOURCES := $(shell find src -type f -not -name '*.pyc') meson.build pyproject.toml

.PHONY: build test test-behaviour test-builds test-backends test-free-threaded test-portability sanitize sanitize-all check demo bench soak clean
.DELETE_ON_ERROR:

build: $(VENV)/.built

# libkqueue, where its packages lie beside the repository: then the kqueue engine is built and tested.
LIBKQUEUE := build/libkqueue
LIBKQUEUE_PACKAGES := $(if $(shell command -v dpkg), \
    $(wildcard ../shared/deps/libkqueue*_$(shell dpkg --print-architecture 2>/dev/null).deb))
ifneq ($(strip $(LIBKQUEUE_PACKAGES)),)
KQUEUE_OPTION := -Dlibkqueue=$(CURDIR)/$(LIBKQUEUE)
KQUEUE_ARGS := --config-settings=setup-args=$(KQUEUE_OPTION)
$(VENV)/.built: $(LIBKQUEUE)/.unpacked
endif

$(LIBKQUEUE)/.unpacked: $(LIBKQUEUE_PACKAGES) $(VENV)/.deps
	rm -rf $(LIBKQUEUE) && mkdir -p $(LIBKQUEUE)
	for package in $(LIBKQUEUE_PACKAGES); do dpkg -x $$package $(LIBKQUEUE) || exit 1; done
	test ! -d $(BUILD) || $(WITH_TOOLS) meson setup --reconfigure $(BUILD)  # a new option
	touch $@

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
	$(WITH_TOOLS) $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --no-build-isolation --no-deps --force-reinstall \
	    --config-settings=build-dir=$(BUILD) --config-settings=setup-args=-Dwerror=true $(KQUEUE_ARGS) .
	touch $@

# All of it, on two processors at a time; with PYTEST_ARGS only what they choose.
test: build
	$(if $(strip $(PYTEST_ARGS)),$(BIN)/python -m pytest $(PYTEST_ARGS),\
	    $(MAKE) --jobs=2 --output-sync=line test-behaviour test-builds)

test-behaviour: build
	$(BIN)/python -m pytest -q --outcomes=build/outcomes.json
	$(BIN)/python tools/ring_coverage.py build/outcomes.json
	$(MAKE) test-backends

# On other builds than the one that users get.
test-builds: build
	$(MAKE) test-free-threaded
	$(MAKE) test-portability
	$(MAKE) sanitize

# The behaviour suite on each of the other engines, and on two loop threads, where new tasks go to one
# and the other in turn: all of it on io_uring, and what such fibers share of an engine on the others
# ("make soak": everything on all).  tests/engine_suite.py says what is left out, and why; the tests'
# ids name the engine.
BACKENDS := epoll,threads$(if $(KQUEUE_OPTION),$(comma)kqueue)
ON_TWO_THREADS := epoll-2,threads-2$(if $(KQUEUE_OPTION),$(comma)kqueue-2)
CROSSING_TESTS := $(patsubst %,tests/test_%.py,readiness socket socket_cancel socket_faults udp unix \
    connect_tcp serve_tcp fs file_faults file_locks)

test-backends: build
	FERRULE_TEST_BACKENDS=$(BACKENDS),uring-2 $(BIN)/python -m pytest -q tests
	FERRULE_TEST_BACKENDS=$(ON_TWO_THREADS) $(BIN)/python -m pytest -q $(CROSSING_TESTS)

# What tasks, groups, scopes and the synchronisation classes are made of, without the GIL: on one
# loop thread, and what tests/test_threads.py does with several.
FREE_THREADED := build/free-threaded
FREE_THREADED_BIN := $(FREE_THREADED)/venv/bin
FREE_THREADED_ARCHIVE = $(firstword $(wildcard ../shared/deps/python3.*t-linux-$(shell uname -m).tar.xz))
FREE_THREADED_TESTS := $(patsubst %,tests/test_%.py,threads wakeups walk walk_trouble walk_bounds ioqueue \
    misuse ioqueue_faults ioqueue_operations task_trees tasks groups cancel \
    events locks condition_variables semaphores queues barriers socket_cancel)

test-free-threaded:
	$(if $(FREE_THREADED_ARCHIVE),$(MAKE) $(FREE_THREADED)/.built,@echo \
	    "skipped: there is no free-threaded Python in ../shared/deps")
	$(if $(FREE_THREADED_ARCHIVE),FERRULE_THREADS=1 $(FREE_THREADED_BIN)/python -W error -m pytest \
	    -q -p no:cacheprovider $(FREE_THREADED_TESTS))

# The newest greenlet that this Python, 3.13, can compile without the GIL; later ones need 3.14.
$(FREE_THREADED)/.deps: Makefile
	rm -rf $(FREE_THREADED) && mkdir -p $(FREE_THREADED)/python
	tar -C $(FREE_THREADED)/python --strip-components=1 -xf $(FREE_THREADED_ARCHIVE)
	$(FREE_THREADED)/python/bin/python3.*t -m venv $(FREE_THREADED)/venv
	$(FREE_THREADED_BIN)/python -m pip install --quiet --disable-pip-version-check \
	    'greenlet==3.5.3' 'meson-python>=0.16' 'cython>=3.1' meson ninja 'pytest>=8'
	touch $@

$(FREE_THREADED)/.built: $(FREE_THREADED)/.deps $(SOURCES)
	mkdir -p $(FREE_THREADED)/build
	$(ALONE) PATH="$(CURDIR)/$(FREE_THREADED_BIN):$$PATH" $(FREE_THREADED_BIN)/python -m pip \
	    install --quiet --disable-pip-version-check --no-build-isolation --no-deps --force-reinstall \
	    --config-settings=build-dir=$(FREE_THREADED)/build .
	touch $@

# Every module compiled as on macOS and FreeBSD, with their own headers, and what is not for them left
# out.  Nothing is linked or run.
PORTABILITY := build/portability
ZIG := $(PORTABILITY)/zig/ziglang/zig
ELSEWHERE := macos freebsd

test-portability: $(VENV)/.deps $(PORTABILITY)/.zig
	if test -x $(ZIG); then $(MAKE) $(ELSEWHERE:%=$(PORTABILITY)/%.compiled); \
	    else echo "skipped: Zig's compiler, which has their headers, cannot be installed here"; fi

$(PORTABILITY)/.zig: Makefile
	mkdir -p $(PORTABILITY)
	test -x $(ZIG) || $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --target $(PORTABILITY)/zig 'ziglang>=0.15' || true
	test ! -x $(ZIG) || touch $@

# Python's headers, less what its configuration says of Linux alone.
$(PORTABILITY)/python: $(VENV)/.deps Makefile
	rm -rf $@ && mkdir -p $(@D)
	cp -rL $$($(BIN)/python -c "import sysconfig; print(sysconfig.get_path('include'))") $@
	cat $$($(BIN)/python -c "import sysconfig; print(sysconfig.get_config_h_filename())") \
	    >$(@D)/pyconfig.h
	for name in _POSIX_C_SOURCE _XOPEN_SOURCE _XOPEN_SOURCE_EXTENDED HAVE_CRYPT_H; do \
	    echo "#undef $$name"; done >>$(@D)/pyconfig.h
	mv $(@D)/pyconfig.h $@/

$(PORTABILITY)/%/build.ninja: tests/portability/%.ini $(PORTABILITY)/python
	rm -rf $(@D)
	$(WITH_TOOLS) meson setup --cross-file $< -Dbuildtype=plain -Dwerror=true \
	    $(@D) >$(@D).log || { cat $(@D).log; exit 1; }

$(PORTABILITY)/%.compiled: $(PORTABILITY)/%/build.ninja tests/portability/of_linux.c $(SOURCES) Makefile
	$(WITH_TOOLS) ninja --quiet -C $(PORTABILITY)/$* \
	    $$(cd $(PORTABILITY)/$* && $(CURDIR)/$(BIN)/ninja -t targets all | sed -n 's/\.o: .*/.o/p')
	! $(ZIG) cc -target x86_64-$* -c -o $(PORTABILITY)/of_linux.o tests/portability/of_linux.c \
	    2>$(PORTABILITY)/$*.refused
	touch $@

# The C parts under AddressSanitizer, UBSan and ThreadSanitizer.  The sanitized package lies beside
# the one in .venv and never in it.  pytest's watchdog thread is off: a fork() while it allocates
# leaves the child with AddressSanitizer's lock held.
sanitize: $(SANITIZED)/.built $(SANITIZED_C)
	SANITIZE_DIR=$(CURDIR)/$(SANITIZED) timeout 1200 tools/run-sanitized $(BIN)/python -m pytest \
	    -o faulthandler_timeout=0 tests/sanitizers.py $(SANITIZE_TESTS)

# Everything, in some minutes.  greenlet moves C stacks, which the sanitizer takes for overflows of
# them, so the modules are checked for what they do to the heap alone.
sanitize-all:
	$(MAKE) sanitize SANITIZED=$(SANITIZED)-all SANITIZE_TESTS=tests MODULE_FLAGS="--param asan-stack=0"

$(SANITIZED)/.built: $(VENV)/.deps $(SOURCES) Makefile
	mkdir -p $(SANITIZED)
	$(WITH_TOOLS) meson setup --reconfigure $(SANITIZED)/meson --prefix=/ \
	    -Dpython.platlibdir=$(CURDIR)/$(SANITIZED)/site \
	    -Dpython.purelibdir=$(CURDIR)/$(SANITIZED)/site \
	    -Dbuildtype=plain -Db_sanitize=address,undefined -Db_lundef=false $(KQUEUE_OPTION) \
	    -Dc_args="$(SANITIZE_FLAGS) $(EXTRA_CHECKS) $(MODULE_FLAGS)" \
	    >$(SANITIZED)/setup.log || { cat $(SANITIZED)/setup.log; exit 1; }
	$(WITH_TOOLS) ninja --quiet -C $(SANITIZED)/meson
	rm -rf $(SANITIZED)/site
	$(WITH_TOOLS) meson install --quiet --no-rebuild -C $(SANITIZED)/meson
	touch $@

C_FOLDERS := $(wildcard src/ferrule/_core/*/)
C_PARTS := $(wildcard $(addsuffix *.[ch],$(C_FOLDERS)) tests/c/*.h)
C_SOURCES := $(filter src/%.c,$(C_PARTS))
COMPILE_C = mkdir -p $(@D) && $(CC) -std=gnu11 -Wall -Wextra -Werror -Wno-unused-parameter \
    -Wno-missing-field-initializers $(SANITIZE_FLAGS) $(addprefix -I,$(C_FOLDERS)) -pthread

ADDRESS := -fsanitize=address,undefined $(EXTRA_CHECKS)
THREAD := -fsanitize=thread
# Their coroutines would confuse the other two.
EXPLORED := -fsanitize=undefined -O2

# Each kind's parts, compiled once.
$(SANITIZED)/c/address.a: KIND = $(ADDRESS)
$(SANITIZED)/c/thread.a: KIND = $(THREAD)
$(SANITIZED)/c/explored.a: KIND = $(EXPLORED)
$(SANITIZED)/c/%.a: $(C_PARTS) Makefile $(VENV)/.deps
	rm -rf $@ $(@:.a=) && mkdir -p $(@:.a=)
	for source in $(C_SOURCES); do \
	    $(COMPILE_C) $(KIND) -c -o $(@:.a=)/$$(basename $$source .c).o $$source || exit 1; done
	ar rcs $@ $(@:.a=)/*.o

$(SANITIZED)/c/%.address: tests/c/%.c $(SANITIZED)/c/address.a
	$(COMPILE_C) $(ADDRESS) -o $@ $^

$(SANITIZED)/c/%.thread: tests/c/%.c $(SANITIZED)/c/thread.a
	$(COMPILE_C) $(THREAD) -o $@ $^

$(SANITIZED)/c/%.explored: tests/c/%.c $(SANITIZED)/c/explored.a $(EXPLORING)
	$(COMPILE_C) $(EXPLORED) -o $@ $< $(SANITIZED)/c/explored.a

$(SANITIZED)/c/%.so: tests/c/%.c $(C_PARTS) Makefile $(VENV)/.deps
	$(COMPILE_C) $(ADDRESS) -shared -fPIC -o $@ $<

check: build
	$(BIN)/ruff check $(wildcard src tests bench examples tools)
	$(BIN)/mypy
	$(WITH_TOOLS) $(BIN)/cython-lint src

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
	{ test -e $(WALK_PEERS_SCRIPT) && bash $(WALK_PEERS_SCRIPT) build/walk-peers; } || \
	    echo "Without bfs 4.0.6 and fd 10 in build/walk-peers/bin their rows are skipped."
	touch $@

$(BENCH_VENV)/.ferrule: $(VENV)/.built $(BENCH_VENV)/.peers
	rm -rf build/wheel
	$(WITH_TOOLS) $(BIN)/python -m pip wheel --quiet \
	    --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir build/wheel \
	    --config-settings=build-dir=$(BUILD) --config-settings=setup-args=-Dwerror=true $(KQUEUE_ARGS) .
	$(BENCH_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	    --no-deps --force-reinstall build/wheel/*.whl
	touch $@

soak: build
	FERRULE_SOAK=long $(BIN)/python -m pytest tests -k "soak or fuzz" $(PYTEST_ARGS)
	FERRULE_SOAK=long FERRULE_TEST_BACKENDS=$(BACKENDS),uring-2,$(ON_TWO_THREADS) \
	    $(BIN)/python -m pytest -q tests $(PYTEST_ARGS)

clean:
	rm -rf build $(VENV) $(BENCH_VENV)
