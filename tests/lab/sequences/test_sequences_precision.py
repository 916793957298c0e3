"""bfloat16 on processors whose LSTM knows no bfloat16: the LSTM falls back to float32."""

import os
import subprocess
import sys

import pytest
import torch

from synthgrad.errors import SynthgradWarning
from synthgrad.lab.experiments import lstm as network
from synthgrad.lab.experiments.lstm import Core, Network, has_bfloat16_lstm


def _outputs(core, **how):
    x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1))
    state = torch.full((1, 2, 5), 0.3, dtype=torch.bfloat16)  # as an unroll before has left it
    with torch.autocast("cpu", torch.bfloat16, **how):
        return core(x, (state, state) if how.get("enabled", True) else (state.float(),) * 2)


def test_without_it_the_core_is_that_of_float32(monkeypatch):
    core = Core(4, 5)
    expected, (h, c) = _outputs(core, enabled=False)
    monkeypatch.setattr(network, "has_bfloat16_lstm", lambda kind: False)
    outputs, state = _outputs(core)
    assert outputs.dtype == torch.float32
    assert torch.equal(outputs, expected)
    assert torch.equal(state[0], h)
    assert torch.equal(state[1], c)


def test_the_rest_of_the_network_stays_in_bfloat16(monkeypatch):
    monkeypatch.setattr(network, "has_bfloat16_lstm", lambda kind: False)
    whole = Network(4, 5, 3, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        logits, _ = whole(torch.randn(3, 2, 4), whole.zero_state(2))
    assert logits.dtype == torch.bfloat16


def test_it_is_tried_once_and_said_once(monkeypatch):
    tries = []

    def fails(*_):
        tries.append(1)
        raise RuntimeError("no such primitive")

    monkeypatch.setattr(torch.nn.LSTM, "forward", fails)
    before = torch.get_rng_state()
    has_bfloat16_lstm.cache_clear()
    try:
        with pytest.warns(SynthgradWarning, match="the LSTM computes in float32"):
            assert not has_bfloat16_lstm("cpu")
        assert not has_bfloat16_lstm("cpu")  # a second warning would be an error here
    finally:
        has_bfloat16_lstm.cache_clear()
    assert len(tries) == 1
    assert torch.equal(torch.get_rng_state(), before)


def test_a_run_in_bfloat16_under_an_older_instruction_set(tmp_path):
    sizes = ["--units", "4", "--batch-size", "2", "--iterations", "2", "--device", "cpu"]
    options = ["--method", "dni-aux", "--precision", "bfloat16", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "synthgrad.lab.cli", "run", "copy", *sizes, *options],
        env=os.environ | {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("warning: --precision bfloat16") <= 1
