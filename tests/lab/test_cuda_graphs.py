"""What CUDA is asked for when a step is captured, in which order; CUDA itself is played."""

from contextlib import contextmanager

import pytest
import torch

from synthgrad.lab.experiments.captured import CudaGraphs, recorder_for

GPU = torch.device("cuda", 0)


@pytest.fixture
def asked(monkeypatch):
    asked: list[str] = []

    class Stream:
        def __init__(self, name):
            self.name = "side" if isinstance(name, torch.device) else name

        def wait_stream(self, other):
            asked.append(f"{self.name} waits for {other.name}")

    class Graph:
        def replay(self):
            asked.append("replay")

    @contextmanager
    def inside(what):
        asked.append(f"begin {what}")
        yield
        asked.append(f"end {what}")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: Stream("main"))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: inside(stream.name))
    monkeypatch.setattr(torch.cuda, "graph", lambda _, stream: inside(f"capture on {stream.name}"))
    return asked


def test_a_step_warms_up_on_the_stream_that_captures_it(asked):
    recorder = CudaGraphs(GPU)
    recorder.warm(lambda: asked.append("work"))
    assert asked == [
        *("side waits for main", "begin side", "work", "end side", "main waits for side")
    ]
    asked.clear()
    replay = recorder.record(lambda: asked.append("work"))
    assert asked == ["begin capture on side", "work", "end capture on side"]
    asked.clear()
    replay()
    replay()
    assert asked == ["replay", "replay"]


@pytest.mark.usefixtures("asked")
def test_only_a_gpu_is_asked_and_only_where_it_is_wanted():
    assert isinstance(recorder_for(GPU, "auto"), CudaGraphs)
    assert recorder_for(GPU, "no") is None
    assert recorder_for(torch.device("cpu"), "auto") is None
