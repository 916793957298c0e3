"""A deep residual network, each block updated before the next one runs."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

import synthgrad as sg


class Block(nn.Module):
    """x + f(x). The cut goes behind the sum, where all paths meet."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.f = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns a message as wide as ``x``."""
        return x + self.f(x)


def main(steps: int = 1500, depth: int = 8) -> float:
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x, y = torch.as_tensor(images).float() / 16, torch.as_tensor(labels)
    train, test = slice(0, 1400), slice(1400, None)

    model = nn.Sequential(*(Block(64) for _ in range(depth)), nn.Linear(64, 10))
    sg.decouple(model, [str(i) for i in range(depth)], "linear", context=10)
    unlocked = sg.Unlocked(model, partial(torch.optim.Adam, lr=1e-3))
    for step in range(steps):
        rows = torch.randint(1400, (128,))
        xb, yb = x[train][rows], y[train][rows]
        loss = unlocked.step(xb, lambda output, yb=yb: F.cross_entropy(output, yb), context=yb)
        if step % 500 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    plain = sg.recouple(model).eval()
    error = 100 * (plain(x[test]).argmax(1) != y[test]).float().mean().item()
    print(f"test error {error:.1f}% with {depth} blocks, none of which saw a true gradient")
    return error


if __name__ == "__main__":
    main()
