"""The main job on embedded data: four methods side by side, a table and a report."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from synthgrad.lab.errors import check_path
from synthgrad.lab.experiments.image_recipes import RECIPES
from synthgrad.lab.experiments.images import Method
from synthgrad.lab.report import write_report
from synthgrad.lab.runs.run import run

METHODS: dict[Method, str] = {
    "backprop": "backprop",
    "none": "no feedback",
    "dni": "DNI",
    "cdni": "cDNI",
}


def run_demo(out: Path | None, seed: int) -> Path:
    """Trains a 4-layer network on scikit-learn's digits by each method.

    Returns:
        The report's path, which is also printed.
    """
    recipe = RECIPES["digits-fcn"]
    configs = {method: recipe.defaults.changed(method=method, seed=seed) for method in METHODS}
    out = out or Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S")
    check_path("--out", out)
    console = Console()
    console.print(
        "A 4-layer network on 1,437 handwritten digits, tested on 360 others. "
        "Only backprop waits for the layers above; the others update each layer with an error "
        "made on the spot."
    )
    table = Table("method", box=None)
    for heading in ("test error", "seconds", "updates"):
        table.add_column(heading, justify="right")
    folders = []
    for method, label in METHODS.items():
        folder = out / method
        summary = run(recipe, configs[method], folder, label=label)
        folders.append(folder)
        table.add_row(
            label,
            f"{summary['metrics']['test_error']:.2f}%",
            f"{summary['seconds']:.1f}",
            str(summary["iterations"]),
        )
    console.print(table)
    page = write_report(folders, out / "report.html", title="synthgrad demo")
    console.print(f"Report: {page.resolve()}", soft_wrap=True)
    return page
