# Everything is installed into .venv: once, and again only when a lock changes.

PYTHON ?= python3
ARGS ?=
# `make wheel`, `make release`: where the files of this version can be seen, for the README on an index page, whose
# pictures and links are left out without it. For instance https://example.org/owner/dataecho/blob/v1.0.0
ADDRESS ?=
PORT ?= 5000
OPTUNA_PORT ?= 8080
# What `make train` installs besides what it always does, from locks: any of LOCKED_EXTRAS.
EXTRAS ?=
LOCKED_EXTRAS := tensorflow jax ray s3 gcs
# What `make optuna-dashboard` shows: a sweep's folder, its journal file or a database's URL; by default the last sweep.
STORAGE ?= $(shell ls -t runs/*/*/journal.log 2> /dev/null | head -n 1)
WORKERS ?= 2
# Where torch alone comes from, for instance an index of wheels for one accelerator. Empty: pip's ordinary index.
TORCH_INDEX ?=
# `make lock LOCK_ARGS=--upgrade` moves to the newest allowed versions; without it, what is locked stays.
LOCK_ARGS ?=

BIN := .venv/bin
PIP := "$(BIN)/python" -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help train quick test test-all lint docs dashboard optuna-dashboard lock upgrade matrix wheel release clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile
	@echo '  Variables, explained at the top of the Makefile: ADDRESS ARGS EXTRAS LOCK_ARGS OPTUNA_PORT PORT PYTHON STORAGE TORCH_INDEX WORKERS'

ifneq ($(filter-out $(LOCKED_EXTRAS) torch mlflow search study tasks train remote parquet,$(EXTRAS)),)
$(error EXTRAS=$(EXTRAS) cannot be used. Allowed: $(LOCKED_EXTRAS). For example: make train EXTRAS="tensorflow ray")
endif

train: .venv/.stamp-train $(patsubst %,.venv/.stamp-extra-%,$(filter $(LOCKED_EXTRAS),$(EXTRAS)))  ## train; by default seconds on a laptop, offline. ARGS="echo=batch factor=4" says what
	@"$(BIN)/python" train.py $(ARGS)

test: lint  ## lint, then every test: what CI runs
	@OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -n $(WORKERS) --dist worksteal

# testmon keeps in .testmondata which test executes which function. The slowest tests, and those that only start other
# programs, whose code it cannot see, are left to `make test`.
QUICK := tests/conf tests/diagnose tests/pictures tests/pipeline tests/plan tests/report tests/sources tests/tracking \
	tests/training tests/test_masking.py

quick: lint  ## lint, types, and the tests of what changed since the last time, for at most 40 seconds
	@OMP_NUM_THREADS=1 "$(BIN)/python" -m pytest -q --testmon -n $(WORKERS) --session-timeout 40 $(QUICK) || case $$? in \
		5) ;; \
		2) echo 'More tests are affected than fit into 40 s. Go on with: make quick. Or run them all: make test' >&2; exit 2;; \
		*) exit 1;; esac

test-all: test  ## all of that, then what is long by nature: hours, by hand
	@"$(BIN)/python" -m tests.pipeline.engine.explorer --schedules 100000
	@"$(BIN)/python" -m tests.pipeline.engine.explorer --faults
	@"$(BIN)/python" -m tests.pipeline.engine.fault_matrix

lint: .venv/.stamp-test  ## check style, the types of the core, and which layer imports which
	@"$(BIN)/ruff" check
	@"$(BIN)/ruff" format --check
	@"$(BIN)/mypy"
	@"$(BIN)/lint-imports" --no-logo

docs: .venv/.stamp-test  ## build the documentation into build/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 "$(BIN)/python" -m mkdocs build
	@echo 'Open build/site/index.html. To search it: python3 -m http.server --bind 127.0.0.1 --directory build/site'

dashboard: .venv/.stamp-train  ## show the tracked runs in MLflow's page, on PORT (5000)
	@exec "$(BIN)/python" -m dataecho.tracking.dashboard --project '$(CURDIR)' --port $(PORT)

optuna-dashboard: .venv/.stamp-train  ## show a sweep's studies in Optuna's page, on OPTUNA_PORT (8080). STORAGE=<sweep folder>
	@storage='$(STORAGE)'; test -n "$$storage" || { echo 'No sweep was found in runs/. Allowed: a sweep folder, its' \
		'journal.log, or the URL of a database. For instance: make optuna-dashboard STORAGE=runs/my-sweep' >&2; exit 1; }; \
	test ! -d "$$storage" || storage="$$storage/journal.log"; \
	case "$$storage" in *://*) ;; *) test -f "$$storage" || { echo "STORAGE=$$storage is no file." >&2; exit 1; };; esac; \
	echo 'The studies: http://127.0.0.1:$(OPTUNA_PORT), ready in a few seconds. Ctrl-C ends it.'; \
	exec "$(BIN)/optuna-dashboard" --host 127.0.0.1 --port $(OPTUNA_PORT) "$$storage"

# ---- a release

wheel: .venv/.stamp-test  ## build the wheel and the source archive into dist, and check them
	@rm -rf dist
	@DATAECHO_ADDRESS='$(ADDRESS)' $(BIN)/python -m hatchling build --directory dist
	@'$(PYTHON)' -m venv build/release
	@build/release/bin/python -m pip --disable-pip-version-check --quiet install twine==7.0.0
	@build/release/bin/python -m twine check --strict dist/*

# Everything is checked before the tag, which is the last step. Nothing is published.
release:  ## build, check and test the version of this commit, then tag it; publishes nothing
	@version=$$($(BIN)/python -m dataecho --version | cut -d ' ' -f 2); \
	test -z "$$(git status --porcelain)" || { echo 'Files were changed. Commit them first.' >&2; exit 1; }; \
	! git rev-parse --quiet --verify "refs/tags/v$$version" > /dev/null || \
		{ echo "The tag v$$version is there. Set the next version in platform/dataecho/__init__.py." >&2; exit 1; }; \
	grep -q "^## \[$$version\]" CHANGELOG.md || \
		{ echo "CHANGELOG.md has no section [$$version]. Move the lines under Unreleased there." >&2; exit 1; }; \
	$(MAKE) --no-print-directory wheel && \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/end_to_end/test_wheel.py tests/test_public_names.py && \
	git tag --annotate "v$$version" --message "dataecho $$version" && \
	echo "Tagged v$$version. The files are in dist."

# ---- the environment

# The syntax is kept old, so that an old Python prints this message and not a SyntaxError.
define CHECK_PYTHON
import sys
found = "%d.%d" % sys.version_info[:2]
if found not in ("3.10", "3.11", "3.12", "3.13"):
    sys.exit("PYTHON=$(PYTHON) is Python " + found + ". Allowed: 3.10 to 3.13, which the locks are made for. "
             "Install one and say where it is, for example: make train PYTHON=python3.11")
endef
export CHECK_PYTHON
CHECK := { command -v '$(PYTHON)' > /dev/null || { echo 'PYTHON=$(PYTHON) was not found. Allowed: a Python 3.10 to 3.13.' \
	'Say where it is, for example: make train PYTHON=/usr/bin/python3.11' >&2; exit 1; }; } && '$(PYTHON)' -c "$$CHECK_PYTHON"

.venv/.stamp-venv:
	@$(CHECK)
	@echo 'Making .venv ...'
	@'$(PYTHON)' -m venv .venv
	@touch $@

# Torch first and alone: its wheel differs by accelerator, so it has no hash, and only this step may ask another index.
# The lock then sets everything else, torch's own dependencies too. `pip check` proves that the three steps agree.
.venv/.stamp-train: requirements-torch.lock requirements.lock pyproject.toml | .venv/.stamp-venv
	@echo 'Installing, about 3 minutes. 1 of 3: torch, the largest ...'
	@$(PIP) install $(if $(TORCH_INDEX),--index-url '$(TORCH_INDEX)') -r requirements-torch.lock
	@echo '2 of 3: the other packages, at their locked versions ...'
	@$(PIP) install -r requirements.lock
	@echo '3 of 3: dataecho itself, editable ...'
	@$(PIP) install --no-deps --editable .
	@$(PIP) check
	@touch $@

# The other extras are in requirements.lock.
.venv/.stamp-extra-%: requirements-%.lock .venv/.stamp-train
	@echo 'Installing the extra $* ...'
	@$(PIP) install -r requirements-$*.lock
	@$(PIP) check
	@touch $@

.venv/.stamp-test: requirements-test.lock .venv/.stamp-train
	@echo 'Installing the test tools ...'
	@$(PIP) install -r requirements-test.lock
	@touch $@

# ---- the locks

COMPILE := build/lock/bin/uv pip compile --quiet --python-version 3.10 --no-annotate \
	--custom-compile-command 'make lock' $(LOCK_ARGS)
LOCK := $(COMPILE) --universal --generate-hashes

# Prints the requirements of extras, one a line, so that pyproject.toml stays the only place that states them.
REQUIREMENTS := build/lock/bin/python -c "import sys; from pip._vendor import tomli; \
	extras = tomli.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']; \
	print(*(line for name in sys.argv[1:] for line in extras[name] if not line.startswith('dataecho[')), sep='\n')"

lock:  ## write the lock files from pyproject.toml
	@$(CHECK)
	@echo 'Locking ...'
	@'$(PYTHON)' -m venv build/lock
	@build/lock/bin/python -m pip --disable-pip-version-check --quiet install uv==0.13.9
	@$(REQUIREMENTS) torch | $(COMPILE) - --no-deps --output-file requirements-torch.lock
	@$(LOCK) pyproject.toml --extra torch --extra mlflow --extra search --extra study --extra tasks --no-emit-package torch \
		--constraints requirements-torch.lock --output-file requirements.lock
	@$(REQUIREMENTS) test docs tensorflow jax ray | $(LOCK) - --constraints requirements.lock --output-file requirements-test.lock
	@for extra in $(LOCKED_EXTRAS); do $(REQUIREMENTS) $$extra | $(LOCK) - --constraints requirements.lock \
		--constraints requirements-test.lock --output-file requirements-$$extra.lock || exit 1; done

upgrade:  ## move the locks to the newest allowed versions, install them, and run every test
	@$(MAKE) lock LOCK_ARGS=--upgrade
	@$(MAKE) test

matrix: .venv/.stamp-train  ## the core and each framework under every Python that pyenv has; writes the page pythons.md
	@"$(BIN)/python" -m benchmarks.pythons

clean:  ## remove .venv and the caches; the runs and their database stay
	rm -rf .venv build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
