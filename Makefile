# make quickstart  from nothing to a chat in a private Incus that is gone afterwards (needs root)
# make images    build the default images (IMAGES="debian llama-server" chooses)
# make test      everything: lint, types, unit tests, sealed builds, boots in a private Incus (needs root)
# make check     lint, types and unit tests: in a minute or two, for while you write
# make test-full the same with both versions of Incus for every test, and every moment of a kill
# make test-gpu  the GPU road on a card of this host (needs root, a card and its driver); skipped loudly without
# make bench     figures, three runs each, to standard output
# make unit      the tests that need neither root nor a network
# make docs      the documentation as a site in dist/site; fails on a link that leads nowhere
# make release   the wheel and the sdist of this version in dist/, checked: CONTRIBUTING.md says what comes before and after
#
# Each makes the Python environment it needs in .venv first; nothing else on the host is touched.

PYTHON ?= python3
IMAGES ?=
ARGS ?=
READY := .venv/.ready
DOCS_READY := .venv-docs/.ready

# Where it is set, each of the many commands that tests start would compile the project's modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart images test test-full test-gpu check unit lint bench reference docs release requirements clean
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

release: $(READY)
	@.venv/bin/python -m tests.release

# Every page, from nothing, so that each link is looked at; no page may load anything from elsewhere.
docs: $(DOCS_READY)
	@rm -rf dist/site
	@.venv-docs/bin/sphinx-build -W --keep-going -q -d .venv-docs/doctrees -E -c docs . dist/site
	@! grep -rlE '<(script|link|img|iframe)[^>]* (src|href)="([a-z]+:)?//|@import|url\("?([a-z]+:)?//' \
		--include=*.html --include=*.css dist/site
	@echo "dist/site/index.html" >&2

$(DOCS_READY): docs/requirements.txt anklume_images/bootstrap.py
	@echo "setting up .venv-docs" >&2
	@$(PYTHON) anklume_images/bootstrap.py .venv-docs docs/requirements.txt --without-project
	@touch $@

# After changing dependencies in pyproject.toml: lock them again, for every platform, without naming an index; newer
# versions of all: ARGS=--upgrade.
COMPILE = .venv/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-config --no-header \
	--no-annotate --quiet $(ARGS)
requirements: $(READY)
	@$(COMPILE) pyproject.toml --extra dev --output-file tests/requirements.txt
	@$(COMPILE) --group pyproject.toml:docs --output-file docs/requirements.txt

clean:
	rm -rf .venv .venv-docs dist .mypy_cache .ruff_cache .pytest_cache
