"""The paper's tables and figures as grids of runs, each cell a recipe with settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from synthgrad.lab.experiments import ALL

MAX_EVALUATIONS = 100


@dataclass(frozen=True)
class Cell:
    """One entry of a table, whatever the seed.

    Attributes:
        name: what tells it from the others of its table; fit for a folder's name.
        recipe: the recipe's name.
        settings: what differs from the recipe's defaults.
    """

    name: str
    recipe: str
    settings: Mapping[str, Any]

    def config(self, budget: float | None, **values: Any) -> Any:
        """The cell's configuration, with nothing left open.

        Args:
            budget: a share of the paper's iterations, above 0; at least one iteration comes of it.
                None for as many as suit the cell.
            values: settings that no cell decides, such as the seed and the schedule.

        Raises:
            UsageError: a value is outside its range.
        """
        recipe = ALL[self.recipe]
        settings = {**self.settings, **values}
        if budget is not None:
            settings["iterations"] = max(1, round(recipe.paper["iterations"] * budget))
        # Settled, because that is what a run folder is compared with.
        config = recipe.settle(recipe.defaults.changed(**settings))
        if recipe.stops_early:
            return config
        often = max(config.eval_every, config.iterations // MAX_EVALUATIONS)
        return config.changed(eval_every=often)


@dataclass(frozen=True)
class PaperTable:
    """A table or a figure of the paper.

    Attributes:
        name: as on the command line.
        about: what it shows.
        cells: all runs it needs, but for their seeds.
    """

    name: str
    about: str
    cells: tuple[Cell, ...]


def _depths(recipe: str, layers: range, methods: tuple[str, ...]) -> tuple[Cell, ...]:
    """An interface behind every hidden layer, by depth and method."""
    return tuple(
        Cell(f"{depth}-{method}", recipe, {"layers": depth, "method": method})
        for depth in layers
        for method in methods
    )


def _six(name: str, method: str, interfaces: str = "all") -> Cell:
    """The network of figures 11 and 12."""
    settings = {"layers": 6, "method": method, "interfaces": interfaces}
    return Cell(name, "mnist-fcn", settings)


_HIDDEN = range(1, 6)
"""The hidden layers of a network of six."""


def _single(method: str) -> tuple[Cell, ...]:
    """One interface, behind each hidden layer in turn."""
    return tuple(_six(f"{method}-at-{place}", method, str(place)) for place in _HIDDEN)


def _up_to(last: int) -> Cell:
    """An interface behind each hidden layer up to one."""
    interfaces = ",".join(str(place) for place in range(1, last + 1))
    return _six(f"dni-up-to-{last}", "dni", interfaces)


def _unrolls(recipe: str, unrolls: Mapping[str, tuple[int, ...]]) -> tuple[Cell, ...]:
    """By method and unroll."""
    return tuple(
        Cell(f"T{unroll}-{method}", recipe, {"unroll": unroll, "method": method})
        for method, lengths in unrolls.items()
        for unroll in lengths
    )


def _copying(recipe: str) -> tuple[Cell, ...]:
    """What Table 1 and figure 17 have of one task."""
    return _unrolls(recipe, dict.fromkeys(("bptt", "dni", "dni-aux"), (2, 3, 4, 5)))


def _by_chance(unlock: str) -> tuple[Cell, ...]:
    """Figure 7's two methods at probabilities spread over [0, 1]."""
    return tuple(
        Cell(
            f"{method}-p{p:.3f}",
            "mnist-fcn",
            {"method": method, "p_update": p, "unlock": unlock},
        )
        for method in ("dni", "cdni")
        for p in ((2 * place + 1) / (2 * _PROBABILITIES) for place in range(_PROBABILITIES))
    )


_PROBABILITIES = 20

_TABLE_2_ALL = tuple(
    f"table2-{network}" for network in ("mnist-fcn", "mnist-cnn", "cifar10-fcn", "cifar10-cnn")
)
DRAWN_BY: Mapping[str, tuple[str, ...]] = {
    "table1": ("table1-copy", "table1-repeat-copy", "table1-ptb"),
    "table2": _TABLE_2_ALL,
    "fig4": ("table1-repeat-copy", "table1-ptb"),
    "fig7": ("fig7-update", "fig7-full"),
    "fig11": ("fig11a", "fig11b"),
    "fig13": _TABLE_2_ALL,
    "fig16": ("table1-ptb",),
}
"""What the paper shows and no table here is called after, by the tables that have its runs."""

_TABLE_2 = ("none", "backprop", "dni", "cdni")
_FCN, _CNN = range(3, 7), range(3, 5)
_BACKPROP = _six("backprop", "backprop")

TABLES = {
    table.name: table
    for table in (
        PaperTable(
            "table2-mnist-fcn",
            "Table 2, MNIST FCN: test error by depth and method",
            _depths("mnist-fcn", _FCN, _TABLE_2),
        ),
        PaperTable(
            "table2-mnist-cnn",
            "Table 2, MNIST CNN",
            _depths("mnist-cnn", _CNN, _TABLE_2),
        ),
        PaperTable(
            "table2-cifar10-fcn",
            "Table 2, CIFAR-10 FCN",
            _depths("cifar10-fcn", _FCN, _TABLE_2),
        ),
        PaperTable(
            "table2-cifar10-cnn",
            "Table 2, CIFAR-10 CNN",
            _depths("cifar10-cnn", _CNN, _TABLE_2),
        ),
        PaperTable(
            "table1-copy",
            "Table 1, Copy: longest sequence solved, by unroll and method",
            _copying("copy"),
        ),
        PaperTable(
            "table1-repeat-copy",
            "Table 1, Repeat Copy; figure 4, left",
            _copying("repeat-copy"),
        ),
        PaperTable(
            "table1-ptb",
            "Table 1, Penn Treebank: bits per character; figure 4, right; figure 16",
            _unrolls(
                "ptb",
                {
                    "bptt": (2, 3, 4, 5, 8, 20, 40),
                    "dni": (2, 3, 4, 5, 8),
                    "dni-aux": (2, 3, 4, 5, 8),
                },
            ),
        ),
        PaperTable(
            "fig17",
            "Figure 17: levels of Copy and Repeat Copy against samples seen",
            tuple(
                replace(cell, name=f"{recipe}-{cell.name}")
                for recipe in ("copy", "repeat-copy")
                for cell in _copying(recipe)
            ),
        ),
        PaperTable(
            "fig5",
            "Figure 5: two networks that tick at different rates, test errors against ticks",
            tuple(
                Cell(method, "multi-network", {"method": method})
                for method in ("backprop", "dni", "cdni", "none")
            ),
        ),
        PaperTable(
            "fig7-update",
            "Figure 7, left: layers updated by chance, by its probability",
            (*_by_chance("no"), Cell("backprop", "mnist-fcn", {"method": "backprop"})),
        ),
        PaperTable(
            "fig7-full",
            "Figure 7, right: layers that run by chance, on synthetic inputs",
            _by_chance("full"),
        ),
        PaperTable(
            "fig11a",
            "Figure 11a: one interface in a 6-layer MNIST FCN, or the gradient cut there",
            (*_single("dni"), *_single("none"), _BACKPROP),
        ),
        PaperTable(
            "fig11b",
            "Figure 11b: interfaces behind every layer up to a depth",
            (*map(_up_to, _HIDDEN), _BACKPROP),
        ),
        PaperTable(
            "fig12",
            "Figure 12: how far synthetic gradients are from true ones, one interface each",
            _single("dni"),
        ),
        PaperTable(
            "fig14",
            "Figure 14: linear synthetic gradients in MNIST FCNs",
            tuple(
                replace(cell, settings={**cell.settings, "feedback_hidden": ()})
                for cell in _depths("mnist-fcn", _FCN, ("dni", "cdni"))
            ),
        ),
        PaperTable(
            "fig15",
            "Figure 15: training error of CIFAR-10 CNNs",
            _depths("cifar10-cnn", _CNN, ("backprop", "dni", "cdni")),
        ),
        PaperTable(
            "stale",
            "Supplement C: an average of past gradients as feedback, by decay",
            tuple(
                Cell(
                    f"{depth}-decay-{decay}",
                    "mnist-fcn",
                    {"layers": depth, "method": "stale", "decay": decay},
                )
                for depth in _FCN
                for decay in (0.5, 0.9, 0.99, 0.999)
            ),
        ),
        PaperTable(
            "deep21",
            "Supplement C: an MNIST FCN of 21 layers",
            _depths("mnist-fcn", range(21, 22), ("cdni", "backprop")),
        ),
    )
}
