# One entry for everything: `make help`. Needs Linux or macOS, GNU make, python3 >= 3.11; the local cluster needs Linux
# and root, and builds what it needs by itself (see docs/local-cluster.md).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/torchrun-operator
UV_VERSION := 0.13.8
# Of its own, so that every machine installs alike.
UV := $(CACHE)/tools/uv-$(UV_VERSION)/bin/uv
ENV := .venv/.synced
RUN := .venv/bin/python
LOCAL := PYTHONPATH=e2e python3 -m localcluster
PYTEST := $(RUN) -m pytest
# The oldest supported torch and a middle one; the newest is the one that uv.lock names.
TORCH_VERSIONS := 2.6.0 2.11.0
TORCH_PYTHONS := $(TORCH_VERSIONS:%=$(CACHE)/torch/%/bin/python) $(CURDIR)/$(RUN)
EMPTY :=

REGISTRY ?=
TAG ?= dev
ENGINE ?= $(firstword $(foreach engine,docker podman buildah,$(if $(shell command -v $(engine)),$(engine))))
IMAGE_PREFIX := $(if $(REGISTRY),$(REGISTRY)/)

.PHONY: help
help: ## List what there is to make
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Show it: a job on a real cluster loses its first node, shrinks, grows, and finishes
	@PYTHONPATH=e2e python3 -m demo

.PHONY: test
test: $(ENV) ## Run every check and test, those on a real cluster included
	@PYTHONPATH=e2e $(RUN) -m support.tiers

.PHONY: lint
lint: $(ENV) ## Check style, types and layers
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	PYTHONPATH=e2e .venv/bin/lint-imports
	PYTHONPATH=e2e $(RUN) -m support.layout

.PHONY: format
format: $(ENV) ## Format the code, and mend what ruff can mend
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

.PHONY: generate
generate: $(ENV) ## Write the generated files: the CRD, its reference, the example's inline script, benchmark tables
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
	$(PYTEST) operator/tests trainer/tests e2e/tests -m "not integration and not cluster and not slow"

.PHONY: test-slow
test-slow: $(ENV) ## Run what make test leaves out: real agents without an operator, with the newest torch, and what they say
	$(PYTEST) operator/tests trainer/tests -m slow

.PHONY: coverage-trainer
coverage-trainer: $(ENV) ## Measure what of the library its tests run, slow ones and other processes included; fails below 95 %
	rm -rf .work/coverage && mkdir -p .work/coverage
	$(RUN) -m coverage run -m pytest trainer/tests
	$(RUN) -m coverage combine --quiet
	$(RUN) -m coverage report --fail-under=95

.PHONY: test-torch-versions
test-torch-versions: $(ENV) $(TORCH_VERSIONS:%=$(CACHE)/torch/%/.ready) ## Run real agents with the oldest, a middle and the newest torch (6 GB)
	TORCH_PYTHONS=$(subst $(EMPTY) $(EMPTY),:,$(strip $(TORCH_PYTHONS))) $(PYTEST) -o log_cli=true -o log_cli_level=INFO \
	    operator/tests/component/test_rendezvous/test_rendezvous_versions.py

.PHONY: test-integration
test-integration: $(ENV) ## Run the tests with a real API server and Helm (make cluster-up builds both)
	programs=$$($(LOCAL) bin); PATH=$$programs:$$PATH KUBE_BINARY=$$programs/kube $(PYTEST) \
	    operator/tests/integration charts/tests

.PHONY: test-chart
test-chart: $(ENV) ## Run the tests of the Helm chart, which are part of test-integration
	programs=$$($(LOCAL) bin); PATH=$$programs:$$PATH $(PYTEST) charts/tests

.PHONY: test-cluster
test-cluster: $(ENV) ## Run the tests with real torchrun in real pods; brings the local cluster up if need be
	$(PYTEST) e2e/tests -m cluster

.PHONY: e2e
e2e: test-cluster ## The same as test-cluster

.PHONY: cluster-up
cluster-up: ## Bring up the local cluster, or bring it up to date with the sources
	@$(LOCAL) up

.PHONY: cluster-down
cluster-down: ## Take the local cluster down; what was built stays in the cache
	@$(LOCAL) down

.PHONY: bench
bench: bench-loop bench-scale bench-recovery ## Run all benchmarks

.PHONY: bench-scale
bench-scale: $(ENV) ## Measure the start of 50 jobs of 8 nodes against plain POSTs of the same pods
	PYTHONPATH=e2e $(RUN) -m support.withcluster $(CURDIR)/$(RUN) -m bench.scale

.PHONY: bench-loop
bench-loop: $(ENV) ## Measure what the trainer library's loop costs per step: at most 50 microseconds
	$(RUN) e2e/bench/loop.py

.PHONY: bench-recovery
bench-recovery: $(ENV) ## Measure how fast training goes on after each kind of fault, against PyTorchJob and pods by hand
	PYTHONPATH=e2e $(RUN) -m bench.recovery $(ARGS)

.PHONY: bench-snapshot
bench-snapshot: $(ENV) ## Measure for how long a snapshot of 1 GB keeps training waiting, against torch.save of the same
	PYTHONPATH=e2e $(RUN) -m bench.snapshot $(ARGS)

.PHONY: chaos
chaos: $(ENV) ## Kill the operator 20 times while 10 jobs start, then check that each has exactly what it should
	PYTHONPATH=e2e $(RUN) -m support.withcluster $(CURDIR)/$(RUN) -m chaos.operator_restarts

.PHONY: chaos-membership
chaos-membership: $(ENV) ## Do 200 random faults and scalings to one elastic job, and judge it: ARGS="--faults 20 --seed 1"
	PYTHONPATH=e2e $(RUN) -m chaos.membership --json .work/chaos-membership/report.json $(ARGS)

.PHONY: image
image: ## Build both images: REGISTRY=…, TAG=…, ENGINE=docker|podman|buildah, PUSH=1 to push them
	@[[ -n "$(ENGINE)" ]] || { echo "no docker, podman or buildah on PATH: install one" >&2; exit 1; }
	$(ENGINE) build -f operator/Dockerfile -t $(IMAGE_PREFIX)torchrun-operator:$(TAG) .
	$(ENGINE) build -f trainer/Dockerfile -t $(IMAGE_PREFIX)torchrun-trainer:$(TAG) .
	$(if $(PUSH),$(ENGINE) push $(IMAGE_PREFIX)torchrun-operator:$(TAG))
	$(if $(PUSH),$(ENGINE) push $(IMAGE_PREFIX)torchrun-trainer:$(TAG))

$(ENV): uv.lock pyproject.toml trainer/pyproject.toml | $(UV)
	@$(UV) sync --frozen
	@touch $@

# CUDA's libraries as uv.lock has them where a torch takes these too, so that they are there already; no triton.
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
	} || { echo "python3 -m venv does not work here: install it, on Debian by apt-get install python3-venv" >&2; exit 1; }
	@echo "installing uv $(UV_VERSION)"
	@python3 -m venv $(CACHE)/tools/uv-$(UV_VERSION)
	@$(CACHE)/tools/uv-$(UV_VERSION)/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@
