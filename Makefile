PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast docs lab lock clean-nb

help:
	@echo "make demo      install what is missing, then make the demo: runs/demo/report.html"
	@echo "make test      install what is missing, then run all tests (JOBS=$(JOBS) at a time)"
	@echo "make test-fast in under three minutes: all but trainings"
	@echo "make setup     only install, into $(VENV)"
	@echo "make docs      build the pages into _docs/html"
	@echo "make lab       open the notebooks in JupyterLab"
	@echo "make clean-nb  strip from the notebooks what git should not see"
	@echo "make lock      choose the locked versions anew (constraints.txt)"

setup: $(STAMP)

# torch comes first and exactly: any looser request may fetch a GPU build of several gigabytes.
$(STAMP): settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'ccella needs Python 3.11 or newer, found ' + sys.version.split()[0] + '; name another with make PYTHON=python3.12')"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q torch==2.13.0
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@

demo: $(STAMP)
	$(BIN)/ccella run demo

test: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-fast: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist load --fast

docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -q -b html -c docs -d _docs/doctrees . _docs/html
	@echo "open _docs/html/index.html"

lab: $(STAMP)
	$(BIN)/jupyter lab --notebook-dir nbs

clean-nb: $(STAMP)
	$(BIN)/nbdev-clean

lock:
	sh requirements/lock.sh
