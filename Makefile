# `make` lists the targets. Each does all of its own set-up.
.DEFAULT_GOAL := help
SHELL := /bin/sh
FLORENCE := .venv/bin/florence
PYTHON ?= python3
# Compiled modules are kept: a service is twelve processes, each of which would compile them anew.
unexport PYTHONDONTWRITEBYTECODE

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: install ## find the shapes in three random scenes, and show how well
	@$(FLORENCE) demo

serve: install ## serve until Ctrl-C; ARGS="--port 9000 --tls" for more
	@$(FLORENCE) serve $(ARGS)

test: install-test ## lint, types and every test
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/python -m pytest -q -n 2 --dist loadgroup -m "not alone"
	@.venv/bin/python -m pytest -m alone

test-fast: install-test ## the quick tests, in about a minute
	@.venv/bin/python -m pytest -q -n 2 -m "not slow"

bench: install-test ## requests/s, latencies and memory of the running service against a plain loop
	@.venv/bin/python -m loadtest.bench.service

bench-store: install-test ## the queue's stores alone: submits, claims, reads against a plain commit
	@.venv/bin/python -m loadtest.bench.store

bench-queue: install-test ## the queue over HTTP: submits under polling, status, memory at depth
	@.venv/bin/python -m loadtest.bench.queue

bench-engine: install-test ## the engine alone against transformers on one core; ARGS="--beams 3" for beams
	@.venv/bin/python -m loadtest.bench.engine $(ARGS)

drills: install-test ## break every part under load and count what is lost; ARGS="ingress weights"
	@.venv/bin/python -m tests.chaos $(ARGS)

bench-gpu: ## the engine on a GPU; needs only PYTHON with torch and transformers; ARGS="--dry-run" on a CPU
	@$(PYTHON) -m loadtest.gpu $(ARGS)

bench-peers: install-test ## the service against LitServe and BentoML; ARGS="--mixed" for many lengths
	@.venv/bin/python -m loadtest.peers $(ARGS)

chart: install-test ## make the chart's schema, README and manifests anew
	@.venv/bin/python -m k8s.generate

loadtest: install-loadtest ## load a service and judge it; ARGS="steady --rate 10 --url URL --key KEY"
	@.venv/bin/python -m loadtest $(ARGS)

install:
	@scripts/install

install-test:
	@scripts/install test

install-loadtest:
	@scripts/install loadtest

clean: ## remove what the other targets made
	rm -rf .venv out .mypy_cache .ruff_cache .pytest_cache .hypothesis

.PHONY: help chart demo serve test test-fast bench bench-store bench-queue bench-engine bench-gpu bench-peers drills loadtest install install-test install-loadtest clean
