# make demo: analyse a sample image.  make test: ruff, mypy, pytest.  PYTHON=python3.12 chooses the interpreter.

PYTHON ?= python3
SAMPLE ?= sample_images/wse2_sv_dv.tif
OUT ?= demo/$(notdir $(basename $(SAMPLE))).stemfit
WORKERS ?= 2

# One thread per process: two threads on two busy cores are slower than one (and -n $(WORKERS) uses the cores).
THREADS = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: help demo install browser test lint types check gallery wheel clean

help:
	@echo "make demo    create .venv, install, analyse $(SAMPLE)"
	@echo "make browser install Chromium from Debian's packages, in which tests look at report.html; skipped without it"
	@echo "make test    ruff, mypy and pytest"
	@echo "make gallery remake docs/gallery.md (some minutes)"
	@echo "make wheel   build the wheel into dist/"
	@echo "make clean   remove .venv and everything built"

demo: .venv/.installed
	@mkdir -p $(dir $(OUT))
	.venv/bin/stemfit analyze $(SAMPLE) --out $(OUT)

install: .venv/.installed

browser:
	@command -v chromium >/dev/null || { \
	    sudo=$$([ "$$(id -u)" = 0 ] || echo "sudo -n"); \
	    $$sudo apt-get update -qq && \
	    $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	} || echo "Chromium could not be installed: the tests that look at report.html will be skipped"

test: lint types check

lint: .venv/.installed-dev
	.venv/bin/ruff check .

types: .venv/.installed-dev
	.venv/bin/mypy

check: .venv/.installed-dev
	$(THREADS) .venv/bin/pytest -q -n $(WORKERS)

gallery: .venv/.installed-dev
	$(THREADS) .venv/bin/python benchmarks/gallery.py

wheel: .venv/.installed
	rm -rf build dist
	.venv/bin/pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf .venv build dist demo *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/bin/python:
	$(PYTHON) -m venv .venv

# The stamps keep make from installing again until what is installed has changed.
.venv/.installed: pyproject.toml constraints.txt | .venv/bin/python
	.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | .venv/bin/python
	.venv/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@ .venv/.installed
