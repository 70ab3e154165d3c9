# make demo, make test and make check need Python 3.10 or newer, and the network for pip, once.

PYTHON ?= python3
VENV ?= .venv
# For pytest: make test TESTS="tests/commands/test_cli.py"
TESTS ?=
# Processes that run tests at the same time: one for each core, or a number. 0 runs all in one.
WORKERS ?= auto
PYTEST = pytest -n $(WORKERS) --maxprocesses 8

export PATH := $(abspath $(VENV))/bin:$(PATH)

SHELL_SCRIPTS = demo/run .ci/run scripts/install-cluster scripts/install-browser \
    scripts/install-terminal-programs completions/bash/oellm \
    $(wildcard tests/fake_slurm/* tests/golden/*.sbatch)
JSON_FILES = $(wildcard *.json lib/oellm/core/*.json)
YAML_FILES = .pre-commit-config.yaml $(wildcard demo/tasks/*.yaml)
SCRIPTS = $(filter-out scripts/catalogues scripts/__pycache__,$(wildcard scripts/*))
TEXT_FILES = $(wildcard *.md docs/*.md containers/*.* containers/requirements/*.* \
    containers/requirements/left-out/* templates/* completions/*/*oellm* scripts/catalogues/*.*) $(SCRIPTS) $(JSON_FILES) \
    $(YAML_FILES) Makefile pyproject.toml constraints.txt demo/run .ci/run

.PHONY: demo test test-fast fuzz check golden docs clean

demo: $(VENV)/installed
	demo/run

test: $(VENV)/installed
	$(PYTEST) $(TESTS)

# Without the tests that load torch, build packages, or start very many processes.
test-fast: $(VENV)/installed
	$(PYTEST) -m "not slow" $(TESTS)

# The hooks of .pre-commit-config.yaml, on all files. The last two mend a file and fail.
# Commands with long lists of files are not printed; what they find is.
check: $(VENV)/installed
	ruff check .
	ruff format --check .
	mypy
	@shellcheck $(SHELL_SCRIPTS)
	typos
	@check-json $(JSON_FILES)
	@check-yaml --unsafe $(YAML_FILES)
	@check-toml pyproject.toml
	@end-of-file-fixer $(TEXT_FILES)
	@trailing-whitespace-fixer $(TEXT_FILES)

# Ten thousand damaged files of all kinds; prints how many were refused, and how the commands ended.
fuzz: $(VENV)/installed
	OELLM_FUZZ=10000 pytest -q -s tests/faults/test_fuzzed_*.py

# Writes the files that tests compare with, from what the commands print now; read the diff.
golden: $(VENV)/installed
	OELLM_WRITE_GOLDEN=1 pytest -q -m "not slow and not cluster"

docs: $(VENV)/installed
	scripts/make-docs

clean:
	rm -rf $(VENV) demo/output build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
