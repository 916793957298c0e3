# Everything runs in .venv, made on first use; only Python 3.11 or later has to be there.
PYTHON ?= python3
BIN := .venv/bin
# Two cores: one worker per core, one thread per worker.
WORKERS ?= 2

.PHONY: demo test lint types unit portable format clean

demo: .venv/ready
	$(BIN)/synthgrad demo

test: lint types unit

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/ready
	$(BIN)/pyright

unit: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal

# The fast part again, under the least that any x86-64 processor has: whatever machine this runs on,
# PyTorch and oneDNN take other kernels than in `make unit` (AVX2 would be the same on many).
portable: .venv/ready
	OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(BIN)/pytest -n $(WORKERS) --dist worksteal \
		tests/laws tests/feedback tests/schedule tests/recurrent tests/multirate tests/lab/sequences

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# pip older than 25.1 does not know dependency groups, so pip itself is brought up to date first.
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[lab]" --group dev
	touch $@

clean:
	rm -rf .venv
