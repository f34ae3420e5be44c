# make demo   set-up, image, and the main job on 899 real images
# make test   set-up and all tests (as root: as an unprivileged user)
# make jupyter  the image with Jupyter in it, for mh-hpc sandbox
# make check  style and types
# make cluster, cluster-stop   a real SLURM with three nodes on this machine, as you
# make engine-matrix, engine-images   the engine's tests under every Python here, and inside legacy images
#
# Everything that these make lies in build/, except what hpc/install.sh names before it installs it.

SHELL := /bin/bash
BUILD ?= build
PYTHON ?= $(shell hpc/find_python.sh)
VENV := $(BUILD)/venv
BIN := $(VENV)/bin
IMAGE := modelhub-hpc/onnxruntime:1
TESTS ?= tests
export MH_HPC_CACHE_DIR := $(abspath $(BUILD)/cache)
export MH_TEST_CACHE := $(MH_HPC_CACHE_DIR)
export PYTHONDONTWRITEBYTECODE := 1

# Images as published in 2018: 2.7 can be made anywhere, 3.6 where this machine has that Python
LEGACY := $(BUILD)/legacy-2.7.tar
# What only tests need: a container registry, and a SLURM
TEST_TOOLS := $(BUILD)/tools
TEST_CLUSTER := PATH="$(abspath $(TEST_TOOLS))/slurm/usr/bin:$(abspath $(TEST_TOOLS))/slurm/usr/sbin:$$PATH" \
  $(or $(PYTHON),python3) slurm/testcluster/testcluster.py

.PHONY: demo test browser dicom check image jupyter tools engine-matrix engine-images bench cluster cluster-stop clean

demo: tools $(VENV)/.ready
	hpc/demo.sh $(BUILD) $(IMAGE)

ifeq ($(shell id -u),0)
test: browser dicom
test engine-images: tools
	tests/as_user.sh make $@

browser:
	command -v chromium > /dev/null || { echo "Installing Chromium, for the tests in a browser."; \
	  apt-get install --yes --quiet --quiet --no-install-recommends chromium fonts-dejavu-core > /dev/null; } || \
	  echo "Without Chromium: its tests are skipped."

dicom:
	command -v dciodvfy > /dev/null || { echo "Installing dicom3tools, for the tests of DICOM files."; \
	  apt-get install --yes --quiet --quiet --no-install-recommends dicom3tools > /dev/null; } || \
	  echo "Without dciodvfy: its test is skipped."
else
test: $(VENV)/.tests $(TEST_TOOLS)
	if command -v apptainer > /dev/null; then $(MAKE) image; \
	  $(MAKE) $(LEGACY) || echo "Without an image of 2018: its tests are skipped."; \
	  $(MAKE) jupyter || echo "Without Jupyter: its tests are skipped."; \
	else echo "Without Apptainer: its tests are skipped."; fi
	tests/run.sh $(BIN)/python $(TESTS)

engine-images: $(VENV)/.tests $(LEGACY)
	set -e; images=; for archive in $(BUILD)/legacy-*.tar $${MH_TEST_LEGACY:+"$$MH_TEST_LEGACY"/legacy-*.tar}; do \
	  if [ -e "$$archive" ]; then \
	    name=test/$$(basename "$$archive" .tar):1; images="$$images $$name"; \
	    $(BIN)/mh-hpc convert --strict "docker-archive:$$archive" --name "$$name"; fi; done; \
	$(BIN)/python tests/engine/inside_image.py --work $(BUILD)/inside $$images
endif

check: $(VENV)/.tests
	$(BIN)/python -m flake8 modelhub_hpc engine tests registry recipes slurm benchmarks
	$(BIN)/python -m mypy
	$(BIN)/python -m mypy slurm/testcluster/testcluster.py

cluster: $(TEST_TOOLS)
	@$(TEST_CLUSTER) start --folder $(BUILD)/cluster

cluster-stop:
	@$(TEST_CLUSTER) stop --folder $(BUILD)/cluster

# The engine's own tests under every Python from 2.7 on that can be had here
engine-matrix: $(VENV)/.tests
	$(BIN)/python tests/engine/matrix.py --work $(BUILD)/interpreters

bench: $(VENV)/.tests $(TEST_TOOLS) image
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/rivals.py
	$(BIN)/python benchmarks/single.py
	$(BIN)/python benchmarks/efficiency.py
	$(BIN)/python benchmarks/gpu.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/cluster.py
	$(BIN)/python benchmarks/soak.py --cases 1000
	$(BIN)/python benchmarks/conversion.py $(BUILD)/onnxruntime.tar
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/service.py --model resnet50
	$(BIN)/python benchmarks/export.py --volumes 4

image: $(BUILD)/image.ready

# The same with Jupyter, as the published images hold it
jupyter: $(BUILD)/jupyter.ready

$(BUILD)/onnxruntime.tar: $(wildcard recipes/onnxruntime/*) recipes/archive.sh | $(VENV)/.ready
	recipes/onnxruntime/build_image.sh $@

$(BUILD)/onnxruntime-jupyter.tar: $(wildcard recipes/onnxruntime/*) recipes/archive.sh | $(VENV)/.ready
	recipes/onnxruntime/build_image.sh --with jupyter $@

$(BUILD)/legacy-%.tar: $(shell find recipes/legacy -type f) recipes/archive.sh | $(VENV)/.ready
	recipes/legacy/build_image.sh --python $* $@

$(TEST_TOOLS): tests/tools.sh
	tests/tools.sh $@
	mkdir -p $@ && touch $@

$(BUILD)/image.ready: $(BUILD)/onnxruntime.tar | $(VENV)/.ready
	$(BIN)/mh-hpc convert docker-archive:$(abspath $<) --name $(IMAGE)
	touch $@

$(BUILD)/jupyter.ready: $(BUILD)/onnxruntime-jupyter.tar | $(VENV)/.ready
	$(BIN)/mh-hpc convert docker-archive:$(abspath $<) --name modelhub-hpc/onnxruntime-jupyter:1
	touch $@

# As root only: Apptainer and Python's venv, where they are missing
tools:
	if [ "$$(id -u)" = 0 ]; then hpc/install.sh --yes && hpc/find_python.sh --install > /dev/null; fi

$(VENV)/.ready: setup.cfg pyproject.toml | tools
	test -n "$(PYTHON)" || { hpc/find_python.sh --explain; exit 5; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/.tests: $(VENV)/.ready
	$(BIN)/python -m pip install --quiet --editable '.[demo,host,test]'
	touch $@

clean:
	rm -rf $(BUILD)
