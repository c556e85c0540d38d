# Everything runs from .venv at the root of the repository, made when it is first needed.

python := .venv/bin/python
ready := .venv/.ready
stamp := $(shell date +%Y%m%d-%H%M%S)

.PHONY: help setup demo flower test check protos clean

help:
	@echo "make demo     run the main job on real data and leave its page under runs/"
	@echo "make test     run all tests"
	@echo "make check    lint, format, types, import contracts"
	@echo "make flower   the main job through Flower's own command"
	@echo "make protos   generate the stubs of the wire again"
	@echo "make setup    only make .venv      make clean    remove what was made"

setup: $(ready)

$(ready): pyproject.toml constraints.txt .ci/setup
	@.ci/setup

demo: $(ready)
	.venv/bin/fedkd run digits --engine simulation --out runs/demo-$(stamp)
	@echo "The page: $(CURDIR)/runs/demo-$(stamp)/report.html"

flower: $(ready)
	$(python) -m simulations.flwr_run digits

test: $(ready)
	$(python) -m pytest

check: $(ready)
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy
	.venv/bin/lint-imports

protos: $(ready)
	$(python) -m grpc_tools.protoc -I protos --python_out=. --pyi_out=. protos/fedkd/wire/v1/*.proto

clean:
	rm -rf .venv runs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find fedkd server client simulations tests -name __pycache__ -type d -prune -exec rm -rf {} +
