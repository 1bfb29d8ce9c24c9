# make demo: set up, run the demo, say where the results lie.   make test: set up, run the tests.

PYTHON ?= python3
VENV ?= .venv
CORES ?= $(shell getconf _NPROCESSORS_ONLN)
WORKERS ?= auto --maxprocesses 8
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: demo test test-fast mutation lint schema readme publish-demo environment clean

demo: environment
	snakemake all --cores $(CORES) --configfile config/demo.yaml

test: environment
	pytest -n $(WORKERS)

test-fast: environment
	pytest -n $(WORKERS) -m "not slow"

mutation: environment
	env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 mutmut run --max-children $(CORES)
	python tests/mutation/survivors.py

lint: environment
	ruff check . && ruff format --check . && snakefmt --check Snakefile workflow
	snakemake --lint --configfile config/demo.yaml

schema: environment
	python -m fgp_workflow.config_docs

# The parts of README.md that are made from results/published/demo-* and from the rules.
readme: environment
	python -m fgp_workflow.readme

publish-demo: demo
	cp results/demo/cells.csv results/demo/config.yaml results/demo/tables/*.csv results/demo/tables/*.md results/demo/figures/fig*.png \
	    results/published/demo-digits-and-scenes_seed-0_cpu/
	python -m fgp_workflow.readme

environment: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml workflow/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]" --editable workflow
	@touch $@

clean:
	rm -rf results/demo $(VENV)
