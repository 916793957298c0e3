"""Two halves of a network in two processes; neither waits for the other's backward pass."""

import sys

import torch
from torch import nn
from torch.nn import functional as F

import synthgrad as sg
from synthgrad.distributed import cut, train


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points, labelled by the signs of two products of coordinates; the same for a step."""
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(256, 20, generator=generator)
    return x, (x[:, 0] * x[:, 1] > 0).long() + 2 * (x[:, 2] * x[:, 3] > 0).long()


def unseen() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [batch(10**6 + i) for i in range(16)]


def errors(output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return 100.0 * (output.argmax(1) != y)


def feedback(message: torch.Tensor) -> sg.feedback.Feedback:
    return sg.feedback.MLP(message.shape[1], hidden=(128,), context=4)


def adam(parameters) -> torch.optim.Optimizer:  # noqa: ANN001
    return torch.optim.Adam(parameters, lr=2e-3)


def main(steps: int = 3000) -> float:
    torch.manual_seed(0)
    model = nn.Sequential(
        *[nn.Linear(20, 128), nn.ReLU(), nn.Linear(128, 64), nn.Tanh()],
        *[nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)],
    )
    trained = train(
        cut(model, [4, 3]),
        feedback,
        batches=batch,
        loss_fn=F.cross_entropy,
        optimizer=adam,
        steps=steps,
        evaluation=unseen,
        metric=errors,
    )
    for stage in trained.status:
        print(f"stage {stage['stage']}: {stage['updates']} updates, {stage['targets']} targets")
    print(f"test error {trained.result['metric']:.1f}%")
    return trained.result["metric"]


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
