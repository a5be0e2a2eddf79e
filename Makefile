# Both first commands set themselves up: a virtual environment in .venv, with the pins of constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Processes that run tests: `auto` is one more than cores, 0 runs them in the process of pytest.
WORKERS ?= auto
PYTEST = HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: demo nightly test quick soak reliability lint typecheck check models clean

demo: $(STAMP)  ## the whole flow on generated data, a few minutes
	$(BIN)/gradsift demo --folder demo

nightly: $(STAMP)  ## a pool that grows for three nights, checked against what arrived, some minutes
	rm -rf nights
	HF_HUB_OFFLINE=1 $(BIN)/python examples/nightly/night.py --folder nights

test: $(STAMP)  ## all tests, on all cores
	$(PYTEST)

quick: $(STAMP)  ## the tests that are not slow, to run while working
	$(PYTEST) -m 'not slow and not soak'

soak: $(STAMP)  ## the long forms of the attacks on a store, an hour
	$(PYTEST) -m soak

# A part of the attacks: make reliability GRADSIFT_SOAK_SHARE=0.1
reliability: $(STAMP)  ## docs/reliability.md: what attacks on each promise come to, an hour or more
	GRADSIFT_RELIABILITY=benchmarks/results/reliability.json $(PYTEST) -m 'soak or not soak'
	$(BIN)/python docs/make_reliability.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(STAMP)
	$(BIN)/mypy

check: lint typecheck test

models: $(STAMP)  ## docs/models.md: every architecture, tiny, against a loop of autograd
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/models.py

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "gradsift needs Python 3.11 or newer; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	# torch first and by its exact pin: the plain CPU build where an index offers one.
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) demo nights build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
