# make demo: the whole way on a synthetic corpus. make test: the tests. make app: a page to try a model on.
# make export: what scripts.export_onnx and parquet need. make faces: what --crop face needs. All build $(VENV) first.
VENV ?= .venv
PYTHON ?= python3
DEMO ?= demo
BENCH ?=
CHECKPOINT ?= $(DEMO)/runs/both/seed1234/session1
TESTS ?=

export VENV
export PATH := $(abspath $(VENV))/bin:$(PATH)
export TOKENIZERS_PARALLELISM = false

.PHONY: demo test app export faces lint bench clean
.DELETE_ON_ERROR:

$(VENV)/installed: requirements.txt requirements-export.txt requirements-dev.txt requirements-faces.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-faces.txt
	touch $@

demo: $(VENV)/installed
	bash scripts/demo.sh $(DEMO)

test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile $(TESTS)

app: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-app.txt
	$(VENV)/bin/python -m scripts.app $(CHECKPOINT)

export: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-export.txt

faces: $(VENV)/installed
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r requirements-export.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-faces.txt

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/shellcheck scripts/*.sh .ci/run

bench: $(VENV)/installed
	$(VENV)/bin/python -m scripts.benchmark $(BENCH)

clean:
	rm -rf $(DEMO) runs .pytest_cache .ruff_cache
