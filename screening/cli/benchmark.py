"""`screen benchmark`: the paper's tables and studies on one's own data."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from screening.cli import options
from screening.cli.invocation import resumable

if TYPE_CHECKING:
    from models.data.dataset import SpectrumDataset
    from models.spectra.spectrum import EnergyGrid
    from models.training.config import TrainingConfig
    from screening.benchmark.runs import RunResult
    from screening.benchmark.subclasses import Subclass
    from screening.benchmark.variants import BenchmarkRun, Variant


class Target(StrEnum):
    """What is predicted."""

    edos = "edos"
    phdos = "phdos"
    phdos51 = "phdos-51"


class SplitBy(StrEnum):
    """What is kept together in the split."""

    material = "material"
    chemsys = "chemsys"


class Study(StrEnum):
    """More than the tables."""

    size = "size"
    ablations = "ablations"
    subclass = "subclass"
    errors = "errors"
    unrelaxed = "unrelaxed"


EDOS_SETTINGS = ("standard-mae", "sumnorm-wd", "sumnorm-kl")
PHDOS_SETTINGS = ("maxnorm-mse", "maxnorm-mae", "sumnorm-wd", "sumnorm-kl")
FRACTIONS = (0.5, 0.25, 0.125)  # of the training set, beside the whole
EPOCHS, SEEDS, BATCH = 200, 3, 128
QUICK_EPOCHS, QUICK_SEEDS, QUICK_BATCH = 8, 1, 32


def benchmark(
    context: typer.Context,
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
        list[str] | None,
        typer.Option(help="Only these; by default the paper's, and maxnorm-mae for phonons."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, show_default=str(SEEDS), help="Trainings of each kind.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, show_default=str(EPOCHS))] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, show_default=str(BATCH))] = None,
    split_by: Annotated[
        list[SplitBy] | None,
        typer.Option(
            show_default="material",
            help="What is kept together in the split: a material, or its chemical system. With "
            "both, the tables of the second are beside those of the first.",
        ),
    ] = None,
    study: Annotated[list[Study] | None, typer.Option(help="Do this as well.")] = None,
    ablation_fraction: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=1,
            help="For the study of ablations: part of the training materials that these, and what "
            "they are compared with, are trained on.",
        ),
    ] = 1.0,
    subclass: Annotated[
        list[str] | None,
        typer.Option(
            help="For the study of subclasses: oxides, chalcogenides, halides, intermetallics, "
            "or elements such as Si,Ge of which a material has one; the four by default."
        ),
    ] = None,
    test: Annotated[
        list[Path] | None, typer.Option(help="Parquet files of labels to measure the models on.")
    ] = None,
    workers: options.Workers = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help=f"{QUICK_EPOCHS} epochs, {QUICK_SEEDS} seed by default: does it work?"
        ),
    ] = False,
    plots: Annotated[bool, typer.Option(help="Draw the figures too.")] = True,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Train every architecture under every setting, and write the tables of the paper.

    Tables go to OUT as benchmark.md, benchmark.json and .csv, figures as .png.
    """
    from models.data.splits import split_of
    from models.training.config import TrainingConfig
    from screening.benchmark.data import shared_dataset
    from screening.benchmark.figures import draw
    from screening.benchmark.report import Benchmark
    from screening.benchmark.runs import run_all
    from screening.benchmark.variants import plan_subclasses
    from screening.cli.console import print_json, stderr, stdout
    from workflows.hardware import worker_processes

    config = TrainingConfig(
        name="benchmark",
        target=target.value,
        labels=tuple(data),
        structures=structures,
        epochs=epochs or (QUICK_EPOCHS if quick else EPOCHS),
        batch_size=batch_size or (QUICK_BATCH if quick else BATCH),
    )
    splits = [s.value for s in dict.fromkeys(split_by or [SplitBy.material])]
    config, *others = (config.model_copy(update={"split_by": s}) for s in splits)
    studies = set(study or ())
    remarks = stderr(quiet)
    variants, dataset = _variants(architecture), shared_dataset(config)
    for other in others:
        split_of(dataset, other.split_seed, other.split_by)  # refuses too few materials at once
    usual = EDOS_SETTINGS if target is Target.edos else PHDOS_SETTINGS
    settings = _settings(setting, usual, dataset)
    n_seeds = seeds or (QUICK_SEEDS if quick else SEEDS)
    runs = _runs(variants, settings, n_seeds, studies, ablation_fraction)
    runs = _suited(runs, dataset.grid, architecture or [])
    if Study.ablations in studies and (lacking := _without_ablations(variants)):
        remarks.print(f"no ablations are known of {', '.join(lacking)}")
    whole = [run for run in runs if run == run.whole]
    subclasses = []
    if Study.subclass in studies:
        subclasses = _subclasses(config, runs[0], subclass or [], remarks.print)
        runs += plan_subclasses([run for run in whole if run.variant in variants], subclasses)
    n_runs = len(runs) + len(others) * len(whole)
    remarks.print(
        f"{len(dataset)} materials, {len(dataset.left_out)} left out, {n_runs} trainings "
        f"of {config.epochs} epochs"
    )
    announce = _announcer(remarks.print, n_runs)
    processes = workers or worker_processes()
    with resumable("what is finished is kept, and the same command goes on"):
        results = run_all(config, runs, out / "runs", processes, announce)
        beside_results = [
            run_all(other, whole, out / "runs", processes, announce) for other in others
        ]
    beside = [
        Benchmark(other, of_split, (), out)
        for other, of_split in zip(others, beside_results, strict=True)
    ]
    command = _command_line(context)
    outcome = Benchmark(config, results, tuple(subclasses), out, beside, command)
    if Study.errors in studies:
        outcome.add_errors()
    if Study.unrelaxed in studies:
        outcome.add_unrelaxed()
    if test:
        outcome.add_external(test)
    outcome.write()
    if plots:
        draw(outcome)
    if json:
        print_json(outcome.document)
    else:
        stdout().print(outcome.report, highlight=False, soft_wrap=True)


# The results do not depend on them.
UNPRINTED = {"out", "workers", "json", "quiet", "verbose", "debug", "log"}


def _command_line(context: typer.Context) -> str:
    """The command that gives these results, without where they go and how they are shown."""
    from screening.benchmark.report import path_as_shown

    parts = [context.command_path]
    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name)
        if name in UNPRINTED or given is None or given.name == "DEFAULT":
            continue
        value = context.params[name]
        if isinstance(value, bool):
            parts += (parameter.opts if value else parameter.secondary_opts)[:1]
            continue
        for each in value if isinstance(value, (list, tuple)) else [value]:
            option = parameter.opts[:1] if parameter.param_type_name == "option" else []
            text = str(path_as_shown(each) if isinstance(each, Path) else each)
            parts += [*option, shlex.quote(text)]
    return " ".join(parts)


def _variants(names: list[str] | None) -> list[Variant]:
    from screening.benchmark.variants import ARCHITECTURE_VARIANTS
    from screening.errors import ScreeningError

    by_name = {variant.name: variant for variant in ARCHITECTURE_VARIANTS}
    unknown = [name for name in names or () if name not in by_name]
    if unknown:
        known = ", ".join(by_name)
        raise ScreeningError(f"unknown architecture {unknown[0]!r}; there are {known}")
    return [by_name[name] for name in names or by_name]


def _settings(
    names: list[str] | None, default: tuple[str, ...], dataset: SpectrumDataset
) -> tuple[str, ...]:
    """The chosen settings; by default those of the paper that the labels are sufficient for."""
    from models.data.dataset import refuse_settings, usable_settings
    from models.spectra.settings import SETTINGS as KNOWN
    from screening.errors import ScreeningError

    unknown = [name for name in names or () if name not in KNOWN]
    if unknown:
        raise ScreeningError(f"unknown setting {unknown[0]!r}; use {', '.join(KNOWN)}")
    refuse_settings(dataset, names or ())
    return tuple(names or (s for s in default if s in usable_settings(dataset)))


def _runs(
    variants: list[Variant],
    settings: tuple[str, ...],
    seeds: int,
    studies: set[Study],
    ablation_fraction: float,
) -> list[BenchmarkRun]:
    """The first seed of everything first."""
    from screening.benchmark.variants import ABLATION_VARIANTS, plan

    sizes = FRACTIONS if Study.size in studies else ()
    of_ablations = (ablation_fraction,) if Study.ablations in studies else ()
    of_these = {variant.architecture for variant in variants}
    ablated = [variant for variant in ABLATION_VARIANTS if variant.architecture in of_these]
    runs = plan(variants, settings, seeds, tuple(dict.fromkeys((1.0, *sizes, *of_ablations))))
    runs += plan(ablated, settings, seeds, of_ablations)
    return sorted(runs, key=lambda run: run.seed)


def _without_ablations(variants: list[Variant]) -> list[str]:
    from screening.benchmark.variants import ABLATION_VARIANTS

    ablated = {variant.architecture for variant in ABLATION_VARIANTS}
    return [variant.name for variant in variants if variant.architecture not in ablated]


def _suited(runs: list[BenchmarkRun], grid: EnergyGrid, chosen: list[str]) -> list[BenchmarkRun]:
    """The runs whose architecture predicts such spectra; each that was chosen has to have one."""
    from models.architectures.registry import unsuited
    from models.spectra.settings import SETTINGS as KNOWN
    from screening.errors import ScreeningError

    reasons = [unsuited(run.variant.architecture, KNOWN[run.setting], grid) for run in runs]
    suited = [run for run, reason in zip(runs, reasons, strict=True) if not reason]
    lacking = set(chosen) - {run.variant.name for run in suited}
    for run, reason in zip(runs, reasons, strict=True):
        if run.variant.name in lacking:
            raise ScreeningError(reason)
    return suited


def _subclasses(
    config: TrainingConfig, run: BenchmarkRun, names: list[str], say: Callable[[str], None]
) -> list[Subclass]:
    """The chosen subclasses; by default those with enough materials."""
    from models.errors import ModelError
    from screening.benchmark.data import shared_dataset, split_for
    from screening.benchmark.subclasses import SUBCLASSES, subclass_of

    dataset, usable = shared_dataset(config), []
    for subclass in map(subclass_of, dict.fromkeys(names or SUBCLASSES)):
        try:
            split_for(dataset, config, run.model_copy(update={"subclass": subclass}))
        except ModelError as error:
            if names:
                raise
            say(f"without {error}")
        else:
            usable.append(subclass)
    return usable


def _announcer(say: Callable[[str], None], total: int) -> Callable[[RunResult, bool], None]:
    done = 0

    def announce(result: RunResult, new: bool) -> None:
        nonlocal done
        done += 1
        figures = ", ".join(f"{k} {v:.4g}" for k, v in result.figures.items())
        took = f"{result.seconds:.0f} s" if new else "kept"
        say(f"[{done}/{total}] {result.run.title}: {figures} ({took})")
        for remark in result.remarks:
            say(f"  {remark}")

    return announce
