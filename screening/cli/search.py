"""`screen search`, `learn` and `rounds`: a model that learns from the DFT of what it found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from screening.cli import options
from screening.cli.invocation import resumable
from screening.cli.validate import Budget, ChosenBy, Engine, validate_locally

if TYPE_CHECKING:
    from collections.abc import Sequence

    from db.documents import DifferenceDoc, FiguresDoc, RoundDoc, Run
    from db.store import ScreeningStore
    from screening.cli.rows import RoundRow
    from workflows.active_search import ActiveSearchFlowMaker
    from workflows.learning import Learning

AGAIN = "the same command goes on from here"

RunArgument = Annotated[
    str | None, typer.Argument(help="Id of a run, or how it begins; the newest by default.")
]
Labels = Annotated[
    list[Path] | None,
    typer.Option(
        help="Parquet files of the labels that the model was trained on; its test part is theirs. "
        "By default those that come with the package."
    ),
]
Structures = Annotated[
    Path | None,
    typer.Option(
        help="Parquet file with the structures of these labels; by default the source of the run, "
        "if it is such a file."
    ),
]
Epochs = Annotated[int, typer.Option(min=1, help="Of the fine-tuning.")]
FromScratch = Annotated[
    Path | None,
    typer.Option(
        "--from-scratch",
        metavar="CONFIG",
        help="Train anew instead of fine-tuning, as this file of `screen train` says.",
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Keep the new model even if it is worse.")]


def learn(
    run: RunArgument = None,
    labels: Labels = None,
    structures: Structures = None,
    epochs: Epochs = 30,
    from_scratch: FromScratch = None,
    force: Force = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the new model; by default beside the database."),
    ] = None,
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Let the model of a run learn from its finished validations, and judge the candidates again.

    The model is fine-tuned on its old labels and those of DFT. No test material is among them, so
    that the figures before and after are comparable; the new model is kept only if it is not
    worse by more than a standard error. The candidates that are left are then judged in a next
    run, which names the first as its parent. Called again, it goes on where it was interrupted.
    """
    from db.open import open_store
    from screening.cli.console import stderr
    from screening.cli.stored import existing, find_run
    from workflows.active_search import ActiveSearchFlowMaker, round_of_validations

    with open_store(existing(db)) as store:
        stored = find_run(store, run)
        learning = _learning(stored, labels, structures, epochs, from_scratch, force)
        document = round_of_validations(store, stored, options.models_folder(db), out)
    maker = ActiveSearchFlowMaker(db=db, learning=learning)
    document = _learn_here(maker, document, stderr(quiet))
    _show_round(db, document, as_json)


def search(
    run: RunArgument = None,
    rounds: Annotated[
        int, typer.Option(min=1, help="Go on until the search has so many rounds.")
    ] = 1,
    per_round: Annotated[
        int, typer.Option(min=0, help="Predicted positives that each round calculates at most.")
    ] = 10,
    random: Annotated[
        int, typer.Option(min=0, help="Random predicted negatives of each round.")
    ] = 0,
    strategy: ChosenBy = "best",
    budget: Budget = None,
    engine: Engine = "gpaw",
    preset: Annotated[
        Literal["fast", "standard", "accurate"] | None,
        typer.Option(help="Of GPAW; standard by default."),
    ] = None,
    wall_time: options.WallTime = None,
    out_of_domain: Annotated[
        bool, typer.Option("--out-of-domain", help="Also what the model cannot know.")
    ] = False,
    labels: Labels = None,
    structures: Structures = None,
    epochs: Epochs = 30,
    from_scratch: FromScratch = None,
    force: Force = False,
    models: Annotated[
        Path | None,
        typer.Option(help="Folder for the models that learned; by default beside the database."),
    ] = None,
    where: options.Where = "local",
    workers: Annotated[int, typer.Option(min=1, help="Local calculations at a time.")] = 1,
    launchpad: options.LaunchPadFile = options.DEFAULT_LAUNCHPAD,
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    wide: options.Wide = False,
) -> None:
    """Search in rounds: choose candidates, calculate them, learn, and judge all that are left.

    Called again, it goes on where it was interrupted, until there are as many rounds as asked for.
    """
    from db.open import open_store
    from screening.cli.console import stderr
    from screening.cli.stored import existing, find_run
    from screening.errors import ScreeningError
    from workflows.active_search import ActiveSearchFlowMaker, begin_round, rounds_of
    from workflows.dos.engines import dos_maker

    given = {"preset": preset, "wall_time_limit": wall_time}
    engine_options = {name: value for name, value in given.items() if value is not None}
    with open_store(existing(db)) as store:
        stored = find_run(store, run)
    maker = ActiveSearchFlowMaker(
        db=db,
        dos_maker=dos_maker(engine, **engine_options),
        choice={
            "limit": per_round,
            "n_random": random,
            "strategy": strategy,
            "budget": budget,
            "in_domain": not out_of_domain,
        },
        learning=_learning(stored, labels, structures, epochs, from_scratch, force),
        rounds=rounds,
        models=str(models or options.models_folder(db)),
    )
    remarks = stderr(quiet)
    if where == "launchpad":
        first = _submit(launchpad, maker, stored.run_id)
        remarks.print(f"search of run {first} submitted; `screen rounds` shows how far it is")
        if as_json:
            _show_rounds(db, first, None, as_json, wide)
        return
    if lacking := maker.dos_maker.missing():
        raise ScreeningError("; ".join(lacking))
    is_first = True
    while True:
        with open_store(db) as store:
            known = rounds_of(store, store.run(stored.run_id))
            is_complete = len(known) >= rounds and known[-1].state == "done"
            if is_complete and not is_first:
                break
            document = begin_round(store, stored.run_id, maker)
        is_first = False
        _calculate(maker, document, workers, quiet)
        _learn_here(maker, document, remarks)
    _show_rounds(db, stored.run_id, None, as_json, wide)


def rounds(
    run: RunArgument = None,
    out: options.Out = None,
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
    wide: options.Wide = False,
) -> None:
    """List the rounds of a search: what was chosen and found, and what the model learned from it.

    Without a run those of all searches.
    """
    from screening.cli.stored import existing

    _show_rounds(existing(db), run, out, as_json, wide)


def _learning(
    run: Run,
    labels: list[Path] | None,
    structures: Path | None,
    epochs: int,
    from_scratch: Path | None,
    force: bool,
) -> Learning:
    """How to learn, with paths that hold in any folder.

    Raises
    ------
    ScreeningError
        If a file is missing, or there are no structures for the labels.
    """
    from models.data.label_files import has_structures
    from models.zoo import ZOO
    from screening.errors import ScreeningError
    from workflows.learning import Learning

    files = labels or [ZOO.parent / "data" / "edos_labels.parquet"]
    source = Path(str(run.parameters.get("source", "")))
    if structures is None and source.suffix == ".parquet" and source.is_file():
        structures = source
    for file in filter(None, (*files, structures, from_scratch)):
        if not file.is_file():
            raise ScreeningError(f"{file}: no such file")
    if structures is None and not all(has_structures(file) for file in files):
        raise ScreeningError(
            f"{', '.join(file.name for file in files)}: labels without structures; "
            "--structures names a parquet file that has them"
        )
    return Learning(
        tuple(str(file.absolute()) for file in files),
        structures=str(structures.absolute()) if structures else None,
        epochs=epochs,
        from_scratch=str(from_scratch.absolute()) if from_scratch else None,
        force=force,
    )


def _submit(file: Path, maker: ActiveSearchFlowMaker, run_id: str) -> str:
    """Begin the round, which tells the user what is wrong, and submit it; id of the first run."""
    from db.open import open_store
    from workflows.active_search import begin_round
    from workflows.launchpad import open_launchpad, submit_search

    with open_launchpad(file) as launchpad, open_store(maker.db) as store:
        first = begin_round(store, run_id, maker).run_id
        submit_search(launchpad, maker, first)
    return first


def _calculate(maker: ActiveSearchFlowMaker, document: RoundDoc, workers: int, quiet: bool) -> None:
    """What is left of the calculations of a round."""
    from db.open import open_store
    from screening.cli.console import stderr
    from workflows.active_search import calculations_left

    with open_store(maker.db) as store:
        todo = calculations_left(store, document, maker.dos_maker)
    n = len(document.chosen) + len(document.controls)
    stderr(quiet).print(
        f"Round {document.number} in run {document.chosen_in}: {n} chosen, {len(todo)} to "
        f"calculate with {document.recipe}"
    )
    if todo:
        validate_locally(maker.validation_maker(), todo, workers, quiet)


def _learn_here(maker: ActiveSearchFlowMaker, document: RoundDoc, remarks: Any) -> RoundDoc:
    """Learn and judge in this process; the round as it is then."""
    from db.collections import ROUNDS
    from db.open import open_store
    from screening.cli.console import progress_bars
    from workflows.local import run_flow
    from workflows.progress import reporting_to

    remarks.print(f"Round {document.number}: the model learns")
    with (
        resumable(AGAIN),
        progress_bars(remarks.quiet) as report,
        reporting_to(report),
    ):
        run_flow(maker.make_learning(document))
    with open_store(maker.db) as store:
        (ended,) = store.lookup(ROUNDS, [document.key])
        remarks.print(_in_words(ended, store.run(ended.chosen_in)))
    return ended


def _in_words(document: RoundDoc, run: Run) -> str:
    """What a round that chose among the candidates of this run came to, in some lines."""
    from screening.criteria.gap_criterion import gap_title
    from screening.report.words import by_criterion, criterion_name

    title = gap_title(criterion_name(run))
    found = f"have a {title}" if title else f"are positive{by_criterion(run)}"
    n_found, n = len(document.found), document.n_calculated
    lines = [f"Round {document.number}: {n_found} of {n} calculated {found}"]
    if document.remark:
        lines.append(f"Nothing learned: {document.remark}")
    learned = document.learned
    if document.before and document.after and document.difference:
        n_tested = learned.get("test", 0)
        lines.append(
            f"Learned {learned.get('training', 0) + learned.get('validation', 0)} labels "
            f"({learned.get('validation', 0)} of them to choose the epoch by); {n_tested} kept out "
            f"as test materials, {len(document.left_out) - n_tested} are no labels"
        )
        lines.append(f"On {document.before.n} test materials before: {_figures(document.before)}")
        lines.append(f"after: {_figures(document.after)}")
        lines.append(f"after less before: {_difference(document.difference)}")
        kept = f"kept, {document.checkpoint}" if document.is_kept else "not kept: it is worse"
        lines.append(f"The new model is {kept}")
    return "\n".join([*lines, f"The candidates that are left are in run {document.next_run_id}"])


def _figures(figures: FiguresDoc) -> str:
    return (
        f"WD {figures.wd:.4f} ± {figures.wd_error:.4f} eV, MAE {figures.mae:.4f} ± "
        f"{figures.mae_error:.4f} states/eV/cell, VB gaps: {figures.tp} found, "
        f"{figures.fp} false, {figures.fn} missed"
    )


def _difference(difference: DifferenceDoc) -> str:
    return (
        f"WD {difference.wd:+.4f} ± {difference.wd_error:.4f} eV, MAE {difference.mae:+.4f} ± "
        f"{difference.mae_error:.4f} states/eV/cell"
    )


def _show_round(db: str, document: RoundDoc, as_json: bool) -> None:
    _show_rounds(db, document.run_id, None, as_json, wide=False, number=document.number)


def _show_rounds(
    db: str, run: str | None, out: Path | None, as_json: bool, wide: bool, number: str | None = None
) -> None:
    from db.open import open_store
    from screening.cli.rows import RoundRow, deliver
    from screening.cli.stored import find_run
    from workflows.active_search import rounds_of

    with open_store(db) as store:
        documents = store.rounds() if run is None else rounds_of(store, find_run(store, run))
        rows = [_row(store, d) for d in documents if number in (None, d.number)]
    deliver(RoundRow, rows, lambda: _rounds_table(rows), out, as_json, wide)


def _row(store: ScreeningStore, document: RoundDoc) -> RoundRow:
    from screening.cli.rows import RoundRow

    return RoundRow.of(document, store.run(document.chosen_in))


def _rounds_table(rows: Sequence[RoundRow]) -> Any:
    from models.zoo import model_name
    from screening.cli.console import ago, table_of
    from screening.cli.fitting_table import Column

    columns: dict[Column, Any] = {
        Column("run"): "run_id",
        Column("round"): "number",
        Column("begun", 6): lambda row: ago(row.created_at),
        Column("state"): "state",
        Column("chosen by", 5): "chosen_by",
        Column("calculated", 2): "n_calculated",
        Column("positive", 1): "n_found",
        Column("learned", 3): "n_learned",
        Column("kept out", 7): "n_kept_out",
        Column("WD eV before", 2): lambda row: _digits(row.wd_before),
        Column("after", 2): lambda row: _digits(row.wd_after),
        Column("kept", 1): "is_kept",
        Column("model after", 4): lambda row: model_name(row.new_model_id or row.model_id),
        Column("next run", 5): "next_run_id",
    }
    if any(row.error or row.remark for row in rows):
        columns[Column("remark", 1, folds=True)] = lambda row: row.error or row.remark
    return table_of(f"{len(rows)} rounds", columns, rows)


def _digits(error: float | None) -> str | None:
    """As many as the difference of two models needs."""
    return None if error is None else f"{error:.4f}"
