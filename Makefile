# make quickstart  from nothing to a chat in a private Incus that is gone afterwards (needs root)
# make images    build the default images (IMAGES="debian llama-server" chooses)
# make test      everything: lint, types, unit tests, sealed builds, boots in a private Incus (needs root)
# make check     lint, types and unit tests: in a minute or two, for while you write
# make test-full the same with both versions of Incus for every test, and every moment of a kill
# make test-gpu  the GPU road on a card of this host (needs root, a card and its driver); skipped loudly without
# make bench     figures, three runs each, to standard output
# make unit      the tests that need neither root nor a network
#
# Each makes the Python environment it needs in .venv first; nothing else on the host is touched.

PYTHON ?= python3
IMAGES ?=
ARGS ?=
READY := .venv/.ready

# Where it is set, each of the many commands that tests start would compile the project's modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart images test test-full test-gpu check unit lint bench reference requirements clean
.DELETE_ON_ERROR:

quickstart: $(READY)
	@.venv/bin/python -m launcher.quickstart $(ARGS)

images: $(READY)
	@.venv/bin/anklume-images build --refresh-missing $(IMAGES) $(ARGS)

test: $(READY) lint
	@.venv/bin/pytest $(ARGS)

check: lint unit

test-full: $(READY) lint
	@.venv/bin/pytest --full $(ARGS)

test-gpu: $(READY)
	@.venv/bin/python -m tests.hardware $(ARGS)

unit: $(READY)
	@.venv/bin/pytest tests/unit $(ARGS)

lint: $(READY)
	@.venv/bin/ruff check --quiet .
	@.venv/bin/ruff format --quiet --check .
	@.venv/bin/mypy --no-error-summary

bench: $(READY)
	@.venv/bin/python -m tests.bench $(ARGS)

$(READY): tests/requirements.txt pyproject.toml anklume_images/bootstrap.py
	@echo "setting up .venv" >&2
	@$(PYTHON) anklume_images/bootstrap.py .venv tests/requirements.txt
	@touch $@

# The tables of docs/reference that come from the declarations of keys.
reference: $(READY)
	@.venv/bin/python -m tests.support.reference

# After changing dependencies in pyproject.toml: lock them again, for every platform, without naming an index; newer
# versions of all: ARGS=--upgrade.
requirements: $(READY)
	@.venv/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes \
		--no-config --no-header --no-annotate --quiet $(ARGS) --output-file tests/requirements.txt

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
