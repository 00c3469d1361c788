# Two commands: `make demo` trains a small pipeline on real images, `make test` runs every check.
# Both fetch what is missing by themselves. `make help` lists the rest.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c

# One that the user has; else it is fetched.
LIBTORCH_GIVEN := $(LIBTORCH)
ifeq ($(LIBTORCH_GIVEN),)
LIBTORCH := $(CURDIR)/third_party/libtorch
endif
export LIBTORCH LIBTORCH_GIVEN
FETCH_LIBTORCH := LIBTORCH="$(LIBTORCH_GIVEN)" setup/libtorch >/dev/null
CARGO_TARGET_DIR ?= $(CURDIR)/target
export CARGO_TARGET_DIR
BIN := $(CARGO_TARGET_DIR)/release
DIGITS := $(CURDIR)/data/digits
DEMO_DIR ?= $(CURDIR)/.demo
SEED ?= 0
FAULTS ?= 40
DEVICE ?= cpu
# Kinds of faults need --namespaces, and that needs root, where links between workers are cut.
CHAOS_ARGUMENTS ?=

.PHONY: help demo test setup build fmt lint doc structure doctest nextest seeds parity bench sim chaos outage recovery slow-store upgrade-test images \
	compose-images compose-test helm-test clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: setup build ## coordinator + 2 CPU workers, the whole pipeline on real images, a results table (SEED=n)
	@setup/digits $(DIGITS)
	@DIPTYCH_DATA=file://$(DIGITS) $(BIN)/diptych local -f recipes/digits.yaml --workers 2 --dir $(DEMO_DIR) --set seed=$(SEED)

test: setup-test fmt structure lint doc build doctest nextest ## every check that CI runs

.PHONY: setup-test
setup-test:
	@setup/check test
	@$(FETCH_LIBTORCH)

setup:
	@setup/check
	@$(FETCH_LIBTORCH)

build: setup ## all binaries, into $CARGO_TARGET_DIR/release
	cargo build --release --workspace --bins

fmt: ## formatting, as committed
	cargo fmt --all --check

structure: ## file sizes and crate boundaries
	@setup/structure

lint: ## clippy, warnings are errors
	cargo clippy --release --workspace --all-targets -- -D warnings

doc: ## API documentation, warnings are errors
	RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps --quiet

doctest:
	cargo test --release --workspace --doc --quiet

nextest: build
	cargo nextest run --release --workspace

seeds: build ## the demo's recipe with five seeds, a row each (half an hour)
	@setup/digits $(DIGITS)
	tests/measure/digits $(BIN) $(DIGITS)

parity: build ## torchvision, lightly, SimCLR's conversions, onnxruntime and TensorBoard agree with us (installs the same Python packages as bench)
	@PARITY_PYTHON="$$(tests/peers/setup)" cargo nextest run --release --workspace --test parity --run-ignored only --no-capture

bench: build ## the measurements of docs/results.md, each beside its peer (installs 5 GB of Python packages once)
	tests/peers/compare $(BIN)

sim: ## ten thousand simulations of a cluster on a bad network, in virtual time (half an hour; SIM_SEED=n runs one again)
	SIM_SEEDS=$${SIM_SEEDS:-10000} cargo test --release --workspace --test sim -- --nocapture promises_hold

chaos: build ## processes and links that die at random; a job that ends with the weights of an undisturbed run (SEED=n FAULTS=n)
	$(BIN)/chaos --seed $(SEED) --faults $(FAULTS) $(CHAOS_ARGUMENTS)

outage: build ## the coordinator killed idle, mid-submit, mid-commit and mid-recovery, away for up to a minute (ten minutes)
	$(BIN)/outage

recovery: build ## seconds from a death to the next step, beside torchrun with restarts (installs the same Python packages as bench)
	tests/measure/recovery $(BIN) --peer --seed $(SEED)

slow-store: build ## training beside a store at 1 MB/s for ten minutes, then beside a dead one (a quarter of an hour)
	tests/measure/slow-store $(BIN)

upgrade-test: build ## the version before this one, exchanged for it under a running job, and back (builds that version once)
	previous=$$(setup/previous); $(BIN)/upgrade --before "$$previous" --after $(BIN)

images: build ## images of coordinator, command line and worker, and their sizes (DEVICE=cuda for the worker's)
	@BIN=$(BIN) deploy/docker/build --device $(DEVICE)

# s3s-fs, or garage.
S3 ?= s3s-fs

compose-images: ## the image of the S3 server that the compose cluster uses (S3=garage: a bigger one, built in a quarter of an hour)
	@setup/s3 $(S3)

compose-test: images ## two workers, a coordinator and an S3 server in containers, under faults (S3=garage: with that server)
	@setup/digits $(DIGITS)
	@DIPTYCH_S3_IMAGE="$$(setup/s3 $(S3))" python3 tests/compose/check.py $(BIN)/diptych $(dir $(DIGITS))

helm-test: ## the Helm chart: lint, schemas, renderings, refusals
	@tests/helm/run

clean: ## remove build products and the demo's state; fetched files stay
	rm -rf $(CARGO_TARGET_DIR) $(DEMO_DIR)
