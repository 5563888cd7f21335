# One word for each thing that is done to the project. Set-up comes before all of them and takes a second when nothing is missing.
PYTHON := .venv/bin/python

.PHONY: setup demo up test lint bench docs
.DEFAULT_GOAL := setup

setup:
	@tools/setup

demo: setup
	$(PYTHON) -m benchmarks.demo

up: setup
	.venv/bin/quilt up

test: setup
	@tools/setup browser
	.venv/bin/pytest $(ARGS)

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: setup
	$(PYTHON) -m benchmarks.bench $(ARGS)

docs: setup
	$(PYTHON) tools/docs
	$(PYTHON) docs/generate.py
	$(PYTHON) -m gateway.docs
	$(PYTHON) -m quilt_fn.cli.reference > docs/reference/cli.md
