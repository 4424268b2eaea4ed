# Two commands do all the set-up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test test-marked test-all check lint types bench clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps curvlinops-for-pytorch
	@touch $(READY)

demo: $(READY)  ## train the built-in demo; its report is in runs/demo (or demo-2, …)
	$(BIN)/fedloru run demo --out $$($(BIN)/python -c "import itertools, pathlib; print(next(p for n in itertools.count(1) if not (p := pathlib.Path('runs/demo' + f'-{n}' * (n > 1))).exists()))")

test: $(READY)  ## the default tests, under 8 minutes on 2 cores
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest -n 2

test-marked: $(READY)  ## the tests that the default leaves out and that need no GPU: slow ones and language models
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest -n 2 -m '(slow or hf) and not gpu'

test-all: $(READY)  ## every test that needs no GPU
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest -n 2 -m 'not gpu'

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

check: lint types test  ## lint, format, types, import rules, tests, docs: what must pass before a commit

bench: $(READY)  ## measure the engines against each other; under 5 minutes
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python benchmarks/engines.py

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache
