# The front door. Every target sets up what it needs on a bare Debian 12, packages included.
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
JOBS ?= $(shell nproc)
PREFIX ?= /usr/local
FUZZ_SECONDS ?= 60
TORTURE_PATCHES ?= 1000000
TORTURE_CALLS ?= 1000000000
MAKEFLAGS += --no-print-directory

.PHONY: help setup build dev run test asan tsan torture fuzz bench bench-instructions format check-compilers install clean
.DEFAULT_GOAL := help

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-19s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## install the Debian packages that are missing and fetch SQLite's sources
	@cmake/setup.sh
	@cmake/fetch_sqlite.sh

# $(call configure,PRESET) keeps CMake's chatter in a log and shows it when something is wrong.
define configure
@mkdir -p build && (cmake --preset $(1) >build/$(1)-configure.log 2>&1 || { cat build/$(1)-configure.log; exit 1; })
endef
define compile
@cmake --build build/$(1) -j $(JOBS) $(2) -- --quiet
endef

build: setup ## build/release/bin/tenon and tenon-versus
	$(call configure,release)
	$(call compile,release,--target binaries)

dev: setup ## everything, debug build
	$(call configure,dev)
	$(call compile,dev)

run: build ## link SQLite into a live process and run SQL on it
	@examples/sqlite/run.sh "$(CURDIR)/build/release/bin"

test: setup ## build and run every test
	$(call configure,release)
	$(call compile,release)
	@cmake/run_ctest.sh build/release

# By name: sanitizers' mlock does nothing, and memory of their own faults beside ours.
SANITIZER_NOT_NAMES = ^engine/Mappings/LockLimits|^engine/Modes/RealTime.*(/lock|AForkedChild|FirstExecution)
asan: setup ## the tests under ASan and UBSan
	$(call configure,asan)
	$(call compile,asan)
	@cmake/run_ctest.sh build/asan -LE '^(slow|peers)$$' -E '$(SANITIZER_NOT_NAMES)'

# By label: what runs in one thread and takes long, and the repository itself. By name: sqlite_amalgamation, likewise; signals
# and Reclaim.ASignalAsks... wait for signals in a loop, while TSan delivers them at calls of the C library only. TSan also
# stops a child of a process with threads that starts threads itself, unless told otherwise.
TSAN_NOT_LABELS = ^(slow|peers|house|lit|differential)$$
TSAN_NOT_NAMES = $(SANITIZER_NOT_NAMES)|^programs/(sqlite_amalgamation|signals)$$|^engine/Reclaim\.ASignalAsks
tsan: setup ## the tests under TSan, but for what has one thread and takes long
	$(call configure,tsan)
	$(call compile,tsan)
	@TSAN_OPTIONS="suppressions='$(CURDIR)/cmake/tsan_suppressions.txt' die_after_fork=0 $$TSAN_OPTIONS" \
	  cmake/run_ctest.sh build/tsan -LE '$(TSAN_NOT_LABELS)' -E '$(TSAN_NOT_NAMES)'

# On two cores about ten minutes; both numbers are reached, whichever comes later.
torture: setup ## threads replace code that others run: TORTURE_PATCHES (10^6) against TORTURE_CALLS (10^9)
	$(call configure,release)
	$(call compile,release,--target torture --target engine_test)
	@build/release/bin/torture --patches $(TORTURE_PATCHES) --calls $(TORTURE_CALLS)
	@TENON_ATOMIC_CALLS=100000000 build/release/bin/engine_test --gtest_brief=1 --gtest_filter='Atomic.ThreadsCheck*'

fuzz: setup ## run each fuzz target for FUZZ_SECONDS seconds (60)
	$(call configure,fuzz)
	$(call compile,fuzz)
	@cmake/run_fuzzers.sh build/fuzz $(FUZZ_SECONDS)

# BENCH_FLAGS are tenon-versus's: --full, --case GLOB, --repeat N.
bench: setup ## compare with the peers; figures, goals and plots go to build/bench.html
	$(call configure,release)
	$(call compile,release)
	@python3 bench/report/report.py --out build/bench.html --json build/bench.json build/release/bin/tenon-versus $(BENCH_FLAGS)
	@for program in build/release/bin/bench_*; do [ ! -x "$$program" ] || "$$program" || exit 1; done

ARCHIVES ?= $(addprefix /usr/lib/x86_64-linux-gnu/lib,lua5.4.a sqlite3.a zstd.a)
bench-instructions: setup ## count instructions per module, symbol, relocation, ... with Callgrind
	$(call configure,release)
	$(call compile,release,--target tenon-scale)
	@python3 tests/scale/count.py --driver build/release/bin/tenon-scale print $(ARCHIVES) \
	  --together $(addprefix /usr/lib/llvm-22/lib/libLLVM,Core.a Support.a Analysis.a)

format: ## format all C++ sources
	@cmake/setup.sh clang-format-22
	@git ls-files -co --exclude-standard '*.h' '*.cpp' | xargs -r clang-format-22 -i

check-compilers: setup ## compile everything with g++ and clang at -O0, warnings as errors
	@mkdir -p build
	@cmake -G Ninja -S . -B build/gcc-check -DCMAKE_C_COMPILER=gcc -DCMAKE_CXX_COMPILER=g++ \
	  -DCMAKE_BUILD_TYPE=Debug >build/gcc-check.log
	@cmake -G Ninja -S . -B build/clang-check -DCMAKE_C_COMPILER=clang-22 -DCMAKE_CXX_COMPILER=clang++-22 \
	  -DCMAKE_BUILD_TYPE=Debug >build/clang-check.log
	$(call compile,gcc-check)
	$(call compile,clang-check)

install: build ## install the libraries, headers and command line to PREFIX (/usr/local)
	$(call compile,release,--target tenon --target tenon-llvm)
	@cmake --install build/release --prefix "$(PREFIX)"

clean: ## remove everything that was built; fetched sources stay
	@find build -mindepth 1 -maxdepth 1 ! -name third_party -exec rm -rf {} + 2>/dev/null || true
