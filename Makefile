# `make help` lists all targets. They need Linux or macOS, GNU make and python3 >= 3.11. The local cluster needs Linux and
# root, and builds everything else (see docs/local-cluster.md).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules
# Some images forbid Python to keep bytecode. Then every process compiles torch again, which more than doubles its start.
unexport PYTHONDONTWRITEBYTECODE

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/torchrun-operator
UV_VERSION := $(shell sed -n 's/^uv==\([0-9.]*\).*/\1/p' tools/uv.txt)
# A private copy, so that every computer installs with the same version.
UV := $(CACHE)/tools/uv-$(UV_VERSION)/bin/uv
ENV := .venv/.synced
MYPY_KNOWN = $(CACHE)/mypy/$(shell git hash-object uv.lock)
RUN := .venv/bin/python
LOCAL := PYTHONPATH=e2e python3 -m localcluster
PYTEST := $(RUN) -m pytest
# The oldest supported torch and a middle one. uv.lock has the newest.
TORCH_VERSIONS := 2.6.0 2.11.0
TORCH_PYTHONS := $(TORCH_VERSIONS:%=$(CACHE)/torch/%/bin/python) $(CURDIR)/$(RUN)
EMPTY :=

REGISTRY ?=
TAG ?= dev
EXTRAS ?=
URL ?= https://releases.example.com/torchrun-operator
ENGINE ?= $(firstword $(foreach engine,docker podman buildah,$(if $(shell command -v $(engine)),$(engine))))
IMAGE_PREFIX := $(if $(REGISTRY),$(REGISTRY)/)

.PHONY: help
help: ## List all targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Show a job on a real cluster that loses its first node, shrinks, grows and finishes
	@PYTHONPATH=e2e python3 -m demo

.PHONY: test
test: $(ENV) ## Run every check and test, including those on a real cluster
	@PYTHONPATH=e2e $(RUN) -m support.tiers

.PHONY: lint
lint: $(ENV) .mypy_cache ## Check style, types and layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/mypy --python-version 3.10 operator/src/torchrun_rendezvous operator/src/torchrun_transfer
	@[[ -d $(MYPY_KNOWN) ]] || { mkdir -p $(CACHE)/mypy && part=$$(mktemp -d $(CACHE)/mypy/part-XXXXXX) && \
	    cp -R .mypy_cache/. $$part && mv $$part $(MYPY_KNOWN) && \
	    find $(CACHE)/mypy -mindepth 1 -maxdepth 1 -mtime +30 -exec rm -rf {} +; }
	PYTHONPATH=e2e .venv/bin/lint-imports
	$(RUN) docs/style/words.py
	PYTHONPATH=e2e $(RUN) -m support.layout

.PHONY: format
format: $(ENV) ## Format the code, and fix what ruff can fix
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

.PHONY: generate
generate: $(ENV) ## Write the generated files: the CRD, its reference, the inline script of an example, benchmark tables
	$(RUN) operator/codegen/generate.py
	$(RUN) e2e/examples/inline.py
	PYTHONPATH=e2e $(RUN) -m bench.recovery.report docs/benchmarks

.PHONY: verify
verify: $(ENV) ## Check that the generated files are up to date
	$(RUN) operator/codegen/generate.py --check
	$(RUN) e2e/examples/inline.py --check
	PYTHONPATH=e2e $(RUN) -m bench.recovery.report docs/benchmarks --check

.PHONY: test-unit
test-unit: $(ENV) ## Run the tests that need no cluster
	@# Most of the time goes into processes that import torch: more than one at a time, but not many (memory).
	$(PYTEST) operator/tests trainer/tests e2e/tests -m "not integration and not cluster and not slow" \
	    -n auto --maxprocesses 4 --dist worksteal

.PHONY: test-slow
test-slow: $(ENV) ## Run the tests that make test skips: real agents of the newest torch without an operator, and their messages
	$(PYTEST) operator/tests trainer/tests -m slow

.PHONY: coverage-trainer
coverage-trainer: $(ENV) ## Measure the test coverage of the library, including slow tests and other processes; fails below 95 %
	rm -rf .work/coverage && mkdir -p .work/coverage
	$(RUN) -m coverage run -m pytest trainer/tests
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report --fail-under=95

.PHONY: test-torch-versions
test-torch-versions: $(ENV) $(TORCH_VERSIONS:%=$(CACHE)/torch/%/.ready) ## Run real agents of the oldest, a middle and the newest torch (6 GB)
	TORCH_PYTHONS=$(subst $(EMPTY) $(EMPTY),:,$(strip $(TORCH_PYTHONS))) $(PYTEST) -o log_cli=true -o log_cli_level=INFO \
	    operator/tests/component/test_rendezvous/test_rendezvous_versions.py

.PHONY: test-integration
test-integration: $(ENV) ## Run the tests that need a real API server and Helm (make cluster-up builds both)
	programs=$$($(LOCAL) bin); PATH=$$programs:$$PATH KUBE_BINARY=$$programs/kube $(PYTEST) \
	    operator/tests/integration charts/tests

.PHONY: test-chart
test-chart: $(ENV) ## Run the tests of the Helm chart, which are part of test-integration
	programs=$$($(LOCAL) bin); PATH=$$programs:$$PATH $(PYTEST) charts/tests

.PHONY: test-cluster
test-cluster: $(ENV) ## Run the tests with real torchrun in real pods; starts the local cluster if necessary
	@# The tests of the local cluster start clusters of their own, and mostly wait: they run beside the others.
	@# The image has Lightning, for the sample of that name, and torchft, for recovery step by step.
	@mkdir -p .work
	$(PYTEST) e2e/tests/test_localcluster_lifecycle.py -m cluster > .work/lifecycle.log 2>&1 & beside=$$!; code=0; \
	    EXTRAS="$(or $(EXTRAS),lightning torchft)" $(PYTEST) e2e/tests -m "cluster and not faults and not gallery and not recipes" \
	        --ignore=e2e/tests/test_localcluster_lifecycle.py || code=$$?; \
	    wait $$beside || { code=$$?; cat .work/lifecycle.log; }; exit $$code

.PHONY: test-faults
test-faults: $(ENV) ## Run jobs in trouble in real pods, each with what it must say; starts the local cluster if necessary
	$(PYTEST) e2e/tests -m faults

.PHONY: test-gallery
test-gallery: $(ENV) ## Run the samples in real pods that make test skips; starts the local cluster if necessary
	@# With all that a sample needs, in an image of its own: others then need not wait for it.
	EXTRAS="$(or $(EXTRAS),s3 lightning accelerate transformers tensorboard wandb)" $(PYTEST) e2e/tests -m gallery

.PHONY: test-recipes
test-recipes: $(ENV) ## Convert recipes of other systems, and train each in real pods; starts the local cluster if necessary
	$(PYTEST) e2e/tests -m recipes

.PHONY: e2e
e2e: test-cluster ## The same as test-cluster

.PHONY: cluster-up
cluster-up: ## Start the local cluster, or update it from the sources
	@$(LOCAL) up

.PHONY: cluster-down
cluster-down: ## Stop the local cluster; the cache keeps everything that was built
	@$(LOCAL) down

.PHONY: bench
bench: bench-loop bench-scale bench-recovery ## Run all benchmarks

.PHONY: bench-scale
bench-scale: $(ENV) ## Measure the start of 50 jobs of 8 nodes, compared with plain POSTs of the same pods
	PYTHONPATH=e2e $(RUN) -m support.withcluster $(CURDIR)/$(RUN) -m bench.scale

.PHONY: bench-hostile
bench-hostile: $(ENV) ## Measure how fast 20 jobs get back dead pods while hostile jobs run beside them: at most 1.5 times slower
	PYTHONPATH=e2e $(RUN) -m bench.hostile $(ARGS)

.PHONY: bench-listing
bench-listing: $(ENV) ## Measure the peak memory of the watch of pods in a cluster with 10,000 of them: at most 400 MB
	$(RUN) e2e/bench/listing.py

.PHONY: bench-loop
bench-loop: $(ENV) ## Measure the cost of the trainer library's loop per step: at most 50 microseconds
	$(RUN) e2e/bench/loop.py

.PHONY: bench-recovery
bench-recovery: $(ENV) ## Measure the recovery from each kind of fault, compared with PyTorchJob and pods by hand
	PYTHONPATH=e2e $(RUN) -m bench.recovery $(ARGS)

.PHONY: bench-snapshot
bench-snapshot: $(ENV) ## Measure how long a snapshot of 1 GB delays training, compared with torch.save
	PYTHONPATH=e2e $(RUN) -m bench.snapshot $(ARGS)

.PHONY: chaos
chaos: $(ENV) ## Kill the operator 20 times while 10 jobs start, then check the objects of each job
	PYTHONPATH=e2e $(RUN) -m support.withcluster $(CURDIR)/$(RUN) -m chaos.operator_restarts

.PHONY: chaos-membership
chaos-membership: $(ENV) ## Apply 200 random faults and scalings to one elastic job, and check it: ARGS="--faults 20 --seed 1"
	PYTHONPATH=e2e $(RUN) -m chaos.membership --json .work/chaos-membership/report.json $(ARGS)

.PHONY: image
image: ## Build the images: REGISTRY=…, TAG=…, ENGINE=docker|podman|buildah, EXTRAS="s3 lightning", PUSH=1 to push
	@[[ -n "$(ENGINE)" ]] || { echo "no docker, podman or buildah on PATH: install one" >&2; exit 1; }
	$(ENGINE) build -f operator/Dockerfile -t $(IMAGE_PREFIX)torchrun-operator:$(TAG) .
	$(ENGINE) build -f trainer/Dockerfile $(if $(EXTRAS),--build-arg EXTRAS="$(EXTRAS)") -t $(IMAGE_PREFIX)torchrun-trainer:$(TAG) .
	$(if $(filter s3,$(EXTRAS)),$(ENGINE) build -f transfer/Dockerfile -t $(IMAGE_PREFIX)torchrun-transfer:$(TAG) .)
	$(if $(PUSH),$(ENGINE) push $(IMAGE_PREFIX)torchrun-operator:$(TAG))
	$(if $(and $(PUSH),$(filter s3,$(EXTRAS))),$(ENGINE) push $(IMAGE_PREFIX)torchrun-transfer:$(TAG))
	$(if $(PUSH),$(ENGINE) push $(IMAGE_PREFIX)torchrun-trainer:$(TAG))

.PHONY: plugin
plugin: $(ENV) | $(UV) ## Build the archives of the krew plugin and its manifest: URL=https://… where the archives will be
	$(RUN) operator/krew/krew_archive.py --uv $(UV) --url "$(URL)" .work/plugin

$(ENV): uv.lock pyproject.toml trainer/pyproject.toml | $(UV)
	@$(UV) sync --frozen --extra cli
	@touch $@

# A fresh clone begins with what mypy found in the first one with this uv.lock: mypy compares the contents of files.
.mypy_cache:
	@rm -rf .work/mypy && mkdir -p .work
	@if [[ -d $(MYPY_KNOWN) ]]; then cp -R $(MYPY_KNOWN) .work/mypy; else mkdir .work/mypy; fi
	@mv .work/mypy $@

# CUDA's libraries in the versions of uv.lock where that torch accepts them, so that they are in the cache; no triton.
$(CACHE)/torch/%/.ready: | $(UV) $(ENV)
	@$(UV) venv --quiet --clear --python $(RUN) $(@D)
	@{ $(UV) export --quiet --frozen --only-group torch --no-emit-workspace --no-hashes --no-header --no-annotate \
	    --no-emit-package torch --no-emit-package cuda-toolkit --no-emit-package triton; \
	    echo "triton ; python_version < '0'"; } > $(@D)/overrides.txt
	@$(UV) pip install --python $(@D)/bin/python --overrides $(@D)/overrides.txt torch==$* numpy
	@touch $@

$(UV):
	@python3 -c 'import ensurepip' 2>/dev/null || { \
	    [[ $$(id -u) == 0 ]] && command -v apt-get >/dev/null && apt-get update -q && apt-get install -q -y python3-venv; \
	} || { echo "python3 -m venv does not work here: install it, on Debian with apt-get install python3-venv" >&2; exit 1; }
	@echo "installing uv $(UV_VERSION)"
	@python3 -m venv $(CACHE)/tools/uv-$(UV_VERSION)
	@$(CACHE)/tools/uv-$(UV_VERSION)/bin/pip install --quiet --disable-pip-version-check \
	    --require-hashes -r tools/uv.txt
	@touch $@
