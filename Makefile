# `make help` lists the targets; each sets up what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Compiling all modules is half of an installation; what is imported is compiled then.
PIP := $(BIN)/python -m pip --disable-pip-version-check install -q --no-compile -c constraints.txt
# The published weights are an npm package: without an npm on PATH, one comes from PyPI.
NPM := $(if $(shell command -v npm),,npm)
comma := ,
DATA ?= data/demo
RUN ?= runs/demo
MODE ?=
REVIEWERS ?=
SCORES ?=
# Some shells hand on `~` as it is, where it follows a sign of equality.
override DATA := $(patsubst ~/%,$(HOME)/%,$(DATA))
override RUN := $(patsubst ~/%,$(HOME)/%,$(RUN))
override SCORES := $(patsubst ~/%,$(HOME)/%,$(SCORES))
# What the page asks of anybody but this machine is refused by the browser: its template names a font on a CDN.
HERE_ONLY := default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob: ws:

# One thread of computing for each worker: two workers with two each wait for one another, in linear algebra three times
# as long.
PYTEST := NSFWLIB_HEADLESS=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
NBVAL := --nbval-lax --nbval-current-env --nbval-cell-timeout=1800 -p no:cacheprovider

.DEFAULT_GOAL := help
.PHONY: help demo second-round test test-fast test-all notebooks lab review bench art lint clean

help:  ## these lines
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "%-14s %s\n", $$1, $$2}'

demo: $(VENV)/base  ## the embedded data set through notebooks 01–04 into runs/demo/
	$(BIN)/python -m nsfwlib.pipeline

second-round: $(VENV)/base  ## the demo twice, the second time on a copy with the decisions applied; one table
	$(BIN)/python benchmarks/second_round.py

test: $(VENV)/dev lint notebooks  ## everything that CI runs; the committed notebooks on their defaults among it
	$(PYTEST) $(NBVAL) build/nbval/notebooks tests

test-fast: $(VENV)/dev  ## the daily loop, two and a half minutes on two cores: no notebook, no browser, no large network
	$(PYTEST) -m "not slow and not browser and not full" tests

test-all: $(VENV)/dev lint notebooks  ## what CI runs, and a hundred kills, many disks, the second round, pip's dry run, a wheel
	$(PYTEST) $(NBVAL) -m "" build/nbval/notebooks tests

notebooks:
	rm -rf build/nbval && mkdir -p build/nbval && cp -r notebooks _art build/nbval/

lab: $(VENV)/base  ## JupyterLab on a run's own copies of the notebooks: make lab DATA=… RUN=…
	$(BIN)/python -m nsfwlib.pipeline --prepare --notebooks $(basename $(notdir $(wildcard notebooks/0*.ipynb))) \
		--data-dir "$(DATA)" --run-dir "$(RUN)"
	$(BIN)/python -m jupyterlab --ServerApp.root_dir="$$(cd "$(RUN)/notebooks" && pwd)"

# REVIEWERS="Ada, Bea" divides the work; SCORES, a run of notebook 05, adds what was flagged there. Each call serves a
# copy of its own: whoever asks for another run, or by another name, must not change a page that is open.
review: $(VENV)/review  ## the review grid as a page for reviewers: make review DATA=… RUN=… REVIEWER=…
	@test -n "$(REVIEWER)" || { echo "Who decides? A name goes with each decision: REVIEWER=your-name" >&2; exit 2; }
	mkdir -p build && page=$$(mktemp -d build/review.XXXXXX)/review_page.ipynb \
		&& data=$$(cd "$(DATA)" && pwd) && run=$$(cd "$(RUN)" && pwd) \
		&& scores=$(if $(SCORES),$$(cd "$(SCORES)" && pwd)) \
		&& $(BIN)/papermill --prepare-only notebooks/review_page.ipynb "$$page" -r data_dir "$$data" -r run_dir "$$run" \
		-r reviewer "$(REVIEWER)" -r mode "$(MODE)" -r scores_run "$$scores" -y '{"reviewers": [$(REVIEWERS)]}' \
		&& exec $(BIN)/voila --no-browser --VoilaConfiguration.file_allowlist="[]" \
		--VoilaConfiguration.show_tracebacks=True "$$page" \
		--Voila.tornado_settings="{'headers': {'Content-Security-Policy': \"$(HERE_ONLY)\"}}"

bench: $(VENV)/dev  ## side-by-side measurements against public peers
	for script in $(filter-out benchmarks/second_round.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

art: demo $(VENV)/dev  ## redraw the figures that the README shows from the demo run; the grid needs a Chromium
	$(BIN)/python -m nsfwlib.pipeline --notebooks 07_compare_detectors
	$(BIN)/python _art/redraw.py runs/demo
	rm -rf build/art && mkdir -p build/art && $(BIN)/papermill --prepare-only \
		notebooks/review_page.ipynb build/art/review_page.ipynb -p data_dir "$(abspath data/demo)" \
		-p run_dir "$(abspath runs/demo)" -p journal_file "$(abspath build/art/decisions.csv)" -p mode review
	$(BIN)/python tests/browser.py build/art/review_page.ipynb .nsfw-panel _art/review_grid.png \
		--keys k d Enter "?" Enter

lint: $(VENV)/dev  ## style, types and stripped notebooks
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -n 2
	$(BIN)/nbstripout --keep-id --verify notebooks/*.ipynb

clean:  ## remove what was made here, not the data or the runs
	rm -rf $(VENV) build *.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one with make PYTHON=…")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/base: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV): about 2.5 GB, a few minutes."
	$(PIP) -e '.$(if $(NPM),[$(NPM)])'
	@touch $@

$(VENV)/review: $(VENV)/base
	$(PIP) -e '.[review]'
	@touch $@

$(VENV)/dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV) with what the tests need: about 3 GB, a few minutes."
	$(PIP) -e '.[dev,bench,heic,onnx,opennsfw,openvino,pdq,ray,review,tflite,video$(if $(NPM),$(comma)$(NPM))]'
	@touch $@ $(VENV)/base $(VENV)/review
