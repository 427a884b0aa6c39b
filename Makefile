# make test       ruff, mypy and the test suite
# make demo       the recipe on the built-in data set
# make bench      speed and memory, within twenty minutes on two quiet cores
# make campaign   kills, cluster kills and damaged files at length (hours)
# make study      what the method gains (hours, in as many sittings as it takes): on drawn faces, and
#                 on photographs with FACES='--lfw LFW --cfp CFP --protocol DIR' (docs/study.md)
# make test-cuda  whether mxnet-cu112 is imported with pip's CUDA libraries; needs no GPU, but 5 GB
# make test-gpu   what the GPUs compute beside the CPU, as a table (five minutes; where there is no
#                 GPU, on CPU contexts in the forms for GPUs)
# make clean      remove the environments and everything built
#
# PYTHON=python3.11  the interpreter the environment is made from (3.8 to 3.12)
# TORCH=...          what `make bench` gives pip for its PyTorch peer; the default is the release
#                    of our figures. On Linux the plain package is a CUDA build of several GB; for
#                    the CPU build name PyTorch's own CPU index, or a wheel:
#                    make bench TORCH="torch --index-url URL"
PYTHON ?= python3
TORCH ?= torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
CUDA_VENV := .venv-cuda
CUDA_BIN := $(CUDA_VENV)/bin

run = set -e; for script in $(1)/[!_]*.py; do echo "== $$script"; begin=$$(date +%s); \
	$(BIN)/python $$script; echo "== $$(($$(date +%s) - begin)) s"; done

.PHONY: test types demo bench campaign study test-cuda test-gpu clean

# Two processes of one thread each: the tests' small networks gain nothing from a second thread. A
# file's tests stay together, because they share what their fixtures have made.
test: types
	$(BIN)/ruff check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile

# mypy wants the package as it is imported; its parts lie in three folders. The scripts, which are no
# package, are checked after it.
types: $(VENV)/installed
	rm -rf build/types
	mkdir -p build/types/unequal
	ln -s $(CURDIR)/src/unequal/* $(CURDIR)/symbols $(CURDIR)/eval build/types/unequal/
	$(BIN)/mypy
	$(BIN)/mypy *.py benchmarks campaigns studies tests/helpers

demo: $(VENV)/installed
	$(BIN)/python demo.py

bench: $(VENV)/installed-torch
	$(call run,benchmarks)

campaign: $(VENV)/installed
	$(call run,campaigns)

study: $(VENV)/installed
	$(BIN)/python studies/real_faces.py --jobs 2 $(FACES)
	$(BIN)/python studies/real_faces.py --page
	set -e; for script in mini_mf2 compression noise_kinds; do $(BIN)/python studies/$$script.py; done

# Linking mxnet-cu112 needs the driver's library; a stub stands for it.
test-cuda: $(CUDA_VENV)/installed
	gcc -shared -fPIC -Wl,-soname,libcuda.so.1 -o $(CUDA_VENV)/libcuda.so.1 tests/helpers/stub_driver.c
	LD_LIBRARY_PATH=$(CUDA_VENV) $(CUDA_BIN)/python -m pytest -q -m cuda tests/system/test_runtime.py

# TF32 has 10 bits of mantissa: without it the comparison is strict. It is read when the libraries
# are loaded.
GPU_VENV := $(if $(shell ldconfig -p 2>/dev/null | grep -F libcuda.so.1),$(CUDA_VENV),$(VENV))
test-gpu: $(GPU_VENV)/installed
	NVIDIA_TF32_OVERRIDE=0 $(GPU_VENV)/bin/python tests/gpu/suite.py

clean:
	rm -rf $(VENV) $(CUDA_VENV) build *.egg-info .pytest_cache .ruff_cache symbols/*.so src/unequal/data/*.so

# The stamps make pip run again when setup.py changes, and only then.
$(VENV)/installed: setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[cpu,plots,dev]'
	touch $@

$(VENV)/installed-torch: $(VENV)/installed
	$(BIN)/python -m pip install $(TORCH)
	touch $@

$(CUDA_VENV)/installed: setup.py pyproject.toml
	test -x $(CUDA_BIN)/python || $(PYTHON) -m venv $(CUDA_VENV)
	$(CUDA_BIN)/python -m pip install --quiet --editable '.[cu112,dev]'
	touch $@
