"""`screen run`: from a source of structures to a list of positives."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from screening.cli import logs, options
from screening.cli.invocation import InterruptionError, program

if TYPE_CHECKING:
    from db.documents import Run
    from db.store import ScreeningStore
    from screening.cli.rows import CandidateRow
    from workflows.screening import ScreeningFlowMaker

_FILTERS = "Filters"
PROTOTYPES = "prototypes"
CRITERION = "vb-gap"
LARGE = 1_000_000  # bytes of a table with some thousand rows
PROMPT_BACK = 0.7  # s for the last words of an interrupted run


@options.from_fields(
    filters=options.FieldOptions(
        "screening.filters:ScreeningFilters", _FILTERS, unset=("unknown",)
    ),
    criteria=options.GAP_CRITERIA,
)
def run(
    context: typer.Context,
    source: Annotated[
        str | None,
        typer.Option(
            help="mp (Materials Project), optimade:PROVIDER or optimade:https://... (any OPTIMADE "
            "database), prototypes (pymatgen's AFLOW prototypes), or a path: .parquet, .csv, "
            ".cif, POSCAR, .json, .xyz, ..., or a folder of them. "
            "Default: mp if there is a key, else prototypes."
        ),
    ] = None,
    *,
    filters: dict[str, Any],
    known_edos: Annotated[
        list[Path] | None,
        typer.Option(
            rich_help_panel=_FILTERS,
            help="File of the material_ids whose DFT DOS is known: .parquet, .csv, .json or text; "
            "several times for several files.",
        ),
    ] = None,
    optimade_filter: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_FILTERS,
            help='For optimade: sources, in OPTIMADE\'s language: \'elements HAS ANY "Nb","O"\'.',
        ),
    ] = None,
    recursive: options.Recursive = False,
    limit: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=_FILTERS, help="Stop when so many candidates have passed the filters."
        ),
    ] = None,
    criterion: Annotated[
        str,
        typer.Option(
            help="What is looked for: one of `screen criteria`, or a .yaml file of your own.",
        ),
    ] = CRITERION,
    criteria: dict[str, Any],
    keep_cell: options.KeepCell = False,
    checkpoint: options.Checkpoint = None,
    rescore: options.Rescore = None,
    rescore_with: Annotated[
        str,
        typer.Option(help="Predictor for --rescore, as --checkpoint: slower and nearer to DFT."),
    ] = "tight-binding-edos",
    device: options.Device = "auto",
    workers: options.Workers = None,
    shard_size: Annotated[
        int | None,
        typer.Option(
            min=1, help="Candidates of a scoring job. Default: 2,000, on a launchpad 20,000."
        ),
    ] = None,
    mp_api_key_file: options.MpApiKeyFile = None,
    refresh: options.Refresh = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Finish the last run with the same options.")
    ] = False,
    where: options.Where = "local",
    launchpad: options.LaunchPadFile = options.DEFAULT_LAUNCHPAD,
    top: Annotated[int, typer.Option(min=0, help="Positives to print.")] = 50,
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Screen the structures of a source and store predictions and verdicts.

    What could not be judged is named at the end; the command exits with 1 if that is all of it.
    """
    if limit is not None and limit < 1:
        from screening.errors import ScreeningError

        raise ScreeningError(f"--limit {limit}: must be 1 or more")
    if where == "local" and criterion == CRITERION and source is not None:
        _start_process(checkpoint, device, workers, source, db)  # before anything is imported here
    from screening.cli.console import stderr
    from screening.criteria.registry import default_predictor, find_criterion
    from screening.sources import is_path
    from workflows.hardware import worker_processes
    from workflows.runs import new_run_id

    if criterion != CRITERION:
        criteria = options.typed(context, criteria)
    is_rescore_typed = bool(options.typed(context, {"rescore": rescore}))
    remarks = stderr(quiet)
    if source is None:
        source = _default_source(mp_api_key_file, remarks.print)
    predictor = checkpoint or default_predictor(find_criterion(criterion, criteria))
    if checkpoint is None and Path(predictor).is_dir():
        remarks.print(f"The folder {predictor} here is used, not the shipped predictor")
    maker = _maker(
        db=db,
        source=str(Path(source).resolve()) if is_path(source) else source,
        source_options=_source_options(
            source,
            known_edos=known_edos,
            key_file=mp_api_key_file,
            refresh=refresh,
            recursive=recursive,
            optimade_filter=optimade_filter,
        ),
        filters={"unknown": "drop" if source == "mp" else "keep"} | filters,
        criteria=criteria,
        criterion=criterion,
        checkpoint=predictor,
        rescore=rescore,
        is_rescore_typed=is_rescore_typed,
        rescore_with=rescore_with,
        device=device,
        workers=workers or worker_processes(),
        shard_size=shard_size or _shard_size(where),
        limit=limit,
        keep_cell=keep_cell,
    )
    _check(maker, device if where == "local" else "auto")
    run_id = _resumed(maker, is_rescore_typed) if resume else new_run_id()
    if where == "launchpad":
        _submit(maker, run_id, launchpad)
        work = f"`{program()} worker` or `rlaunch -l {launchpad} rapidfire`"
        remarks.print(f"Run {run_id} submitted; {work} works it off")
        if as_json:
            _print_submitted(db, run_id)
        return
    remarks.print(f"Run {run_id} ({'resumed' if resume else 'new'})")
    logs.write_to(logs.log_file_of_run(db, run_id))
    _execute(maker, run_id, quiet)
    _report(db, run_id, top, as_json, quiet)


def _start_process(
    checkpoint: str | None, device: str, workers: int | None, source: str, db: str
) -> None:
    """Let another process load what much work begins with, while this one loads the rest.

    That is the model where all is new, and what reads where much is known.
    """
    from workflows.hardware import worker_processes

    table, n = Path(source), workers or worker_processes()
    if "://" in db or not table.is_file() or table.stat().st_size < LARGE or n < 2:
        return
    if Path(db).exists():
        from models.processes import prepare_streamed

        prepare_streamed("workflows.reading", "pyarrow.parquet")
        return
    from models.deferred_predictor import deferred_predictor
    from models.zoo import predictor_folder

    deferred_predictor(str(predictor_folder(checkpoint)), device).start(n)


def _shard_size(where: str) -> int:
    if where == "launchpad":
        from workflows.launchpad import SHARD_SIZE
    else:
        from workflows.screening import SHARD_SIZE
    return SHARD_SIZE


def _default_source(key_file: Path | None, remark: Any) -> str:
    from screening.sources.materials_project.client import NoKeyError, find_api_key

    try:
        find_api_key(key_file)
    except NoKeyError:
        if key_file is not None:
            raise
        remark(
            "No Materials Project key: screening pymatgen's AFLOW prototypes instead "
            "(`screen doctor` says how to get a key)."
        )
        return PROTOTYPES
    return "mp"


def _source_options(
    source: str,
    *,
    known_edos: list[Path] | None,
    key_file: Path | None,
    refresh: bool,
    recursive: bool,
    optimade_filter: str | None,
) -> dict[str, Any]:
    """Options as plain values: they become part of the job specifications."""
    from screening.errors import ScreeningError
    from screening.sources import is_database, is_path
    from screening.sources.optimade import is_optimade
    from screening.sources.optimade.providers import check_address

    check_address(source)
    given: dict[str, Any] = {}
    if known_edos:
        files = sorted({str(path.resolve()) for path in known_edos})
        given["known_edos"] = files[0] if len(files) == 1 else files
    if recursive and is_path(source):
        given["recursive"] = True
    if is_database(source):
        given["refresh"] = refresh
    if source == "mp" and key_file is not None:
        given["api_key_file"] = str(key_file.resolve())
    if optimade_filter is not None:
        if not is_optimade(source):
            raise ScreeningError(
                f"--optimade-filter is for --source optimade:PROVIDER, not for {source}"
            )
        given["optimade_filter"] = optimade_filter
    return given


def _maker(
    *,
    checkpoint: str | None,
    rescore: int | None,
    is_rescore_typed: bool,
    rescore_with: str,
    **fields: Any,
) -> ScreeningFlowMaker:
    from models.zoo import predictor_folder
    from screening.second_predictor import n_unless_asked
    from workflows.screening import ScreeningFlowMaker

    first, second = predictor_folder(checkpoint), predictor_folder(rescore_with)
    if not is_rescore_typed:
        rescore = n_unless_asked(first, second, preferred=rescore)
    return ScreeningFlowMaker(
        checkpoint=str(first), rescore=rescore, rescore_with=str(second), **fields
    )


def _check(maker: ScreeningFlowMaker, device: str) -> None:
    """Refuse at once what would end the run later."""
    from workflows.checkpoints import check_checkpoints
    from workflows.reading import known_ids

    parameters = maker.parameters()  # checks filters and criterion
    options.check_folder_of(maker.db)
    known_ids(maker.source_options.get("known_edos"))
    check_checkpoints(parameters)
    if device not in ("auto", "cpu"):
        from models.predictor import usable_device

        usable_device(device)


def _resumed(maker: ScreeningFlowMaker, is_rescore_typed: bool) -> str:
    """Id of the run that the maker is to finish; one without a second model goes on without."""
    from workflows.rescoring import RESCORING
    from workflows.runs import resumable_run

    may_lack = () if is_rescore_typed else RESCORING
    run = resumable_run(maker.db, maker.parameters(), may_lack)
    if "rescore" not in run.parameters:
        maker.rescore = 0
    return run.run_id


def _submit(maker: ScreeningFlowMaker, run_id: str, launchpad: Path) -> None:
    from workflows.launchpad import open_launchpad, submit_screening
    from workflows.runs import note_submission

    with open_launchpad(launchpad) as pad:
        # In this order, dying in between leaves a run that --resume submits.
        note_submission(maker.db, run_id, maker.parameters())
        submit_screening(pad, maker, run_id)


def _print_submitted(db: str, run_id: str) -> None:
    from db.open import open_store
    from screening.cli.console import print_json

    with open_store(db) as store:
        print_json(_summary(store.run(run_id), []))


def _execute(maker: ScreeningFlowMaker, run_id: str, quiet: bool) -> None:
    """Run the flow in this process."""
    from screening.cli.console import progress_bars
    from workflows.local import run_flow
    from workflows.progress import reporting_to

    flow = maker.make(run_id)
    try:
        with progress_bars(quiet) as report, reporting_to(report):
            run_flow(flow)
    except KeyboardInterrupt:
        logs.log.info("interrupted")
        _note_interruption(maker.db, run_id)
        raise InterruptionError("the same command with --resume goes on from here") from None


def _note_interruption(db: str, run_id: str) -> None:
    """Note it in the store; the user does not wait for a store that does not answer."""
    from contextlib import suppress
    from threading import Thread

    from workflows.runs import note_interruption

    def note() -> None:
        with suppress(Exception):
            note_interruption(db, run_id)

    noting = Thread(target=note, daemon=True)
    noting.start()
    noting.join(PROMPT_BACK)


def _report(db: str, run_id: str, top: int, as_json: bool, quiet: bool) -> None:
    from db.open import open_store
    from screening.cli.console import print_json, stderr, stdout
    from screening.cli.rows import CandidateRow

    with open_store(db) as store:
        run = store.run(run_id)
        failures = {c.material_id: c.reason for c in store.candidates(run_id, state="failed")}
        best = store.candidates(
            run_id, is_positive=True, sort_by="score", descending=True, limit=max(top, 1)
        )
        positives = [CandidateRow.of(candidate, run) for candidate in best][:top]
        if as_json:
            print_json(_summary(run, positives) | {"failures": failures})
        else:
            remarks = stderr(quiet)
            remarks.print(_source_in_words(run))
            remarks.print(funnel_table(run))
            remarks.print(_counts(run))
            if run.second_model_id is not None:
                remarks.print(_rescoring(run, run.second_model_id))
            stdout().print(positives_table(run, positives))
            _warn_of_extrapolation(store, run, remarks)
            for attribution in sorted({row.attribution for row in positives if row.attribution}):
                remarks.print(attribution)
    if failures:
        _name_failures(run, failures)


def _name_failures(run: Run, failures: dict[str, str | None]) -> None:
    """Say what could not be judged; an error if nothing could be."""
    from screening.cli.console import name_failures

    structures = "structures" if len(failures) > 1 else "structure"
    what = f"{len(failures)} {structures} could not be judged"
    name_failures(what, failures, f"candidates --state failed --run {run.run_id}")
    if not run.counts.get("screened"):
        raise typer.Exit(1)


def _source_in_words(run: Run) -> str:
    """The source, how old what it says is, and what was noted when it was read."""
    from screening.cli.console import ago

    words = str(run.source.get("description", ""))
    if retrieved := run.source.get("retrieved"):
        words += f", retrieved {ago(datetime.fromisoformat(retrieved))} (--refresh asks again)"
    return "\n".join([words, *run.source.get("notes", [])])


def _summary(run: Run, positives: list[CandidateRow]) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "state": run.state,
        "model_id": run.model_id,
        "second_model_id": run.second_model_id,
        "source": run.source,
        "parameters": run.parameters,
        "funnel": [count.model_dump() for count in run.funnel],
        "counts": run.counts,
        "positives": [asdict(row) for row in positives],
    }


def funnel_table(run: Run) -> Any:
    """How many came in, and what each filter did."""
    from screening.cli.console import table

    rows = [
        (count.name, count.entered, count.dropped, count.unknown, count.entered - count.dropped)
        for count in run.funnel
    ]
    return table("Funnel", ("filter", "in", "dropped", "could not judge", "left"), rows)


def _counts(run: Run) -> str:
    counts = run.counts
    return (
        f"{counts.get('screened', 0):,} screened, {counts.get('positive', 0):,} positive, "
        f"{counts.get('failed', 0):,} without a prediction"
    )


def _rescoring(run: Run, second: str) -> str:
    """What the second model made of the verdicts of the first."""
    from models.zoo import model_name

    counts = run.counts
    n, lost, won, refused = (counts.get(n, 0) for n in ("rescored", "lost", "won", "refused"))
    words = f"{n:,} of them judged again by {model_name(second)}"
    if n:
        words += f": {lost:,} no longer positive, {won:,} now positive"
    if refused:
        first = model_name(run.model_id or "")
        words += f"; {refused:,} refused, still with the verdict of {first}"
    return words


def positives_table(run: Run, positives: list[CandidateRow]) -> Any:
    """Table of the predicted positives.

    Parameters
    ----------
    run : Run
    positives : list of CandidateRow
        Best first.
    """
    from screening.cli.candidates import candidates_table
    from screening.report.words import by_criterion, has_gaps

    n = len(run.selection)
    shown = "" if n <= len(positives) else f", the best {len(positives)}"
    return candidates_table(
        f"{n} predicted positives{by_criterion(run)}{shown}", positives, has_gaps(run)
    )


def _warn_of_extrapolation(store: ScreeningStore, run: Run, remarks: Any) -> None:
    from workflows.domains import domains

    if run.selection:
        remarks.print(domains(store, run.run_id).in_words())
