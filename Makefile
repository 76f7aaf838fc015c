PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c tests/constraints.txt
DEMO := $(BIN)/python -m launcher --gpus 2 --strategy ddp --model lenet

.PHONY: demo test lint bench clean horovod

demo: $(VENV)/demo.stamp
	@echo "$(DEMO)"
	@$(DEMO)

test: $(VENV)/test.stamp horovod
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest

lint: $(VENV)/test.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/mypy

bench: $(VENV)/demo.stamp horovod $(VENV)/ray-train
	$(BIN)/python -m tests.benchmarks.start
	$(BIN)/python -m tests.benchmarks.cluster
	$(BIN)/python -m tests.benchmarks.throughput
	$(BIN)/python -m tests.benchmarks.exchange

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Built once for a PyTorch and kept in the user's cache; later this takes seconds.
horovod: $(VENV)/test.stamp
	$(BIN)/python -m launcher setup horovod

# What Ray Train imports; apart, since Keras imports pandas where it finds it, which takes time.
$(VENV)/ray-train: | $(VENV)/demo.stamp
	$(PIP) --no-deps --target $@ pandas pyarrow python-dateutil tensorboardX

$(VENV)/demo.stamp: pyproject.toml tests/constraints.txt | $(BIN)/python
	@echo "installing PyTorch, TensorFlow, Ray and the launcher into $(VENV) (a few minutes)"
	$(PIP) -e '.[ddp,mirrored,horovod]'
	@touch $@

$(VENV)/test.stamp: pyproject.toml tests/constraints.txt | $(BIN)/python
	$(PIP) -e '.[test]'
	@touch $@ $(VENV)/demo.stamp
