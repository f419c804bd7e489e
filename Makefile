# `make demo` and `make test` are all that a new machine needs; `make help` names the rest.
#
# The folder .ci holds what is longer than a line.

CARGO ?= cargo
SKIPPED = target/tmp/skipped.txt
# Most tests wait for processes that sleep, so one more runs at once than there are cores.
export RUST_TEST_THREADS ?= $(shell expr 1 + $$(nproc))
# Those under Slurm wait for a cluster of their own nearly all the time.
SLURM_TEST_THREADS ?= $(shell expr 4 \* $$(nproc))
TESTS = $(patsubst tests/%.rs,%,$(wildcard tests/*.rs)) $(patsubst tests/%/main.rs,%,$(wildcard tests/*/main.rs))

.PHONY: help deps build demo test lint bench peers clean rust

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

deps: rust ## Install what is missing to build (apt, as root or with sudo); nothing if all is there
	@.ci/deps build

build: deps ## Build target/release/phalanx
	$(CARGO) build --release

demo: build ## Build, run a real job on 3 MPI ranks, end with a picture to look at
	@.ci/demo target/release/phalanx

test: deps ## Install what is missing, run all tests, those under mpirun and a real Slurm included
	@.ci/deps slurm || echo "Slurm is missing and could not be installed: its tests will be skipped" >&2
	@rm -f $(SKIPPED)
	@# `cargo test --examples` would build them as tests; a test runs one as it is.
	$(CARGO) build --examples
	@# No test leaves a process behind.
	.ci/leftovers $(CARGO) test --lib --bins $(patsubst %,--test %,$(filter-out slurm,$(TESTS)))
	RUST_TEST_THREADS=$(SLURM_TEST_THREADS) .ci/leftovers $(CARGO) test --test slurm
	$(CARGO) test --doc
	@if [ -s $(SKIPPED) ]; then echo "Not all tests ran:"; sort -u $(SKIPPED); fi

lint: deps ## Check format, clippy and documentation; any warning is an error
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps

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
