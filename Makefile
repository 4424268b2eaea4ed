# On a fresh machine, `make demo` and `make test` each do the whole setup.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo federation test test-marked test-all check lint types docs bench bench-gpu bench-peers clean

# editable_mode=compat writes a .pth file, which type checkers follow; setuptools' default they do not.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt \
		--config-settings editable_mode=compat -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps curvlinops-for-pytorch
	@touch $(READY)

demo: $(READY)  ## train the built-in demo; the report is in runs/demo (or runs/demo-2, …)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/fedloru run demo

federation: $(READY)  ## run a server and three clients over TLS on this machine; the report is in runs/digits (or -2, …)
	OMP_WAIT_POLICY=PASSIVE $(BIN)/fedloru try digits

test: $(READY)  ## run the default tests; under 8 minutes on 2 cores
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest -n 2

test-marked: $(READY)  ## run the tests that `make test` skips and that need no GPU: slow, language models, Flower, Ray, browser
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest -n 2 -m '(slow or hf or flower or ray or browser) and not gpu'

test-all: $(READY)  ## run every test that needs no GPU
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest -n 2 -m 'not gpu'

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)
	$(BIN)/mypy

# Not --quiet, which would let warnings pass.
docs: $(READY)  ## build the documentation site into site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: lint types docs test  ## check lint, format, types, import rules, docs and tests; must pass before a commit

bench: $(READY)  ## compare the speed of the engines; under 5 minutes
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python benchmarks/engines.py

bench-gpu: $(READY)  ## measure the fused engine on a GPU; fails if it misses its targets
	$(BIN)/python benchmarks/gpu.py

bench-peers: $(READY)  ## install other libraries into build/peers, compare their speed, and write the README's table
	$(BIN)/python benchmarks/peers.py --readme README.md

clean:
	rm -rf $(VENV) build site *.egg-info .mypy_cache .ruff_cache .pytest_cache
