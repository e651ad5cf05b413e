"""What a benchmark says: VB gaps, studies, tables on disk and the report."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from models.crystal import Crystal
from models.data.dataset import SpectrumDataset, usable_settings, with_structures
from models.data.splits import split_of
from models.errors import named
from models.spectra.settings import SETTINGS
from models.spectra.spectrum import EnergyGrid
from models.training.config import TrainingConfig
from screening.benchmark import studies
from screening.benchmark.runs import (
    NEAREST_COMPOSITION,
    REFERENCES,
    REGIMES,
    Run,
    RunResult,
    config_of,
    crystals_of,
    held_out,
    kept_model,
    labels_for,
    measure,
    on_file,
    on_subclass,
    predict,
    reference,
    shared_dataset,
    split_for,
)
from screening.benchmark.subclasses import Subclass
from screening.benchmark.tables import (
    Row,
    deviation,
    figure_title,
    finite,
    markdown,
    mean_and_std,
    table,
    to_csv,
    to_document,
    to_markdown,
    write_csv,
)
from screening.classification import ConfusionMatrix
from screening.gap import GapCriteria, find_gaps

RATTLES = (0.02, 0.05, 0.1, 0.2)  # Å
STRAINS = (-0.04, -0.02, 0.02, 0.04)
GROUPS = {  # of the study of errors: key in the documents, and what the tables call it
    "n_elements": "number of elements",
    "n_sites": "number of sites",
    "similarity": "similarity of the nearest training composition",
    "roughness": "share of fast Fourier components",
}

GAP_NOTE = (
    "Counts summed over seeds; 95 % intervals of precision, recall and F1 for as many materials as "
    "there are, however many the seeds, and in brackets the figures ± their standard deviation "
    "over seeds. A "
    "normalised spectrum is scaled with the sum that the Standard-MAE model predicts. Two "
    "references need no network: the cell of at most so many atoms (the number that gives the "
    "best F1 on the training materials) has a VB gap and a larger one has none; and the nearest "
    "composition of the training materials, its spectrum per atom times the atoms of the cell.\n"
)
SPLIT_NOTES = {
    "material": "Materials of one chemical system may be in different parts.",
    "chemsys": "All materials of one chemical system are in one part, so no test material has a "
    "polymorph, or another compound of the same elements, among the training materials.",
}
MATERIALS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # by their number of elements
    "all": lambda n: n > 0,
    "compounds": lambda n: n > 1,
    "elements": lambda n: n == 1,
}


def unit_of(setting: str, energy_unit: str) -> str:
    """Unit of the spectra, and so of the MAE, under a setting."""
    output = SETTINGS[setting].output
    if output == "sum-normalized":
        return "share of the spectrum in a bin"
    return "states/eV/cell" if energy_unit == "eV" and output == "absolute" else "of the maximum"


# VB gaps.


def gap_rows(config: TrainingConfig, results: Sequence[RunResult]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of the VB gap, with counts summed over seeds.

    A normalised spectrum is multiplied with the sum that the Standard-MAE model of the same
    variant, seed and training set predicts. The first row is a reference that knows nothing but
    the size of the cell: see :func:`largest_cell`.

    Returns
    -------
    list of dict
        One for each kind of run on all test ``materials``, then on the compounds among them and
        on the elements, where there are any; ``precision``, ``recall`` and ``f1`` have
        ``value``, the 95 % interval ``low`` to ``high`` (of the test materials, however many
        seeds) and ``std`` over seeds.
    """
    verdicts = _verdicts(config, results)
    if verdicts:
        verdicts = _size_reference(config) | verdicts
    return [
        {"materials": materials, "model": name, "setting": setting, "fraction": fraction}
        | _over_seeds([v.matrix(materials) for v in of_seeds])
        for materials in MATERIALS
        for (name, setting, fraction), of_seeds in verdicts.items()
        if of_seeds[0].of(materials).any()
    ]


@dataclass(frozen=True, eq=False)
class _Verdicts:
    """Which test materials have a VB gap: predicted, and by the labels; shape (n,) each."""

    predicted: np.ndarray
    true: np.ndarray
    n_elements: np.ndarray

    def of(self, materials: str) -> np.ndarray:
        """Which of them are all materials, compounds, or elements; shape (n,), bool."""
        return MATERIALS[materials](self.n_elements)

    def matrix(self, materials: str) -> ConfusionMatrix:
        rows = self.of(materials)
        return ConfusionMatrix.of(zip(self.predicted[rows], self.true[rows], strict=True))


_OfRuns = dict[tuple[str, str, float], list[_Verdicts]]  # by model, setting and fraction


def _verdicts(config: TrainingConfig, results: Sequence[RunResult]) -> _OfRuns:
    """Verdicts of each seed of each kind of run that has a scale."""
    scales = {
        (r.run.variant.name, r.run.fraction, r.run.seed): r.prediction.sum(-1, keepdims=True)
        for r in results
        if r.run.setting == "standard-mae"
    }
    verdicts: _OfRuns = defaultdict(list)
    for result in results:
        run = result.run
        scale = scales.get((run.variant.name, run.fraction, run.seed))
        # Scaled, the nearest composition's shape is its spectrum again.
        again = run.variant == NEAREST_COMPOSITION and run.setting != "standard-mae"
        if scale is None or again:
            continue
        dos = result.prediction
        if SETTINGS[run.setting].output != "absolute":
            dos = dos / dos.sum(-1, keepdims=True) * scale
        test = held_out(config, run)
        true = has_gap(test.spectra.numpy(), test.grid)
        found = _Verdicts(has_gap(dos, test.grid), true, studies.n_elements(test))
        verdicts[run.variant.name, run.setting, run.fraction].append(found)
    return verdicts


def has_gap(dos: np.ndarray, grid: EnergyGrid) -> np.ndarray:
    """Which spectra (n, K'), in states/eV/cell, have a VB gap by the paper's criteria; (n,)."""
    return find_gaps(grid, dos, GapCriteria()).is_gap


def _size_reference(config: TrainingConfig) -> _OfRuns:
    """What the verdicts would be if a small cell were all that it takes."""
    dataset = shared_dataset(config)
    split = split_of(dataset, config.split_seed, config.split_by)
    train, test = dataset.subset(split.train), dataset.subset(split.test)
    largest = largest_cell(train.graphs.n_atoms.numpy(), has_gap(train.spectra.numpy(), train.grid))
    predicted = test.graphs.n_atoms.numpy() <= largest
    true = has_gap(test.spectra.numpy(), test.grid)
    name = f"cell of at most {largest} atom{'s' * (largest != 1)}"
    return {(name, "-", 1.0): [_Verdicts(predicted, true, studies.n_elements(test))]}


def largest_cell(n_atoms: np.ndarray, true: np.ndarray) -> int:
    """Number N of atoms for which 'at most N atoms' finds the VB gaps with the best F1.

    Parameters
    ----------
    n_atoms : ndarray, shape (n,)
        Of the training materials.
    true : ndarray, shape (n,), bool
        Which of them have a VB gap.

    Returns
    -------
    int
        The smallest of several; 0 if none has a VB gap.
    """
    sizes = np.unique(n_atoms)
    found = n_atoms[:, None] <= sizes
    f1 = 2 * (found & true[:, None]).sum(0) / (found.sum(0) + true.sum())
    return int(sizes[f1.argmax()]) if true.any() else 0


def label_counts(config: TrainingConfig) -> list[dict[str, Any]]:
    """How many labels there are, by cell size, number of elements, and element.

    Returns
    -------
    list of dict
        ``by`` and ``value``; how many ``materials`` there are in all, in ``train``,
        ``validation`` and ``test``, and how many labels have a VB gap, in all (``vb_gaps``) and
        in the test (``test_vb_gaps``); None where labels have no scale.
    """
    dataset = shared_dataset(config)
    split = split_of(dataset, config.split_seed, config.split_by)
    parts = {name: np.zeros(len(dataset), bool) for name in ("train", "validation", "test")}
    for name, part in parts.items():
        part[getattr(split, name)] = True
    gaps = None if dataset.shapes_only else has_gap(dataset.spectra.numpy(), dataset.grid)
    rows = []
    for by, value, members in _label_groups(dataset):
        row: dict[str, Any] = {"by": by, "value": value, "materials": int(members.sum())}
        row |= {name: int((members & part).sum()) for name, part in parts.items()}
        for name, some in (("vb_gaps", members), ("test_vb_gaps", members & parts["test"])):
            row[name] = None if gaps is None else int((gaps & some).sum())
        rows.append(row)
    return rows


def _label_groups(dataset: SpectrumDataset) -> Iterator[tuple[str, str, np.ndarray]]:
    """Kind, value and members (n,) of each group of labels that is counted."""
    numbers = {"atoms in the cell": dataset.graphs.n_atoms.numpy()}
    numbers["number of elements"] = studies.n_elements(dataset)
    for by, values in numbers.items():
        for value in np.unique(values):
            yield by, str(value), values == value
    systems = [set(system.split("-")) for system in dataset.chemical_systems]
    for symbol in dataset.elements:
        yield "element", symbol, np.array([symbol in system for system in systems])


def _over_seeds(matrices: list[ConfusionMatrix]) -> dict[str, Any]:
    pooled = sum(matrices[1:], matrices[0])
    document = replace(pooled, repeats=len(matrices)).as_dict()
    for name in ("precision", "recall", "f1"):
        values = [getattr(m, name).value for m in matrices]
        defined = [v for v in values if v is not None]
        document[name]["std"] = deviation(defined) if len(defined) > 1 else None
    return {"seeds": len(matrices)} | document


# Studies.


def error_study(config: TrainingConfig, results: Iterable[RunResult]) -> list[dict[str, Any]]:
    """Errors of the first seed by elements, sites, similar training data and roughness.

    Returns
    -------
    list of dict
        One for each result: ``model``, ``setting``, a list of bins for each key of `GROUPS`, and
        the ``examples`` of the quintiles (ids, best to worst).
    """
    documents = []
    for result in results:
        run = result.run
        dataset = shared_dataset(config)
        split = split_for(dataset, config, run)
        train, test = dataset.subset(split.train), held_out(config, run)
        label = labels_for(run.setting, test)
        errors = studies.material_errors(result.prediction, label)
        by_quantile = partial(studies.errors_by_quantile, errors)
        bins = {
            "n_elements": studies.errors_by(errors, studies.n_elements(test).tolist()),
            "n_sites": by_quantile(test.graphs.n_atoms.numpy()),
            "similarity": by_quantile(studies.similar_in_training(test, train)),
            "roughness": by_quantile(studies.roughness(label)),
        }
        examples = [test.material_ids[i] for i in studies.quintile_examples(errors)]
        documents.append(
            {"model": run.variant.name, "setting": run.setting}
            | {key: [asdict(b) for b in found] for key, found in bins.items()}
            | {"examples": examples}
        )
    return documents


def unrelaxed_study(
    config: TrainingConfig, runs: Iterable[Run], folder: Path
) -> list[dict[str, Any]]:
    """How errors grow when the test structures are rattled or strained.

    Parameters
    ----------
    folder : Path
        Of the runs, with their models.
    """
    documents: list[dict[str, Any]] = []
    for run in runs:
        checkpoint = kept_model(config, run, folder)
        test = held_out(config, run)
        crystals = crystals_of(config, test.material_ids)
        for kind, amount, change in _distortions():
            changed = {i: change(crystal) for i, crystal in crystals.items()}
            distorted = with_structures(test, changed, checkpoint.card.graph)
            figures = measure(run.setting, predict(checkpoint, distorted), distorted)
            what: dict[str, Any] = {"model": run.variant.name, "setting": run.setting}
            what |= {"distortion": kind, "amount": amount, "n": len(distorted)}
            documents.append(what | {key: finite(value) for key, value in figures.items()})
    return documents


def _distortions() -> list[tuple[str, float, Any]]:
    def unchanged(crystal: Crystal) -> Crystal:
        return crystal

    rattles = [("rattle (Å)", a, partial(studies.rattled, amount=a, seed=0)) for a in RATTLES]
    strains = [("strain", s, partial(studies.strained, strain=s)) for s in STRAINS]
    return [("none", 0.0, unchanged), *rattles, *strains]


def subclass_results(
    config: TrainingConfig, results: Sequence[RunResult], subclasses: Sequence[Subclass]
) -> list[RunResult]:
    """Results on each subclass, the three ways of training of a model beside each other."""
    # Global models are those of the runs that were repeated on the subclasses, and the reference.
    repeated = [r.run.whole for r in results if r.run.subclass]
    found = []
    for subclass in subclasses:
        for result in results:
            run = result.run
            if run.subclass is None and (run in repeated or run.variant in REFERENCES):
                found.append(on_subclass(config, result, subclass))
            elif run.subclass == subclass:
                found.append(result)
    order = {name: i for i, name in enumerate(dict.fromkeys(r.run.variant.name for r in found))}
    return sorted(
        found,
        key=lambda r: (
            subclasses.index(r.run.subclass),
            r.run.setting,
            order[r.run.variant.name],
            REGIMES.index(r.run.regime),
        ),
    )


def external_rows(
    config: TrainingConfig, runs: Iterable[Run], folder: Path, files: Iterable[Path]
) -> list[dict[str, Any]]:
    """Figures on the labels of other files, one row for each file and kind of run."""
    documents = []
    for file in files:
        usable = usable_settings(shared_dataset(config.model_copy(update={"labels": (file,)})))
        results = [on_file(config, r, folder, file) for r in runs if r.setting in usable]
        documents += [{"file": file.name} | row for row in to_document(table(results))]
    return documents


# The whole.


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
        by_subclass = subclass_results(config, [*self.references, *results], subclasses)
        self.subclass_rows = table(by_subclass)
        self.document: dict[str, Any] = {
            "command": command,
            "config": config.model_dump(mode="json"),
            "left_out": self.dataset.left_out,
            "rows": to_document(self.rows),
        }
        if self.dataset.grid.unit == "eV":
            self.document["labels"] = label_counts(config)
            self.document["vb_gaps"] = gap_rows(config, [*self.references, *self.results])
        if beside:
            self.document["beside"] = {b.config.split_by: b.document for b in beside}
        if subclasses:
            self.document["subclasses"] = to_document(self.subclass_rows)
        remarks = (f"{r.run.title}: {remark}" for r in results for remark in r.remarks)
        self.document["remarks"] = list(remarks)

    @property
    def first(self) -> list[RunResult]:
        """Results of the first seed with all materials: single spectra are shown of these."""
        return [r for r in self.whole if not r.run.seed]

    def add_errors(self) -> None:
        """Study how errors depend on the material."""
        self.document["errors"] = error_study(self.config, self.first)

    def add_unrelaxed(self) -> None:
        """Study how errors grow with distortions of the structures."""
        runs = [r.run for r in self.first]
        self.document["unrelaxed"] = unrelaxed_study(self.config, runs, self.runs_folder)

    def add_external(self, files: Sequence[Path]) -> None:
        """Measure the models on the labels of other files."""
        runs = [r.run for r in self.whole]
        self.document["external"] = external_rows(self.config, runs, self.runs_folder, files)

    @property
    def report(self) -> str:
        """All tables as Markdown."""
        return report(self)

    def write(self) -> None:
        """Write all tables into the folder."""
        (self.folder / "benchmark.md").write_text(self.report)
        text = json.dumps(self.document, indent=2, allow_nan=False)
        (self.folder / "benchmark.json").write_text(text + "\n")
        to_csv(self.rows, self.folder / "benchmark.csv")
        if self.subclass_rows:
            to_csv(self.subclass_rows, self.folder / "subclasses.csv")
        for name, rows in _flat(self.document).items():
            if rows:
                write_csv(rows, self.folder / f"{name}.csv")
        for other in self.beside:
            stem = f"by-{other.config.split_by}"
            to_csv(other.rows, self.folder / f"{stem}-benchmark.csv")
            if rows := _flat(other.document)["vb_gaps"]:
                write_csv(rows, self.folder / f"{stem}-vb_gaps.csv")


def _flat(document: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The document's tables without nesting, by name."""
    errors = [
        {"model": study["model"], "setting": study["setting"], "by": key} | row
        for study in document.get("errors", ())
        for key in GROUPS
        for row in study[key]
    ]
    return {
        "vb_gaps": [_unnested(row) for row in document.get("vb_gaps", ())],
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


# The report.


def report(benchmark: Benchmark) -> str:
    """All tables of a benchmark as Markdown."""
    document, unit = benchmark.document, benchmark.dataset.grid.unit
    setup = _setup(benchmark.config, benchmark.dataset, [r.run for r in benchmark.results])
    command = f"```bash\n{benchmark.command}\n```\n\n" if benchmark.command else ""
    sections = [
        f"# Benchmark: {benchmark.config.target}\n\n{command}{setup}",
        f"{_units(benchmark.rows, unit)}\n\n{to_markdown(benchmark.rows, unit)}",
    ]
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


def _setup(config: TrainingConfig, dataset: SpectrumDataset, runs: Sequence[Run]) -> str:
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


def _trained_otherwise(config: TrainingConfig, runs: Sequence[Run]) -> list[str]:
    """A line for each model that is not trained as the benchmark says."""
    lines = []
    for variant, run in {run.variant.name: run for run in runs}.items():
        chosen = config_of(config, run.whole)
        fields = ("epochs", *run.variant.training)
        changed = [f for f in fields if getattr(chosen, f) != getattr(config, f)]
        if changed:
            what = ", ".join(f"{f.replace('_', ' ')} {getattr(chosen, f):g}" for f in changed)
            lines.append(f"- {variant}: {what}\n")
    return lines


def _units(rows: Sequence[Row], energy_unit: str) -> str:
    settings = dict.fromkeys(row.setting for row in rows)
    units = "; ".join(f"{setting}: {unit_of(setting, energy_unit)}" for setting in settings)
    return (
        "Figures on the test materials, mean ± standard deviation over seeds. Units of MAE and "
        f"(squared) of MSE: {units}. The mean spectrum is that of the training materials."
    )


def _other_split(benchmark: Benchmark, unit: str) -> list[str]:
    """The tables of the same models under another split."""
    rows, dataset, config = benchmark.rows, benchmark.dataset, benchmark.config
    split = split_of(dataset, config.split_seed, config.split_by)
    sections = [
        f"## Split by {config.split_by}\n\n{SPLIT_NOTES[config.split_by]} "
        f"{len(split.train)} materials for training, {len(split.validation)} for validation, "
        f"{len(split.test)} for the test.\n\n{to_markdown(rows, unit)}"
    ]
    gaps = benchmark.document.get("vb_gaps")
    return [*sections, "VB gaps:\n", *_gap_tables(gaps)] if gaps else sections


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


def _proportion(found: dict[str, Any]) -> str:
    if found["value"] is None:
        return "not defined"
    std = math.nan if found["std"] is None else found["std"]
    estimate = mean_and_std(round(found["value"], 2), std)
    return f"{found['low']:.2f} to {found['high']:.2f} ({estimate})"


def _subclass_section(rows: Sequence[Row], unit: str) -> str:
    return (
        "## Subclasses of materials\n\nMeasured on the test materials of the subclass after "
        "training on all materials (global), on those of the subclass, or on all and then, more "
        f"gently, on those of the subclass (fine-tuned).\n\n{to_markdown(rows, unit)}"
    )


def _external_section(rows: list[dict[str, Any]], unit: str) -> str:
    flat = [
        {k: row[k] for k in ("file", "model", "setting", "n_test", "seeds")}
        | {k: mean_and_std(*map(_or_nan, (v, row["std"][k]))) for k, v in row["mean"].items()}
        for row in rows
    ]
    flat = [_titled(row, unit) for row in flat]
    return (
        "## Labels of other files\n\nWithout the materials that were trained or validated on.\n\n"
        + markdown(flat)
    )


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _titled(row: dict[str, Any], unit: str) -> dict[str, Any]:
    """The same with the figures' names as in the tables."""
    return {figure_title(key, unit): value for key, value in row.items()}


def _error_section(study: dict[str, Any]) -> str:
    parts = [f"## Errors of {study['model']}, {study['setting']}\n\nMAE of a material, seed 0.\n"]
    for key, title in GROUPS.items():
        rows = [
            {title: b["label"], "materials": b["n"], "mean": b["mean"], "median": b["median"]}
            | {"lower quartile": b["low"], "upper quartile": b["high"]}
            for b in study[key]
        ]
        parts.append(markdown(rows))
    parts.append("Examples, best to worst fifth: " + ", ".join(study["examples"]) + "\n")
    return "\n".join(parts)
