"""Options that only concern what tensors travel by."""

import pytest
import torch

from synthgrad.distributed import Options
from synthgrad.distributed.transport import _gloo_nccl
from synthgrad.distributed.transport._gloo_nccl import Nccl
from synthgrad.errors import ArgumentError


def test_a_transport_is_one_of_two():
    with pytest.raises(ArgumentError, match='transport must be "auto" or "gloo", got \'nccl\''):
        Options(transport="nccl")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("transport", "library"), [("auto", "nccl (2, 27, 3)"), ("gloo", "")])
def test_gloo_may_be_asked_for_where_there_are_gpus(monkeypatch, transport, library):
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(_gloo_nccl.nccl, "version", lambda: (2, 27, 3))
    monkeypatch.setattr(_gloo_nccl, "_place", lambda device: "here")
    endpoint = Nccl(torch.device("cuda:0"), Options(transport=transport)).endpoint
    assert (endpoint.kind, endpoint.library) == ("cuda", library)
