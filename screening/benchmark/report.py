"""What a benchmark says: all its tables, on disk and as a report for people."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.data.dataset import SpectrumDataset
from models.data.splits import split_of
from models.errors import named
from models.spectra.settings import SETTINGS
from models.training.config import TrainingConfig
from screening.benchmark import studies, tables
from screening.benchmark.ablations import ablation_rows
from screening.benchmark.data import config_of, shared_dataset
from screening.benchmark.runs import RunResult, reference
from screening.benchmark.subclasses import Subclass
from screening.benchmark.tables import Row, figure_cells, markdown, mean_and_std, table
from screening.benchmark.variants import REFERENCES, BenchmarkRun
from screening.benchmark.vb_gaps import gap_rows, label_counts

GAP_NOTE = (
    "Counts summed over seeds; 95 % intervals of precision, recall and F1 for as many materials as "
    "there are, however many the seeds, and in brackets the figures ± their standard deviation "
    "over seeds. A "
    "normalised spectrum is scaled with the sum that the Standard-MAE model predicts. Two "
    "references need no network: the cell of at most so many atoms (the number that gives the "
    "best F1 on the training materials) has a VB gap and a larger one has none; and the nearest "
    "composition of the training materials, its spectrum per atom times the atoms of the cell.\n"
)
ABLATION_NOTE = (
    "How much larger the errors are than those of the model that is ablated, trained with the same "
    "materials and seeds: the mean over the test materials of the difference of each (averaged "
    "over the seeds) ± its standard error over these materials, not over seeds.\n"
)
SPLIT_NOTES = {
    "material": "Materials of one chemical system may be in different parts.",
    "chemsys": "All materials of one chemical system are in one part, so no test material has a "
    "polymorph, or another compound of the same elements, among the training materials.",
}


def unit_of(setting: str, energy_unit: str) -> str:
    """Unit of the spectra, and so of the MAE, under a setting.

    Parameters
    ----------
    setting : str
        Name of the scaling and loss.
    energy_unit : str
    """
    output = SETTINGS[setting].output
    if output == "sum-normalized":
        return "share of the spectrum in a bin"
    return "states/eV/cell" if energy_unit == "eV" and output == "absolute" else "of the maximum"


# VB gaps.


# Studies.


class Benchmark:
    """Results of a benchmark with the studies that were asked for, as tables and figures.

    Parameters
    ----------
    config : TrainingConfig
        What the runs have in common.
    results : sequence of RunResult
        Whole data sets, fractions, ablations and subclasses together.
    subclasses : tuple of Subclass
    folder : Path
        Where tables and figures go; the runs are in ``runs`` there.
    beside : sequence of Benchmark
        The same with other splits: their tables go beside those of this one.
    command : str
        What made it, for the report.

    Attributes
    ----------
    document : dict
        All tables, for JSON.
    """

    def __init__(
        self,
        config: TrainingConfig,
        results: Sequence[RunResult],
        subclasses: tuple[Subclass, ...],
        folder: Path,
        beside: Sequence[Benchmark] = (),
        command: str = "",
    ) -> None:
        self.config, self.folder, self.runs_folder = config, folder, folder / "runs"
        self.beside, self.command = beside, command
        self.dataset = shared_dataset(config)
        settings = dict.fromkeys(r.run.setting for r in results)
        self.references = [reference(config, v, s) for v in REFERENCES for s in settings]
        self.results = [r for r in results if r.run.subclass is None]
        self.whole = [r for r in self.results if r.run.fraction == 1]
        self.rows = table([*self.references, *self.results])
        by_subclass = studies.subclass_results(config, [*self.references, *results], subclasses)
        self.subclass_rows = table(by_subclass)
        self.document: dict[str, Any] = {
            "command": command,
            "config": _as_shown(config).model_dump(mode="json"),
            "left_out": self.dataset.left_out,
            "rows": tables.to_document(self.rows),
        }
        if self.dataset.grid.unit == "eV":
            self.document["labels"] = label_counts(config)
            self.document["vb_gaps"] = gap_rows(config, [*self.references, *self.results])
        if ablations := ablation_rows(self.results):
            self.document["ablations"] = ablations
        if beside:
            self.document["beside"] = {b.config.split_by: b.document for b in beside}
        if subclasses:
            self.document["subclasses"] = tables.to_document(self.subclass_rows)
        remarks = (f"{r.run.title}: {remark}" for r in results for remark in r.remarks)
        self.document["remarks"] = list(remarks)

    @property
    def first(self) -> list[RunResult]:
        """Results of the first seed with all materials: single spectra are shown of these."""
        return [r for r in self.whole if not r.run.seed]

    def add_errors(self) -> None:
        """Study how errors depend on the material."""
        self.document["errors"] = studies.error_study(self.config, self.first)

    def add_unrelaxed(self) -> None:
        """Study how errors grow with distortions of the structures."""
        runs = [r.run for r in self.first]
        self.document["unrelaxed"] = studies.unrelaxed_study(self.config, runs, self.runs_folder)

    def add_external(self, files: Sequence[Path]) -> None:
        """Measure the models on the labels of other files."""
        runs = [r.run for r in self.whole]
        self.document["external"] = studies.external_rows(
            self.config, runs, self.runs_folder, files
        )

    @property
    def report(self) -> str:
        """All tables as Markdown."""
        return report(self)

    def write(self) -> None:
        """Write all tables into the folder."""
        (self.folder / "benchmark.md").write_text(self.report)
        text = json.dumps(self.document, indent=2, allow_nan=False)
        (self.folder / "benchmark.json").write_text(text + "\n")
        tables.to_csv(self.rows, self.folder / "benchmark.csv")
        if self.subclass_rows:
            tables.to_csv(self.subclass_rows, self.folder / "subclasses.csv")
        for name, rows in _flat(self.document).items():
            if rows:
                tables.write_csv(rows, self.folder / f"{name}.csv")
        for other in self.beside:
            stem = f"by-{other.config.split_by}"
            tables.to_csv(other.rows, self.folder / f"{stem}-benchmark.csv")
            flat = _flat(other.document)
            for name in ("vb_gaps", "ablations"):
                if flat[name]:
                    tables.write_csv(flat[name], self.folder / f"{stem}-{name}.csv")


def _flat(document: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The document's tables without nesting, by name."""
    errors = [
        {"model": study["model"], "setting": study["setting"], "by": key} | row
        for study in document.get("errors", ())
        for key in studies.GROUPS
        for row in study[key]
    ]
    return {
        "vb_gaps": [_unnested(row) for row in document.get("vb_gaps", ())],
        "ablations": [_unnested(row) for row in document.get("ablations", ())],
        "labels": document.get("labels", []),
        "errors": errors,
        "unrelaxed": document.get("unrelaxed", []),
        "external": [_unnested(row) for row in document.get("external", ())],
    }


def _unnested(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        nested = isinstance(value, dict)
        flat |= {f"{key}_{part}": v for part, v in value.items()} if nested else {key: value}
    return flat


def report(benchmark: Benchmark) -> str:
    """All tables of a benchmark as Markdown."""
    document, unit = benchmark.document, benchmark.dataset.grid.unit
    setup = _setup(benchmark.config, benchmark.dataset, [r.run for r in benchmark.results])
    command = f"```bash\n{benchmark.command}\n```\n\n" if benchmark.command else ""
    sections = [
        f"# Benchmark: {benchmark.config.target}\n\n{command}{setup}",
        f"{_units(benchmark.rows, unit)}\n\n{tables.to_markdown(benchmark.rows, unit)}",
    ]
    if document.get("ablations"):
        sections.append(f"## Ablations\n\n{ABLATION_NOTE}")
        sections.append(_ablation_table(document["ablations"], unit))
    if document.get("vb_gaps"):
        sections.append(f"## VB gaps of the test materials\n\n{GAP_NOTE}")
        sections += _gap_tables(document["vb_gaps"])
    for other in benchmark.beside:
        sections += _other_split(other, unit)
    if document.get("labels"):
        sections.append(_label_section(document["labels"]))
    if benchmark.subclass_rows:
        sections.append(_subclass_section(benchmark.subclass_rows, unit))
    if document.get("external"):
        sections.append(_external_section(document["external"], unit))
    sections += map(_error_section, document.get("errors", ()))
    if document.get("unrelaxed"):
        sections.append(
            "## Unrelaxed structures\n\nThe test structures with every atom moved by Gaussian "
            "noise of this deviation per axis, or all lengths changed by this part; seed 0.\n\n"
            + markdown([_titled(row, unit) for row in document["unrelaxed"]])
        )
    if document["remarks"]:
        sections.append("## Remarks\n\n" + "".join(f"- {r}\n" for r in document["remarks"]))
    return "\n".join(sections)


def _setup(config: TrainingConfig, dataset: SpectrumDataset, runs: Sequence[BenchmarkRun]) -> str:
    lines = [
        f"{len(dataset)} materials of {', '.join(path.name for path in config.labels)}; split by "
        f"{config.split_by} (seed {config.split_seed}); {config.epochs} epochs, batches of "
        f"{config.batch_size}, learning rate {config.learning_rate:g}; the epoch with the "
        "smallest validation error counts.\n"
    ]
    lines += _trained_otherwise(config, runs)
    if dataset.shapes_only:
        lines.append("\nSome labels have no scale: all are SumNorm shapes.\n")
    reasons: dict[str, list[str]] = defaultdict(list)
    for material_id, reason in dataset.left_out.items():
        reasons[reason].append(material_id)
    lines += [f"- left out, {reason}: {named(ids)}\n" for reason, ids in reasons.items()]
    return "\n".join([lines[0], "".join(lines[1:])]) if len(lines) > 1 else lines[0]


def path_as_shown(path: Path) -> Path:
    """Of a path that starts at the root the name alone: it is a place on one machine.

    Parameters
    ----------
    path : Path
    """
    return Path(path.name) if path.is_absolute() else path


def _as_shown(config: TrainingConfig) -> TrainingConfig:
    structures = config.structures
    changes = {
        "labels": tuple(map(path_as_shown, config.labels)),
        "structures": None if structures is None else path_as_shown(structures),
    }
    return config.model_copy(update=changes)


def _trained_otherwise(config: TrainingConfig, runs: Sequence[BenchmarkRun]) -> list[str]:
    """A line for each model that is not trained as the benchmark says."""
    lines = []
    for variant, run in {run.variant.name: run for run in runs}.items():
        own = config_of(config, run.whole)
        fields = ("epochs", *run.variant.training)
        changed = [f for f in fields if getattr(own, f) != getattr(config, f)]
        if changed:
            what = ", ".join(f"{f.replace('_', ' ')} {_plain(getattr(own, f))}" for f in changed)
            lines.append(f"- {variant}: {what}\n")
    return lines


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, (int, float)) else str(value)


def _units(rows: Sequence[Row], energy_unit: str) -> str:
    settings = dict.fromkeys(row.setting for row in rows)
    units = "; ".join(f"{setting}: {unit_of(setting, energy_unit)}" for setting in settings)
    return (
        "Figures on the test materials, mean ± standard deviation over seeds. SE is the standard "
        "error over the test materials instead, of their errors averaged over the seeds. Units of "
        f"MAE and (squared) of MSE: {units}. The mean spectrum is that of the training materials."
    )


def _other_split(benchmark: Benchmark, unit: str) -> list[str]:
    """The tables of the same models under another split."""
    rows, dataset, config = benchmark.rows, benchmark.dataset, benchmark.config
    split = split_of(dataset, config.split_seed, config.split_by)
    sections = [
        f"## Split by {config.split_by}\n\n{SPLIT_NOTES[config.split_by]} "
        f"{len(split.train)} materials for training, {len(split.validation)} for validation, "
        f"{len(split.test)} for the test.\n\n{tables.to_markdown(rows, unit)}"
    ]
    if ablations := benchmark.document.get("ablations"):
        sections.append(f"Ablations:\n\n{_ablation_table(ablations, unit)}")
    gaps = benchmark.document.get("vb_gaps")
    return [*sections, "VB gaps:\n", *_gap_tables(gaps)] if gaps else sections


def _ablation_table(rows: list[dict[str, Any]], unit: str) -> str:
    return markdown(
        [
            {"model": row["model"], "compared with": row["compared_with"]}
            | {"setting": row["setting"], "training set": row["n_train"]}
            | {"test set": row["n_test"], "seeds": row["seeds"]}
            | {tables.figure_title(k, unit): _difference(row[k]) for k in ("mae", "wd")}
            for row in rows
        ]
    )


def _difference(of_errors: dict[str, float | None]) -> str:
    difference, error = of_errors["difference"], of_errors["standard_error"]
    if difference is None:
        return "-"
    return f"{difference:+.3g}" + ("" if error is None else f" ± {error:.2g}")


def _gap_tables(gaps: list[dict[str, Any]]) -> list[str]:
    """A table for each kind of test materials."""
    counts = ("model", "setting", "fraction", "seeds", "tp", "fp", "fn", "tn")
    tables = []
    for materials in dict.fromkeys(row["materials"] for row in gaps):
        rows = [
            {k: row[k] for k in counts}
            | {k: _proportion(row[k]) for k in ("precision", "recall", "f1")}
            for row in gaps
            if row["materials"] == materials
        ]
        n = (rows[0]["tp"] + rows[0]["fp"] + rows[0]["fn"] + rows[0]["tn"]) // rows[0]["seeds"]
        positives = (rows[0]["tp"] + rows[0]["fn"]) // rows[0]["seeds"]
        tables.append(
            f"**{materials.capitalize()}**: {n} test materials, {positives} of them with a VB "
            f"gap.\n\n{markdown(rows)}"
        )
    return tables


def _label_section(labels: list[dict[str, Any]]) -> str:
    names = {"vb_gaps": "with a VB gap", "test_vb_gaps": "with a VB gap in the test"}
    parts = ["## Labels\n"]
    for by in ("atoms in the cell", "number of elements"):
        rows = [{by: r["value"]} | _renamed(r, names) for r in labels if r["by"] == by]
        parts.append(markdown(rows))
    by_element = [
        f"{r['value']} {r['materials']}" + (f" ({r['vb_gaps']})" if r["vb_gaps"] else "")
        for r in labels
        if r["by"] == "element"
    ]
    parts.append(
        "Materials with an element, and in brackets how many of them have a VB gap: "
        f"{', '.join(by_element)}.\n"
    )
    return "\n".join(parts)


def _renamed(row: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    return {names.get(k, k): v for k, v in row.items() if k not in ("by", "value")}


def _proportion(estimate: dict[str, Any]) -> str:
    if estimate["value"] is None:
        return "not defined"
    value = mean_and_std(round(estimate["value"], 2), estimate["std"])
    return f"{estimate['low']:.2f} to {estimate['high']:.2f} ({value})"


def _subclass_section(rows: Sequence[Row], unit: str) -> str:
    return (
        "## Subclasses of materials\n\nMeasured on the test materials of the subclass after "
        "training on all materials (global), on those of the subclass, or on all and then, more "
        f"gently, on those of the subclass (fine-tuned).\n\n{tables.to_markdown(rows, unit)}"
    )


def _external_section(rows: list[dict[str, Any]], unit: str) -> str:
    flat = [
        {k: row[k] for k in ("file", "model", "setting", "n_test", "seeds")}
        | figure_cells(row, unit)
        for row in rows
    ]
    return (
        "## Labels of other files\n\nWithout the materials that were trained or validated on.\n\n"
        + markdown(flat)
    )


def _titled(row: dict[str, Any], unit: str) -> dict[str, Any]:
    """The same with the figures' names as in the tables."""
    return {tables.figure_title(key, unit): value for key, value in row.items()}


def _error_section(study: dict[str, Any]) -> str:
    parts = [f"## Errors of {study['model']}, {study['setting']}\n\nMAE of a material, seed 0.\n"]
    for key, title in studies.GROUPS.items():
        rows = [
            {title: b["label"], "materials": b["n"], "mean": b["mean"], "median": b["median"]}
            | {"lower quartile": b["low"], "upper quartile": b["high"]}
            for b in study[key]
        ]
        parts.append(markdown(rows))
    parts.append("Examples, best to worst fifth: " + ", ".join(study["examples"]) + "\n")
    return "\n".join(parts)
