"""The commands, each in a file of its own; nothing heavy is imported before one runs."""

from __future__ import annotations

from collections.abc import Callable

import typer

from screening.cli import (
    benchmark,
    calibrate,
    candidates,
    config,
    criteria,
    dashboard,
    database,
    distill,
    doctor,
    export,
    fetch,
    figures,
    history,
    models,
    predict,
    report,
    run,
    search,
    show,
    similar,
    train,
    validate,
    worker,
)
from screening.cli.invocation import program
from screening.cli.logs import logged

EXAMPLES = {
    "run": (
        "run --source prototypes --limit 100",
        "run --source structures/ --max-ehull inf --unknown keep",
        "run --elements Mg --max-sites 10 --min-width 1.5",
        "run --source structures.parquet --rescore 0",
        "run --source structures.parquet --criterion phonon-gap",
        "run --source structures.parquet --resume",
    ),
    "runs": ("runs", "runs --out runs.csv"),
    "candidates": (
        "candidates --elements Mg --min-width 1.5 --out mg.parquet",
        "candidates --to-validate",
        "candidates --state failed",
    ),
    "show": ("show mp-149", "show mp-149 --plot mp-149.pdf"),
    "report": ("report", "report --run 20260131 -o mg.html --near-misses 100"),
    "similar": ("similar mp-149 --limit 20",),
    "history": ("history mp-149",),
    "predict": (
        "predict my.cif",
        "predict POSCAR other.cif --json",
        "predict my.cif --plot my.pdf",
    ),
    "validate": (
        "validate --engine gpaw --limit 10 --random 10",
        "validate --limit 10 --strategy random --where launchpad",
        "validate --strategy budget --budget 40h --random 20",
    ),
    "status": ("status", "status --rerun-failed"),
    "worker": ("worker", "worker --category prediction --device cuda:1 --workers 8"),
    "metrics": ("metrics", "metrics --json"),
    "learn": ("learn --structures structures.parquet", "learn 20260131 --labels my-labels.parquet"),
    "search": (
        "search --rounds 2 --per-round 8 --random 2 --structures structures.parquet",
        "search --rounds 5 --where launchpad --engine vasp --labels vasp.parquet",
    ),
    "rounds": ("rounds", "rounds --out rounds.csv"),
    "train": ("train my-training.yaml --labels edos.parquet", "train my-training.yaml --resume"),
    "distill": ("distill structures.parquet taught.parquet --max-sites 20",),
    "calibrate": (
        "calibrate my-predictor --labels edos.parquet",
        "calibrate mat2spec-plus-edos --labels edos.parquet --labels more.parquet",
    ),
    "benchmark": ("benchmark phdos --data phdos.parquet --quick",),
    "export": (
        "export --run 20260131 -o screening.zip",
        "export --mpcontribs contributions.json.gz --project my_project",
    ),
    "figures": ("figures", "figures --run 20260131 --out paper/figures"),
    "dashboard": ("dashboard", "dashboard --db screening.sqlite --port 8051"),
    "config": ("config", "config --db other.sqlite"),
    "criteria": ("criteria", "criteria steep-edge", "criteria my-criterion.yaml"),
    "doctor": ("doctor",),
    "edos": ("fetch edos edos.parquet",),
    "phdos": ("fetch phdos phdos.parquet --method dfpt",),
    "copy": ("db copy screening.sqlite other.sqlite", "db copy screening.zip other.sqlite"),
    "show_model": ("models show mat2spec-plus-edos", "models springs-phdos --json"),
    "pull_model": (
        "models pull hf:owner/repository",
        "models pull hf:owner/repository@v1.0 --as theirs",
        "models pull shared/model",
    ),
    "push_model": (
        "models push my-model hf:owner/repository --license cc-by-4.0 --private",
        "models push my-model shared/model --license mit",
    ),
    "migrate": ("db migrate --db screening.sqlite",),
}


def _examples(name: str) -> str:
    return "\n\n".join(["Examples:", *(f"{program()} {line}" for line in EXAMPLES[name])])


app = typer.Typer(
    help="Find materials with a gap just below the Fermi level: predict the eDOS of thousands of "
    "crystals, and keep those worth a DFT calculation.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback()(config.apply_settings)


def _add(name: str, command: Callable[..., None]) -> None:
    kind = getattr(command, "command_class", None)
    app.command(name, cls=kind, epilog=_examples(name))(logged(command))


_add("run", run.run)
_add("runs", history.runs)
_add("candidates", candidates.candidates)
_add("show", show.show)
_add("report", report.report)
_add("similar", similar.similar)
_add("history", history.history)
_add("dashboard", dashboard.dashboard)
_add("predict", predict.predict)
_add("validate", validate.validate)
_add("status", validate.status)
_add("worker", worker.worker)
_add("metrics", validate.metrics)
_add("figures", figures.figures)
_add("export", export.export)
_add("learn", search.learn)
_add("search", search.search)
_add("rounds", search.rounds)
app.add_typer(fetch.app, name="fetch")
_add("distill", distill.distill)
_add("train", train.train)
_add("calibrate", calibrate.calibrate)
_add("benchmark", benchmark.benchmark)
app.add_typer(models.app, name="models")
app.add_typer(database.app, name="db")
_add("criteria", criteria.criteria)
_add("config", config.config)
_add("doctor", doctor.doctor)
for group in (fetch.app, models.app, database.app):
    for entry in group.registered_commands:
        if entry.callback is not None:
            entry.epilog = _examples(entry.callback.__name__)
            entry.callback = logged(entry.callback)
