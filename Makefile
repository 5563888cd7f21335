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
ifdef ARGS
	.venv/bin/pytest $(ARGS)
else
	@# What kills at a chosen moment has to see that moment: it runs alone.
	.venv/bin/pytest -n 2 --dist loadfile tests/acceptance tests/contract tests/integration tests/unit; first=$$?; \
	.venv/bin/pytest tests/chaos && exit $$first
endif

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
