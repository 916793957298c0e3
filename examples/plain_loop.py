"""A user's own network and loop: interfaces by hand, a warm-up, and a look at the errors."""

import torch
from torch import nn
from torch.nn import functional as F

import synthgrad as sg


class Classifier(nn.Module):
    """Two blocks with an interface between them, placed where the network says so."""

    def __init__(self) -> None:
        super().__init__()
        self.lower = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 32), nn.Tanh())
        # Real errors for 200 steps, synthetic ones from then on.
        self.cut = sg.Interface(
            sg.feedback.Linear(32, context=4), lambda_=lambda step: float(step < 200)
        )
        self.upper = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns logits."""
        return self.upper(self.cut(self.lower(x)))


def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Points, labelled by the signs of two products of coordinates."""
    x = torch.randn(size, 20)
    return x, (x[:, 0] * x[:, 1] > 0).long() + 2 * (x[:, 2] * x[:, 3] > 0).long()


def main(steps: int = 2000) -> float:
    torch.manual_seed(0)
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(steps):
        x, y = batch(256)
        with sg.context(y):
            loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 500 == 0:
            distance = sg.probe(model, lambda o, y=y: F.cross_entropy(o, y), x, y)["cut"]
            print(f"step {step}: loss {loss.item():.3f}, cosine {distance.cosine:+.2f}")
    x, y = batch(4000)
    error = 100 * (model.eval()(x).argmax(1) != y).float().mean().item()
    print(f"test error {error:.1f}%")
    return error


if __name__ == "__main__":
    main()
