# Everything that there is to do with Dormouse. On a machine with only a Rust toolchain `make demo` and `make test`
# install what they need; what they download and build stays under target/.

CARGO ?= cargo
# For example DEMO_FLAGS=--json, or DEMO_FLAGS=--serve to look at it in a browser.
DEMO_FLAGS ?=
# How long each fuzz target runs.
FUZZ_SECONDS ?= 60
# How long `make soak` simulates.
SECONDS ?= 600

GUEST := target/guest/initrd.cpio.gz
QEMU72 := target/qemu-7.2/qemu-system-x86_64

.PHONY: help deps guest qemu72 build demo demo-fleet test soak lint fmt doc bench fuzz check-http check-clients deb check-deb clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## Install what building and testing need and this machine lacks
	@scripts/install-deps

guest: $(GUEST) ## Build the guest that tests and demo boot

qemu72: $(QEMU72) ## Unpack QEMU 7.2 beside the installed one

$(GUEST): scripts/build-guest scripts/guest-init scripts/guest-memory.rs | deps
	@scripts/build-guest

$(QEMU72): scripts/unpack-qemu-7.2 | deps
	@scripts/unpack-qemu-7.2

build: deps ## Build everything
	$(CARGO) build --workspace

demo: deps guest ## Run a real guest through its whole life, and show the bill
	@$(CARGO) build -p dormouse
	@$(CARGO) build -p dormouse-tests --bin demo
	@$(CARGO) run --quiet -p dormouse-tests --bin demo -- $(DEMO_FLAGS)

demo-fleet: deps guest ## Run two hosts with one ledger for both, and break each part once
	@$(CARGO) build -p dormouse
	@$(CARGO) build -p dormouse-tests --bin demo
	@$(CARGO) run --quiet -p dormouse-tests --bin demo -- --fleet --folder target/demo-fleet $(DEMO_FLAGS)

test: deps guest qemu72 ## Run every test, those on real QEMU included
	$(CARGO) build -p dormouse
	SIM_SECONDS=60 $(CARGO) test --workspace --all-targets
	$(CARGO) test --workspace --doc
	$(MAKE) check-deb

soak: deps guest qemu72 ## Run the long tests, which `make test` leaves out, and simulate for SECONDS
	$(CARGO) build -p dormouse
	SIM_SECONDS=$(SECONDS) $(CARGO) test --release -p dormouse-tests --test sim -- --nocapture
	$(CARGO) build --release -p dormouse
	$(CARGO) test --release -p dormouse-tests --test fleet -- --ignored
	$(CARGO) test --workspace -- --ignored --skip through_a_million_events

lint: deps ## Check format, lints, documentation, scripts and dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --workspace --no-deps
	grep -l -r -E '^#!.*(bash|sh)$$' scripts packaging .ci | xargs shellcheck
	scripts/check-dependencies

fmt: ## Format the source
	$(CARGO) fmt --all

doc: ## Build the documentation
	$(CARGO) doc --workspace --no-deps

bench: deps guest ## Measure
	$(CARGO) build --release --bins
	$(CARGO) bench -p dormouse-benches

fuzz: deps ## Feed bytes to the QMP session for FUZZ_SECONDS per target
	FUZZ_SECONDS=$(FUZZ_SECONDS) scripts/fuzz

check-http: deps ## Ask a real agent over HTTP whatever its specification allows, and more
	$(CARGO) build -p dormouse
	$(CARGO) test -p dormouse-tests --test agent whatever_the_specification_allows

check-clients: deps ## Ask a real agent with the clients for Python and TypeScript, and by its pages in a browser
	$(CARGO) build -p dormouse -p dormouse-tests
	$(CARGO) test -p dormouse-tests --test agent for_people

deb: deps ## Build the Debian package
	scripts/build-deb

check-deb: deb ## Install, upgrade and purge the package in a clean Debian root
	scripts/check-deb

clean: ## Remove all that was built or downloaded
	$(CARGO) clean
