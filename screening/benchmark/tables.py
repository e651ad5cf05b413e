"""Results of a benchmark as tables: means, deviations over seeds, errors over materials."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from screening.benchmark.runs import RunResult

FIGURES = {
    "r2": "R2",
    "mae": "MAE",
    "mse": "MSE",
    "wd": "WD",
    "cv_mae": "C_V error (J/K/mol of atoms)",
    "mean_frequency_mae": "mean frequency error (cm^-1)",
}


@dataclass(frozen=True)
class Row:
    """Mean and sample standard deviation over seeds of the figures of one kind of run.

    Parameters
    ----------
    subclass : str
        Name of the subclass that was tested; empty for all materials.
    regime : str
        See :class:`screening.benchmark.variants.BenchmarkRun`.
    std : dict
        NaN for a single seed.
    standard_error : dict
        Over the test materials, of their errors averaged over the seeds: how far the mean would
        be from that of other test materials of the same kind. Of the figures that are means over
        materials, MAE and WD; NaN for a single material.
    seconds : float
        Of a training, on average.
    """

    name: str
    setting: str
    fraction: float
    subclass: str
    regime: str
    n_train: int
    n_test: int
    n_seeds: int
    mean: dict[str, float]
    std: dict[str, float]
    standard_error: dict[str, float]
    seconds: float

    @property
    def parts(self) -> dict[str, dict[str, float]]:
        """What is said of the figures, by its name in JSON and CSV."""
        return {"mean": self.mean, "std": self.std, "standard_error": self.standard_error}

    @property
    def what(self) -> dict[str, Any]:
        """What was trained and tested, for JSON and CSV."""
        subclass = {"subclass": self.subclass, "trained_on": self.regime} if self.subclass else {}
        return subclass | {
            "model": self.name,
            "setting": self.setting,
            "fraction": self.fraction,
            "n_train": self.n_train,
            "n_test": self.n_test,
            "seeds": self.n_seeds,
        }


def table(results: Iterable[RunResult]) -> list[Row]:
    """One row for each kind of run, in the order of their first result."""
    groups: dict[tuple[str, str, float, str, str], list[RunResult]] = {}
    for result in results:
        run = result.run
        subclass = run.subclass.name if run.subclass else ""
        key = (run.variant.name, run.setting, run.fraction, subclass, run.regime)
        groups.setdefault(key, []).append(result)
    return [_row(key, group) for key, group in groups.items()]


def _row(key: tuple[str, str, float, str, str], group: list[RunResult]) -> Row:
    values = {name: [r.figures[name] for r in group] for name in group[0].figures}
    return Row(
        *key,
        n_train=group[0].n_train,
        n_test=len(group[0].prediction),
        n_seeds=len(group),
        mean={name: float(np.mean(v)) for name, v in values.items()},
        std={name: deviation(v) for name, v in values.items()},
        standard_error={
            name: standard_error(np.mean([r.errors[name] for r in group], axis=0))
            for name in group[0].errors
        },
        seconds=float(np.mean([r.seconds for r in group])),
    )


def deviation(values: Sequence[float]) -> float:
    """Standard deviation of a sample; NaN for a single value."""
    if len(set(values)) == 1 < len(values):
        return 0.0  # without the rounding error of the mean
    return float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def standard_error(values: np.ndarray) -> float:
    """Standard error of the mean of a sample (n,); NaN for a single value."""
    return deviation(values.tolist()) / math.sqrt(len(values))


def to_markdown(rows: Sequence[Row], unit: str) -> str:
    """Table with ``mean ± std`` in every cell, and the standard errors in columns of their own.

    Parameters
    ----------
    rows : sequence of Row
        With the same figures.
    unit : str
        Of the energy axis, and so of WD.
    """
    by_subclass = any(row.subclass for row in rows)
    return markdown(
        [
            ({"materials": row.subclass, "trained on": row.regime} if by_subclass else {})
            | {"model": row.name, "setting": row.setting, "training set": row.n_train}
            | {"test set": row.n_test, "seeds": row.n_seeds}
            | figure_cells(document, unit)
            for row, document in zip(rows, to_document(rows), strict=True)
        ]
    )


def figure_cells(row: dict[str, Any], unit: str) -> dict[str, str]:
    """The figures of a row as text, each by the title of its column.

    Parameters
    ----------
    row : dict
        Of :func:`to_document`.
    unit : str
        Of the energy axis.
    """
    cells = {}
    for key, mean in row["mean"].items():
        title = figure_title(key, unit)
        cells[title] = mean_and_std(mean, row["std"][key])
        if key in row["standard_error"]:
            error = row["standard_error"][key]
            cells[f"SE of {title}"] = "-" if error is None else f"{error:.2g}"
    return cells


def figure_title(key: str, unit: str) -> str:
    """What a table calls a figure; `unit` is that of the energy axis.

    Parameters
    ----------
    key : str
        Of `FIGURES`.
    unit : str
        Of the energy axis.
    """
    return f"WD ({unit})" if key == "wd" else FIGURES.get(key, key)


def to_document(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Table for JSON; None where there is no number."""
    return [
        row.what
        | {part: {k: finite(v) for k, v in of_part.items()} for part, of_part in row.parts.items()}
        | {"seconds": round(row.seconds, 1)}
        for row in rows
    ]


def to_csv(rows: Sequence[Row], path: Path) -> None:
    """Table with columns for the mean, the deviation and the standard error of each figure.

    Parameters
    ----------
    rows : sequence of Row
        With the same figures.
    path : Path
        File to write.
    """
    write_csv(
        [
            row.what
            | {
                f"{key}_{part}": finite(of_part[key])
                for key in row.mean
                for part, of_part in row.parts.items()
                if key in of_part
            }
            | {"seconds": round(row.seconds, 1)}
            for row in rows
        ],
        path,
    )


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Rows with the same keys as a CSV file; a cell is empty where there is None.

    Parameters
    ----------
    rows : sequence of dict
    path : Path
        File to write.
    """
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def mean_and_std(mean: float | None, std: float | None) -> str:
    """As text, the mean alone where there is no deviation.

    Parameters
    ----------
    mean, std : float or None
    """
    if mean is None:
        return "-"
    return f"{mean:.4g}" if std is None else f"{mean:.4g} ± {std:.2g}"


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Rows with the same keys as a Markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(map(_text, r.values()) for r in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def finite(value: float) -> float | None:
    """The number, or None for NaN and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None
