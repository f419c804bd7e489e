# `make demo` and `make test` are all that a new machine needs; `make help` names the rest.
#
# The folder .ci holds what is longer than a line.

CARGO ?= cargo
SKIPPED = target/tmp/skipped.txt
# Most tests wait for processes that sleep, so one more runs at once than there are cores.
export RUST_TEST_THREADS ?= $(shell expr 1 + $$(nproc))
# Those under Slurm wait for a cluster of their own nearly all the time.
SLURM_TEST_THREADS ?= $(shell expr 4 \* $$(nproc))
# What `make test` runs.
SUITES = unit-tests process-tests elastic-tests
# A suite is no part of this make: neither its compilers nor the makes that it starts share these jobs.
SUITE = env -u MAKEFLAGS -u MAKELEVEL
TESTS = $(patsubst tests/%.rs,%,$(wildcard tests/*.rs)) $(patsubst tests/%/main.rs,%,$(wildcard tests/*/main.rs))

PREFIX ?= /usr/local
# What is installed and packed. A program other than the one that `make build` makes is taken as it is.
PROGRAM ?= target/release/phalanx
BUILD = $(if $(filter target/release/phalanx,$(PROGRAM)),build)
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
DIST = phalanx-$(VERSION)-$(shell uname -m)-linux
# What `phalanx --version` names.
COMMIT = $(shell git describe --always --dirty 2>/dev/null)

.PHONY: help deps build install dist deb fresh demo test lint bench peers clean rust unit-tests process-tests elastic-tests mpich-tests

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

deps: rust ## Install what is missing to build (apt, as root or with sudo); nothing if all is there
	@.ci/deps build

build: deps ## Build target/release/phalanx
	PHALANX_COMMIT="$(COMMIT)" $(CARGO) build --release

install: ## Install program, manual pages, completions, examples: make install [PREFIX=/usr/local] [DESTDIR=]
	@# As root nothing is built that has been built before: root often has no Rust.
	@test -x "$(PROGRAM)" || $(MAKE) build
	@packaging/stage "$(PROGRAM)" "$(DESTDIR)$(PREFIX)" "$(PREFIX)"
	@echo "installed below $(DESTDIR)$(PREFIX)"

dist: $(BUILD) ## Make target/dist/*.tar.gz: what an installation holds, to unpack anywhere
	@rm -rf "target/dist/$(DIST)"
	@packaging/stage "$(PROGRAM)" "target/dist/$(DIST)" "/opt/phalanx/$(VERSION)"
	@tar -C target/dist --owner=0 --group=0 --sort=name -czf "target/dist/$(DIST).tar.gz" "$(DIST)"
	@echo "target/dist/$(DIST).tar.gz"

deb: $(BUILD) ## Make a Debian package (installs the tool cargo-deb if it is missing)
	@command -v cargo-deb >/dev/null || $(CARGO) install cargo-deb --locked
	@rm -rf target/stage
	@packaging/stage "$(PROGRAM)" target/stage /usr
	@# Where zsh of Debian looks for what packages bring.
	@mv target/stage/share/zsh/site-functions target/stage/share/zsh/vendor-completions
	$(CARGO) deb --no-build --no-strip

fresh: dist deb ## Install package and archive on a fresh Debian 12 and use them (root and mmdebstrap; minutes)
	packaging/test-fresh target/debian/phalanx_$(VERSION)-1_*.deb "target/dist/$(DIST).tar.gz"

demo: build ## Build, run a real job on 3 MPI ranks, end with a picture to look at
	@.ci/demo target/release/phalanx

test: deps ## Install what is missing, run all tests, those under mpirun and a real Slurm included
	@.ci/deps slurm || echo "Slurm is missing and could not be installed: its tests will be skipped" >&2
	@.ci/deps tests || echo "Charliecloud or ip is missing and could not be installed: their tests will be skipped" >&2
	@.ci/deps openmpi5 || echo "Open MPI 5 is missing and could not be installed: its tests will be skipped" >&2
	@rm -f $(SKIPPED)
	$(CARGO) test --no-run
	@# No test leaves a process behind.
	.ci/leftovers $(MAKE) --no-print-directory --keep-going --output-sync --jobs $(SUITES)
	@if [ -s $(SKIPPED) ]; then echo "Not all tests ran:"; sort -u $(SKIPPED); fi

# The suites run side by side, and each one's output is printed at its end. Most process tests wait for processes that sleep; the unit
# tests take what time of the processors they leave. Unit tests of the fabric give up a rank from which nothing comes for 15 s, so
# they do not stand behind others. What fails keeps nothing from running.
unit-tests:
	@$(SUITE) nice -n 19 $(CARGO) test --no-fail-fast --lib --bins -- --skip fabric:: </dev/null 2>&1; code=$$?; \
	$(SUITE) nice -n 19 $(CARGO) test --doc </dev/null 2>&1 || code=$$?; exit $$code

process-tests:
	@$(SUITE) $(CARGO) test --lib -- fabric:: </dev/null 2>&1; code=$$?; \
	$(SUITE) $(CARGO) test --no-fail-fast $(patsubst %,--test %,$(filter-out elastic slurm,$(TESTS))) </dev/null 2>&1 || code=$$?; \
	$(SUITE) RUST_TEST_THREADS=$(SLURM_TEST_THREADS) $(CARGO) test --test slurm </dev/null 2>&1 || code=$$?; exit $$code

elastic-tests:
	@$(SUITE) $(CARGO) test --test elastic </dev/null 2>&1

# Not by default, since it builds once more. After the unit tests, so that no more than one suite takes all the time that it gets.
mpich-tests: $(filter unit-tests,$(SUITES))
	@$(SUITE) .ci/mpich </dev/null 2>&1

# In a folder of its own, so that it can run beside the tests, and behind them.
lint: deps ## Check format, clippy and documentation; any warning is an error
	$(CARGO) fmt --check
	CARGO_TARGET_DIR=target/lint nice -n 19 $(CARGO) clippy --all-targets -- -D warnings
	CARGO_TARGET_DIR=target/lint RUSTDOCFLAGS="-D warnings" nice -n 19 $(CARGO) doc --no-deps

bench: deps ## Run the benchmarks
	$(CARGO) bench

peers: build ## Measure Phalanx beside other tools, which are installed into target/peers (PyPI and apt)
	benches/peers/install
	benches/peers/peers.py

clean: ## Remove what was built and the demo
	rm -rf demo
	$(CARGO) clean

rust:
	@command -v $(CARGO) >/dev/null || { echo "Rust is missing: install it as https://rustup.rs says, then try again" >&2; exit 1; }
