# Everything runs in .venv, made from requirements.lock with any Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin

.PHONY: help demo test lint format bench lock clean
help:
	@echo "make demo    render a small world, train with and without debiasing, write the report"
	@echo "make test    run the tests"
	@echo "make lint    ruff (lint and format) and mypy"
	@echo "make bench   run the benchmarks (OPEN_CLIP_PYTHON=PATH measures open_clip too; BENCHMARKS=\"step loss\" runs some)"
	@echo "make lock    pin the newest versions that pyproject.toml allows (needs uv)"

$(VENV)/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "bias-train needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "making $(VENV) from requirements.lock (about 5 GB with CUDA libraries; some minutes)"
	$(PYTHON) -m venv --clear $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(VENV)/ready
	$(RUN)/bias-train demo

test: $(VENV)/ready
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -m "not gpu" -n 3 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/ready
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

format: $(VENV)/ready
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

# Each writes its figures (JSON) and its table to BENCH; README=README.md puts the tables into the README.
BENCH ?= runs/bench
BENCHMARKS ?= end_to_end step loss stream index search sweep audit social objects lettering curation
NEEDS_OPEN_CLIP := end_to_end stream
bench: $(VENV)/ready
	@mkdir -p $(BENCH)
	@for name in $(BENCHMARKS); do echo "== $$name"; extra=; \
	  case " $(NEEDS_OPEN_CLIP) " in *" $$name "*) extra="$(if $(OPEN_CLIP_PYTHON),--open-clip-python $(OPEN_CLIP_PYTHON))";; esac; \
	  $(RUN)/python tests/benchmarks/$$name.py --json $(BENCH)/$$name.json --markdown $(BENCH)/$$name.md $$extra || exit; done
	@$(RUN)/python tests/benchmarks/performance.py $(BENCH) $(README)

lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --all-extras \
	  --no-header pyproject.toml --output-file requirements.lock

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
