"""`screen benchmark`: the paper's tables and studies on one's own data."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from screening.cli import options

if TYPE_CHECKING:
    from models.benchmark import Row, Run, RunResult, Variant
    from models.dataset import SpectrumDataset
    from models.training_config import TrainingConfig


class Target(StrEnum):
    """What is predicted."""

    edos = "edos"
    phdos = "phdos"
    phdos51 = "phdos-51"


class Study(StrEnum):
    """More than the tables."""

    size = "size"
    ablations = "ablations"
    errors = "errors"
    unrelaxed = "unrelaxed"


SETTINGS = {
    Target.edos: ("standard-mae", "sumnorm-wd", "sumnorm-kl"),
    Target.phdos: ("maxnorm-mse", "sumnorm-wd", "sumnorm-kl"),
    Target.phdos51: ("maxnorm-mse", "sumnorm-wd", "sumnorm-kl"),
}
SHORT = {"cv_mae": "C$_V$", "mean_frequency_mae": "mean\nfrequency"}  # in a radar
FRACTIONS = (1.0, 0.5, 0.25, 0.125)
QUICK_EPOCHS, QUICK_BATCH = 8, 32
RATTLES = (0.02, 0.05, 0.1, 0.2)  # Å
STRAINS = (-0.04, -0.02, 0.02, 0.04)


def benchmark(
    target: Annotated[Target, typer.Argument(help="What to predict.")],
    data: Annotated[list[Path], typer.Option(help="Parquet files of labels.")],
    structures: Annotated[
        Path | None, typer.Option(help="Parquet file of structures; phonon files have their own.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the results; what is finished there is not done again.")
    ] = Path("benchmark"),
    architecture: Annotated[
        list[str] | None, typer.Option(help="Only these; all of them by default.")
    ] = None,
    setting: Annotated[
        list[str] | None, typer.Option(help="Only these; the paper's by default.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each kind.")] = 3,
    epochs: Annotated[int, typer.Option(min=1)] = 200,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    by_system: Annotated[
        bool, typer.Option("--by-system", help="Keep chemical systems together in the split.")
    ] = False,
    study: Annotated[list[Study] | None, typer.Option(help="Do this as well.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help=f"{QUICK_EPOCHS} epochs and one seed: does it work?")
    ] = False,
    plots: Annotated[bool, typer.Option(help="Draw the figures too.")] = True,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train every architecture under every setting, and write the tables of the paper.

    Tables go to OUT as benchmark.md, benchmark.csv and benchmark.json.
    """
    from models.benchmark import ABLATION_VARIANTS, ARCHITECTURE_VARIANTS, plan, run_all, table
    from models.training_config import TrainingConfig, load_dataset
    from screening.cli.console import stderr

    config = TrainingConfig(
        name="benchmark",
        target=target.value,
        labels=tuple(data),
        structures=structures,
        epochs=QUICK_EPOCHS if quick else epochs,
        batch_size=min(batch_size, QUICK_BATCH) if quick else batch_size,
        split_by="chemsys" if by_system else "material",
    )
    seeds = 1 if quick else seeds
    settings = _checked_settings(setting) or SETTINGS[target]
    variants = _chosen(architecture, ARCHITECTURE_VARIANTS)
    studies = set(study or ())
    runs = plan(variants, settings, seeds)
    if Study.size in studies:
        runs += [r for r in plan(variants, settings, seeds, FRACTIONS) if r.fraction < 1]
    if Study.ablations in studies:
        runs += plan(ABLATION_VARIANTS, settings, seeds)

    remarks = stderr(quiet)
    dataset = load_dataset(config)
    remarks.print(f"{len(dataset)} materials, {len(runs)} trainings of {config.epochs} epochs")
    results = run_all(config, runs, out / "runs", workers, _announcer(remarks.print, len(runs)))
    rows = table(results)
    document: dict[str, Any] = {}
    if target is Target.edos:
        document["vb_gaps"] = gap_rows(config, results)
    if Study.errors in studies:
        document["errors"] = error_study(config, results, out if plots else None)
    if Study.unrelaxed in studies:
        document["unrelaxed"] = unrelaxed_study(config, runs[0], out if plots else None)
    if plots:
        draw(rows, out)
        draw_boxes(config, results, out)
    _write(out, config, dataset, rows, document, as_json=json)


def _chosen(names: list[str] | None, variants: tuple[Variant, ...]) -> list[Variant]:
    from screening.errors import ScreeningError

    by_name = {variant.name: variant for variant in variants}
    unknown = [name for name in names or () if name not in by_name]
    if unknown:
        known = ", ".join(by_name)
        raise ScreeningError(f"unknown architecture {unknown[0]!r}; there are {known}")
    return [by_name[name] for name in names] if names else list(variants)


def _checked_settings(names: list[str] | None) -> tuple[str, ...]:
    from models.losses import SETTINGS as KNOWN
    from screening.errors import ScreeningError

    unknown = [name for name in names or () if name not in KNOWN]
    if unknown:
        raise ScreeningError(f"unknown setting {unknown[0]!r}; use {', '.join(KNOWN)}")
    return tuple(names or ())


def _announcer(say: Any, total: int) -> Any:
    done = 0

    def announce(result: RunResult, new: bool) -> None:
        nonlocal done
        done += 1
        figures = ", ".join(f"{k} {v:.4g}" for k, v in result.figures.items())
        took = f"{result.seconds:.0f} s" if new else "kept"
        say(f"[{done}/{total}] {result.run.title}: {figures} ({took})")

    return announce


def held_out(config: TrainingConfig) -> SpectrumDataset:
    """The materials that no run was trained on."""
    from models.splits import split_of
    from models.training_config import load_dataset

    dataset = load_dataset(config)
    return dataset.subset(split_of(dataset, config.split_seed, config.split_by).test)


def gap_rows(config: TrainingConfig, results: list[RunResult]) -> list[dict[str, Any]]:
    """Precision, recall and F1 of the VB gap, summed over seeds.

    A normalised spectrum is multiplied with the sum that the Standard-MAE model of the same
    architecture, seed and training set predicts.
    """
    from screening.classification import ConfusionMatrix
    from screening.gap import GapCriteria, find_gaps

    test = held_out(config)
    grid, criteria = test.grid, GapCriteria()
    bounds = (float(grid.edges[0]), float(grid.edges[-1]))

    def is_gap(dos: Any) -> Any:
        return find_gaps(grid.centers, dos, criteria, bounds=bounds).is_gap

    true = is_gap(test.spectra.numpy())
    scales = {
        (r.run.variant.name, r.run.fraction, r.run.seed): r.prediction.sum(-1, keepdims=True)
        for r in results
        if r.run.setting == "standard-mae"
    }
    matrices: dict[tuple[str, str, float], ConfusionMatrix] = {}
    for result in results:
        run = result.run
        scale = scales.get((run.variant.name, run.fraction, run.seed))
        if scale is None:
            continue
        dos = result.prediction
        if run.setting != "standard-mae":
            dos = dos / dos.sum(-1, keepdims=True) * scale
        matrix = ConfusionMatrix.of(zip(is_gap(dos), true, strict=True))
        key = (run.variant.name, run.setting, run.fraction)
        matrices[key] = matrices[key] + matrix if key in matrices else matrix
    return [
        {"model": name, "setting": setting, "fraction": fraction} | matrix.as_dict()
        for (name, setting, fraction), matrix in matrices.items()
    ]


def error_study(
    config: TrainingConfig, results: list[RunResult], folder: Path | None
) -> list[dict[str, Any]]:
    """Errors of the first seed by elements, sites, similar training data and roughness."""
    from dataclasses import asdict

    import numpy as np

    from models import studies
    from models.splits import split_of
    from models.training_config import load_dataset

    dataset = load_dataset(config)
    split = split_of(dataset, config.split_seed, config.split_by)
    train, test = dataset.subset(split.train), dataset.subset(split.test)
    n_atoms = test.graphs.n_atoms.numpy()
    documents = []
    for result in results:
        run = result.run
        if run.seed or run.fraction != 1:
            continue
        label = _label(run.setting, test)
        errors = studies.material_errors(result.prediction, label)
        tables = {
            "number of elements": studies.errors_by(errors, list(studies.n_elements(test))),
            "number of sites": studies.errors_by_quantile(errors, n_atoms),
            "similarity of the nearest training composition": studies.errors_by_quantile(
                errors, studies.similar_in_training(test, train)
            ),
            "share of fast Fourier components": studies.errors_by_quantile(
                errors, studies.roughness(label)
            ),
        }
        examples = studies.quintile_examples(errors)
        documents.append(
            {"model": run.variant.name, "setting": run.setting}
            | {name: [asdict(b) for b in bins] for name, bins in tables.items()}
            | {"quintile examples": [test.material_ids[i] for i in examples]}
        )
        if folder:
            from screening.report import model_plots
            from screening.report.plots import save_figure

            stem = f"{run.variant.name}-{run.setting}".replace(" ", "-")
            unit = run.setting
            for name, bins in tables.items():
                file = folder / f"errors-{stem}-{name.replace(' ', '-')}.png"
                save_figure(model_plots.plot_bins(bins, name, unit), file)
            names = [f"{test.material_ids[i]}: {errors[i]:.3g}" for i in examples]
            rows = np.array(examples)
            figure = model_plots.plot_quintiles(
                test.grid.centers, label[rows], result.prediction[rows], names, test.grid.unit
            )
            save_figure(figure, folder / f"quintiles-{stem}.png")
    return documents


def unrelaxed_study(config: TrainingConfig, run: Run, folder: Path | None) -> list[dict[str, Any]]:
    """How the error of the first run grows when its test structures are rattled or strained."""
    from functools import partial

    from models import studies
    from models.benchmark import measure, predict, train_checkpoint
    from models.dataset import read_crystals, with_structures

    checkpoint = train_checkpoint(config, run)
    test = held_out(config)
    file = config.structures or config.labels[0]
    crystals = read_crystals(file, set(test.material_ids))
    changes: dict[tuple[str, float], Any] = {("none", 0.0): lambda c: c}
    changes |= {("rattle (Å)", a): partial(studies.rattled, amount=a, seed=0) for a in RATTLES}
    changes |= {("strain", s): partial(studies.strained, strain=s) for s in STRAINS}
    documents: list[dict[str, Any]] = []
    for (kind, amount), change in changes.items():
        changed = {i: change(crystals[i]) for i in test.material_ids}
        distorted = with_structures(test, changed, checkpoint.card.graph)
        figures = measure(checkpoint, predict(checkpoint, distorted), distorted)
        documents.append({"distortion": kind, "amount": amount, "n": len(distorted)} | figures)
    if folder:
        from screening.report.model_plots import plot_unrelaxed
        from screening.report.plots import save_figure

        for kind in ("rattle (Å)", "strain"):
            line = [d for d in documents if d["distortion"] in (kind, "none")]
            line.sort(key=lambda d: d["amount"])
            figure = plot_unrelaxed(
                [d["amount"] for d in line],
                [d["mae"] for d in line],
                "Isotropic strain" if kind == "strain" else "Displacement per axis (Å)",
                f"MAE, {run.setting}",
            )
            save_figure(figure, folder / f"unrelaxed-{kind.split()[0]}.png")
    return documents


def draw_boxes(config: TrainingConfig, results: list[RunResult], folder: Path) -> None:
    """Errors of single test materials by model, for each setting; of the first seed."""
    from screening.report.model_plots import plot_error_boxes
    from screening.report.plots import save_figure

    test = held_out(config)
    first = [r for r in results if not r.run.seed and r.run.fraction == 1]
    for setting in dict.fromkeys(r.run.setting for r in first):
        chosen = [r for r in first if r.run.setting == setting]
        errors = {r.run.variant.name: _material_errors(r, test) for r in chosen}
        figure = plot_error_boxes(errors, setting, f"{len(test)} test materials")
        save_figure(figure, folder / f"boxes-{setting}.png")


def _material_errors(result: RunResult, test: SpectrumDataset) -> Any:
    from models.studies import material_errors

    return material_errors(result.prediction, _label(result.run.setting, test))


def _label(setting: str, test: SpectrumDataset) -> Any:
    """What predictions of a setting are compared with, shape (n, K')."""
    from models.losses import SETTINGS as KNOWN

    kind = KNOWN[setting](test.grid.size)
    if kind.output == "absolute":
        return test.spectra.numpy()
    return kind.target(test.spectra, test.graphs.n_atoms).numpy()


def draw(rows: list[Row], folder: Path) -> None:
    """Radar of each setting, and the figures against the size of the training set."""
    from models.benchmark import FIGURES
    from screening.report.model_plots import plot_data_size, plot_radar
    from screening.report.plots import save_figure

    whole = [row for row in rows if row.fraction == 1]
    for setting in dict.fromkeys(row.setting for row in whole):
        chosen = [row for row in whole if row.setting == setting]
        keys = [key for key in FIGURES if all(key in row.mean for row in chosen)]
        if len(chosen) > 1:
            figure = plot_radar(chosen, keys, [SHORT.get(key, FIGURES[key]) for key in keys])
            save_figure(figure, folder / f"radar-{setting}.png")
        sizes = [row for row in rows if row.setting == setting]
        if len(sizes) > len(chosen):
            figure = plot_data_size(sizes, "mae", "MAE")
            save_figure(figure, folder / f"data-size-{setting}.png")


def _write(
    folder: Path,
    config: TrainingConfig,
    dataset: SpectrumDataset,
    rows: list[Row],
    document: dict[str, Any],
    as_json: bool,
) -> None:
    import json

    from models.benchmark import to_csv, to_document
    from screening.cli.console import print_json, stdout

    text = _report(config, dataset, rows, document)
    whole = {"config": config.model_dump(mode="json"), "rows": to_document(rows)} | document
    (folder / "benchmark.md").write_text(text)
    (folder / "benchmark.json").write_text(json.dumps(whole, indent=2, allow_nan=False) + "\n")
    to_csv(rows, folder / "benchmark.csv")
    if as_json:
        print_json(whole)
    else:
        stdout().print(text, markup=False, highlight=False, soft_wrap=True)


def _report(
    config: TrainingConfig,
    dataset: SpectrumDataset,
    rows: list[Row],
    document: dict[str, Any],
) -> str:
    """All tables as Markdown."""
    from models.benchmark import to_markdown
    from models.splits import split_of

    split = split_of(dataset, config.split_seed, config.split_by)
    sections = [
        f"# Benchmark: {config.target}\n\n"
        f"{len(dataset)} materials: {len(split.train)} for training, {len(split.validation)} for "
        f"validation, {len(split.test)} for the test; split by {config.split_by}, "
        f"{config.epochs} epochs, batches of {config.batch_size}. Figures on the test materials, "
        "mean ± standard deviation over seeds, in the unit of the setting; "
        f"WD in {dataset.grid.unit}.\n\n{to_markdown(rows)}"
    ]
    if document.get("vb_gaps"):
        sections.append(_gap_section(document["vb_gaps"]))
    for study in document.get("errors", ()):
        sections.append(_error_section(study))
    if document.get("unrelaxed"):
        sections.append("## Unrelaxed structures\n\n" + _markdown(document["unrelaxed"]))
    return "\n".join(sections)


def _gap_section(gaps: list[dict[str, Any]]) -> str:
    rows = [
        {k: row[k] for k in ("model", "setting", "fraction", "tp", "fp", "fn", "tn")}
        | {k: _interval(row[k]) for k in ("precision", "recall", "f1")}
        for row in gaps
    ]
    return "## VB gaps of the test materials\n\nSummed over seeds, 95 % intervals.\n\n" + _markdown(
        rows
    )


def _interval(proportion: dict[str, Any]) -> str:
    if proportion["value"] is None:
        return "not defined"
    return "{value:.2f} ({low:.2f} to {high:.2f})".format(**proportion)


def _error_section(study: dict[str, Any]) -> str:
    parts = [f"## Errors of {study['model']}, {study['setting']}\n"]
    for name, bins in study.items():
        if name in ("model", "setting", "quintile examples"):
            continue
        parts.append(f"By {name}:\n\n{_markdown(bins)}")
    parts.append("Examples, best to worst fifth: " + ", ".join(study["quintile examples"]) + "\n")
    return "\n".join(parts)


def _markdown(rows: list[dict[str, Any]]) -> str:
    cells = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in r.values()] for r in rows]
    lines = [list(rows[0]), ["---"] * len(rows[0]), *cells]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
