# Everything runs from .venv at the root of the repository, made when it is first needed.

python := .venv/bin/python
ready := .venv/.ready
run := runs/demo-$(shell date +%Y%m%d-%H%M%S)

# Names, versions and hashes of all files of each version, for every platform and no host; the index
# is that of uv's own settings.
hashed := $(python) -m uv pip compile --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --quiet --constraint constraints.txt

.PHONY: help setup demo docs flower deployment deployment-plain test check protos hashes sbom clean

help:
	@echo "make demo     the main job on real data; leaves its page under runs/"
	@echo "make test     all tests"
	@echo "make check    lint, format, types and import contracts"
	@echo "make flower   the main job through Flower's own command"
	@echo "make deployment        three institutions as deployed: Flower, TLS, agents of their own"
	@echo "make deployment-plain  the same without Flower: fedkd-server and join tokens"
	@echo "make protos   the stubs of the wire, generated again"
	@echo "make docs     the documentation site, in site/"
	@echo "make hashes   constraints-hashes.txt and what the images install, after a change of constraints.txt"
	@echo "make sbom     sbom.json: what is installed in .venv, as CycloneDX"
	@echo "make setup    only .venv, which all of these set up first"
	@echo "make clean    removes what tools left; .venv and runs/ stay"

setup: $(ready)
	@echo "For the commands fedkd, fedkd-server and fedkd-client: source .venv/bin/activate"

$(ready): pyproject.toml constraints.txt .ci/setup
	@.ci/setup

demo: $(ready)
	.venv/bin/fedkd run digits --engine simulation --out $(run)
	@echo "The page: $(CURDIR)/$(run)/report.html"

flower: $(ready)
	$(python) -m fedkd.simulations.rehearsal.flwr_run digits

deployment: $(ready)
	$(python) -m fedkd.simulations.rehearsal.deployment

deployment-plain: $(ready)
	$(python) -m fedkd.simulations.rehearsal.deployment --without-flower

# One thread each: torch's threads spin where cores are shared. Three processes for two cores, since
# many tests wait for processes of their own.
test: export OMP_NUM_THREADS := 1
test: $(ready)
	$(python) -m pytest -n 3 --dist worksteal

check: $(ready)
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy
	.venv/bin/lint-imports --no-logo

# Without the note of its makers about another tool, which is no fault of a page.
docs: $(ready)
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict
	@echo "The first page: $(CURDIR)/site/index.html"

protos: $(ready)
	$(python) -m grpc_tools.protoc -I protos --python_out=. --pyi_out=. protos/fedkd/wire/v1/*.proto

hashes: $(ready)
	$(hashed) --no-deps constraints.txt --output-file constraints-hashes.txt
	$(hashed) pyproject.toml --extra client --extra dp --extra vision --extra flower \
		--extra data --extra metrics --output-file containers/client-requirements.txt
	$(hashed) pyproject.toml --extra server --extra flower --extra onnx --extra metrics \
		--output-file containers/server-requirements.txt

# In an environment of its own, so that the list does not have the tool and what it needs.
sbom: $(ready)
	$(python) -m uv tool run --from "cyclonedx-bom>=7,<8" cyclonedx-py environment \
		--pyproject pyproject.toml --output-reproducible --output-file sbom.json $(python)
	@! grep -nE "file:/|$(CURDIR)" sbom.json || { echo "sbom.json names this machine; see above"; exit 1; }

clean:
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find fedkd server client simulations tests -name __pycache__ -type d -prune -exec rm -rf {} +
