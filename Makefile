# make test   ruff and the test suite
# make demo   the recipe on the built-in data set
# make bench  the benchmarks
# make clean  remove the environment and everything built
#
# PYTHON=python3.11  the interpreter the environment is made from (3.8 to 3.12)
# TORCH=...          what `make bench` gives pip for its PyTorch peer. On Linux a plain `torch` is a
#                    CUDA build of several GB; for the CPU build add PyTorch's own CPU index:
#                    make bench TORCH="torch --index-url URL"
PYTHON ?= python3
TORCH ?= torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin

.PHONY: test demo bench clean

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/python -m pytest -q

demo: $(VENV)/installed
	$(BIN)/python demo.py

bench: $(VENV)/installed-torch
	set -e; for script in benchmarks/[!_]*.py; do echo "== $$script"; $(BIN)/python $$script; done

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache demo

# The stamps make pip run again when setup.py changes, and only then.
$(VENV)/installed: setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[cpu,plots,dev]'
	touch $@

$(VENV)/installed-torch: $(VENV)/installed
	$(BIN)/python -m pip install $(TORCH)
	touch $@
