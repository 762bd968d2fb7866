# `make` lists the targets. Each installs what it needs.
.DEFAULT_GOAL := help
SHELL := /bin/sh
FLORENCE := .venv/bin/florence
PYTHON ?= python3
# Compiled modules are kept: a service is twelve processes, each of which would compile them anew.
unexport PYTHONDONTWRITEBYTECODE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: install ## ask about four random scenes, and compare with the truth
	@$(FLORENCE) demo

serve: install ## serve until Ctrl-C; ARGS="--port 9000 --tls" for more
	@$(FLORENCE) serve $(ARGS)

test: install-test ## run the linter, the type checker and all tests
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/python -m pytest -q -n 2 --dist loadgroup -m "not alone"
	@.venv/bin/python -m pytest -q -m alone tests/chaos tests/scaling
	@.venv/bin/python -m pytest -m alone tests/acceptance

test-fast: install-test ## run the fast tests, in under a minute
	@.venv/bin/python -m pytest -q -n 2 -m "not slow"

bench: install-test ## compare requests/s, latencies and memory of the service with a plain loop
	@.venv/bin/python -m loadtest.bench.service

bench-store: install-test ## time submits, claims and reads of the stores
	@.venv/bin/python -m loadtest.bench.store

bench-queue: install-test ## time the queue over HTTP: submits under polling, status calls, memory
	@.venv/bin/python -m loadtest.bench.queue

bench-engine: install-test ## compare the engine with transformers on one core; ARGS="--shape small"
	@.venv/bin/python -m loadtest.bench.engine $(ARGS)

drills: install-test ## break every part under load and count lost requests; ARGS="ingress weights"
	@.venv/bin/python -m tests.chaos $(ARGS)

bench-gpu: ## time the engine on a GPU; PYTHON needs torch and transformers; ARGS="--dry-run" on a CPU
	@$(PYTHON) -m loadtest.gpu $(ARGS)

bench-peers: install-test ## compare the service with LitServe and BentoML; ARGS="--small" for a small model
	@.venv/bin/python -m loadtest.peers $(ARGS)

chart: install-test ## generate the chart's schema, README and manifests
	@.venv/bin/python -m k8s.generate

dist: install-test ## pack the chart for a registry: dist/florence-VERSION.tgz and its SHA-256
	@.venv/bin/python -m k8s.dist

screenshots: install-test ## take the pictures of the page in docs/images
	@.venv/bin/python -m tests.browser.screenshots

loadtest: install-loadtest ## load-test a service; ARGS="steady --rate 10 --url URL --key KEY"
	@.venv/bin/python -m loadtest $(ARGS)

install:
	@scripts/install

install-test:
	@scripts/install test

install-loadtest:
	@scripts/install loadtest

install-otlp: ## install what exports traces
	@scripts/install otlp

clean: ## remove what the other targets made
	rm -rf .venv out dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

.PHONY: help chart dist demo serve test test-fast bench bench-store bench-queue bench-engine bench-gpu bench-peers drills loadtest screenshots install install-test install-loadtest install-otlp clean
