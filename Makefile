# Two commands matter: `make repro` (the whole study) and `make test`. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PORT ?= 5000
# Nothing here talks to a telemetry server; the environment's tools come before the system's.
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup repro notebooks scores gallery test torture bench lint lock audit status ui clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## create .venv from requirements.lock (HASHED=1 compares every file with requirements.hashes.lock)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is too old: Python 3.11 or newer is needed; name one with make PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(HASHED),$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes \
		-r requirements.hashes.lock)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

repro: $(READY)  ## replicate the whole study (PROFILE=smoke|quick|study|paper sets the scale)
	$(if $(PROFILE),@ipt profile $(PROFILE))
	@ipt check-params
	@dvc repro
	@ipt runtime
	@ipt summary

notebooks: $(READY)  ## execute the notebooks on the results of `make repro`, into notebooks/executed
	@ipt notebooks

scores: $(READY)  ## compute the scores of the weights in weights/ again and compare them with the recorded ones
	@ipt data fetch --level benchmark
	@ipt scores

gallery: $(READY)  ## restore listed benchmark photographs with the weights in weights/, into gallery/index.html
	@ipt data fetch --level benchmark
	@ipt gallery

test: $(READY)  ## run the tests
	@python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

torture: $(READY)  ## kill, fill disks, cut servers off, feed hostile bytes, in full; writes docs/reliability.md
	@python -m pytest -q tests/torture --torture

bench: $(READY)  ## compare speed, memory, size and learning with named peers (half an hour on two quiet cores)
	@python -m benchmarks

lint: $(READY)  ## check the code's style
	@ruff check src tests tools workflow benchmarks notebooks && \
		ruff format --check src tests tools benchmarks notebooks

lock: $(READY)  ## write requirements.hashes.lock: the digest of every file of what requirements.lock names
	@python tools/hashes.py

audit: $(READY)  ## compare the digests with the package index, and ask pip-audit for known vulnerabilities
	@python tools/hashes.py --check
	@command -v pip-audit >/dev/null || { echo "audit: pip-audit is not installed; nothing was audited"; exit 1; }
	@pip-audit --strict --disable-pip --require-hashes -r requirements.hashes.lock

status: $(READY)  ## say what is up to date and what is not
	@ipt status

ui: $(READY)  ## open the MLflow runs on 127.0.0.1 (PORT=5000)
	@ipt mlflow-pages --port $(PORT)
	@case "$$MLFLOW_TRACKING_URI" in http*) ;; *) MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
		mlflow server --host 127.0.0.1 --port $(PORT) --workers 1 \
		--backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlflow.db}" ;; esac

clean:  ## delete scratch files (checkpoints, half-finished work); results stay
	rm -rf .ipt
