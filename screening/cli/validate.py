"""`screen validate`, `status` and `metrics`: DFT for the positives, and how right they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from screening.cli import options

if TYPE_CHECKING:
    from db.documents import CandidateDoc
    from db.store import ScreeningStore
    from workflows.validation import Metrics, ValidationFlowMaker, ValidationPlan


def validate(
    run: options.RunId = None,
    engine: Annotated[Literal["gpaw", "vasp"], typer.Option(help="DFT program.")] = "gpaw",
    preset: Annotated[
        Literal["fast", "standard", "accurate"] | None,
        typer.Option(help="Of GPAW; standard by default."),
    ] = None,
    relax: Annotated[
        bool | None,
        typer.Option(
            help="Relax first, or never; by default VASP relaxes what another functional than PBE "
            "has relaxed (r2SCAN), GPAW nothing."
        ),
    ] = None,
    random: Annotated[
        int, typer.Option(min=0, help="Random predicted negatives, to estimate recall.")
    ] = 49,
    limit: Annotated[
        int | None, typer.Option(min=0, help="Positives at most; all by default.")
    ] = None,
    draw: Annotated[
        Literal["best", "random"],
        typer.Option(
            help="Positives under --limit: the best (finds most gaps) or random ones (so that "
            "precision and recall of all can be estimated)."
        ),
    ] = "best",
    where: options.Where = "local",
    wall_time: Annotated[
        float | None, typer.Option(min=1, help="Limit of each calculation, s.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Local calculations at a time.")] = 1,
    launchpad: options.LaunchPadFile = options.DEFAULT_LAUNCHPAD,
    db: options.Db = options.DEFAULT_DB,
    quiet: options.Quiet = False,
) -> None:
    """Calculate the DFT DOS of a run's positives and of random negatives."""
    from db.store import open_store
    from screening.cli.candidates import existing, find_run
    from screening.cli.console import stderr
    from screening.errors import ScreeningError
    from workflows.validation import ValidationFlowMaker, dos_maker, plan_validation

    given: dict[str, Any] = {"preset": preset, "relax": relax, "wall_time_limit": wall_time}
    engine_options = {k: v for k, v in given.items() if v is not None}
    maker = ValidationFlowMaker(db=db, dos_maker=dos_maker(engine, **engine_options))
    remarks = stderr(quiet)
    with open_store(existing(db)) as store:
        chosen = find_run(store, run)
        if chosen.state != "done":
            raise ScreeningError(f"run {chosen.run_id} is not done; `screen run --resume` first")
        recipe = maker.dos_maker.recipe
        plan = plan_validation(
            store, chosen, engine, recipe, n_random=random, limit=limit, draw=draw
        )
        remarks.print(
            f"Run {chosen.run_id}: {len(plan.todo)} to calculate with {recipe}, "
            f"{plan.reused} there already"
        )
        if where == "launchpad":
            n = _submit(launchpad, store, maker, plan)
            remarks.print(
                f"{n} workflows submitted; `rlaunch -l {launchpad} rapidfire` works them off"
            )
            return
    if plan.todo:
        _check_installed(engine)
        _validate_locally(maker, plan, workers, quiet)
    remarks.print(f"`screen metrics --run {chosen.run_id}` shows precision and recall")


def _submit(
    file: Path, store: ScreeningStore, maker: ValidationFlowMaker, plan: ValidationPlan
) -> int:
    from workflows.launch import open_launchpad, submit

    with open_launchpad(file) as launchpad:
        return submit(launchpad, store, maker, plan.todo)


def _check_installed(engine: str) -> None:
    from screening.errors import ScreeningError
    from workflows.dos import gpaw, vasp

    lacking = {"gpaw": gpaw, "vasp": vasp}[engine].missing()
    if lacking:
        raise ScreeningError("; ".join(lacking))


def _validate_locally(
    maker: ValidationFlowMaker, plan: ValidationPlan, workers: int, quiet: bool
) -> None:
    """Calculate one after the other, or several at a time in processes of their own."""
    from screening.cli import resumable
    from screening.cli.console import progress_bars, stderr

    remarks = stderr(quiet)
    outcomes = _one_by_one(maker, plan) if workers == 1 else _in_processes(maker, plan, workers)
    again = resumable("the same command goes on with what is left")
    with again, progress_bars(quiet) as report, closing(outcomes):
        for candidate, outcome in outcomes:
            remarks.print(f"{candidate.material_id} {candidate.formula}: {_verdict(outcome)}")
            report("validated", 1, len(plan.todo))


def _verdict(outcome: dict[str, Any]) -> str:
    if outcome.get("error") or outcome["state"] == "magnetic":
        return outcome.get("error") or "magnetic, no verdict"
    return "VB gap" if outcome["is_positive"] else "no VB gap"


Outcomes = Generator[tuple["CandidateDoc", dict[str, Any]], None, None]


def _one_by_one(maker: ValidationFlowMaker, plan: ValidationPlan) -> Outcomes:
    from workflows.validation import validate_here

    _silence_warnings()
    for candidate in plan.todo:
        yield candidate, validate_here(maker, candidate)


def _in_processes(maker: ValidationFlowMaker, plan: ValidationPlan, workers: int) -> Outcomes:
    """Outcomes as they come; when the caller stops early, so do the calculations."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from concurrent.futures.process import BrokenProcessPool
    from tempfile import TemporaryDirectory

    from models.processes import deaf_to_interrupts
    from screening.errors import ScreeningError
    from workflows.validation import validate_here

    context = multiprocessing.get_context("spawn")
    with (
        TemporaryDirectory(prefix="screen-validate-") as folder,
        ProcessPoolExecutor(workers, context, _start_worker, (folder,)) as pool,
    ):
        with deaf_to_interrupts():
            tasks = {pool.submit(validate_here, maker, c): c for c in plan.todo}
        try:
            for task in as_completed(tasks):
                yield tasks[task], task.result()
        except BrokenProcessPool:
            raise ScreeningError(
                "a worker process was killed (no memory left?); what is done is kept, and the "
                "same command goes on with what is left"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in multiprocessing.active_children():
                process.terminate()  # an engine that it runs ends with it
            raise


def _start_worker(folder: str) -> None:
    """Leave Ctrl-C to the main process, and temporary files in a folder that it removes."""
    import signal
    import tempfile

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tempfile.tempdir = folder
    _silence_warnings()


def _silence_warnings() -> None:
    import warnings

    warnings.simplefilter("ignore")


def status(
    run: options.RunId = None,
    rerun_failed: Annotated[
        bool, typer.Option("--rerun-failed", help="Make fizzled jobs ready again.")
    ] = False,
    rerun_lost: Annotated[
        bool,
        typer.Option("--rerun-lost", help="Make jobs ready again whose worker is gone."),
    ] = False,
    lost_after: Annotated[
        float, typer.Option(min=0, help="Seconds without a sign of life of a worker.")
    ] = 14400,
    launchpad: options.LaunchPadFile = options.DEFAULT_LAUNCHPAD,
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
) -> None:
    """Show the state of a run's DFT workflows on the launchpad, and of its validations."""
    from db.store import open_store
    from screening.cli.candidates import existing, find_run
    from screening.cli.console import print_json, stderr, stdout, table
    from workflows import launch

    with launch.open_launchpad(launchpad) as pad, open_store(existing(db)) as store:
        chosen = find_run(store, run)
        if rerun_lost:
            lost = launch.rerun_lost(pad, store, chosen.run_id, lost_after)
            stderr().print(f"{lost} lost jobs made ready again")
        launch.record_failures(pad, store, chosen.run_id)
        if rerun_failed:
            failed = launch.rerun_failed(pad, store, chosen.run_id)
            stderr().print(f"{failed} fizzled jobs made ready again")
        states = launch.workflow_states(pad, chosen.run_id)
        validations = Counter(v.state for v in store.validations(run_id=chosen.run_id))
    counts = Counter(state.state for state in states)
    reasons = {s.material_id: s.reason for s in states if s.reason}
    if as_json:
        print_json(
            {
                "run_id": chosen.run_id,
                "workflows": counts,
                "validations": validations,
                "reasons": reasons,
            }
        )
        return
    rows = [("workflow", *item) for item in sorted(counts.items())]
    rows += [("validation", *item) for item in sorted(validations.items())]
    stdout().print(table(f"Run {chosen.run_id}", ("what", "state", "number"), rows))
    for material_id, reason in reasons.items():
        stdout().print(f"{material_id}: {reason}")


def metrics(
    run: options.RunId = None,
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
) -> None:
    """Show precision, recall and F1 of a run against DFT, with 95 % intervals.

    Figures for the validated set are those of as many materials chosen in the same way; those for
    the screened set weigh the validated materials up to all. An interval holds whatever the
    calculations without a verdict would say; there is an estimate only where something supports
    one.
    """
    from db.store import open_store
    from screening.cli.candidates import existing, find_run
    from screening.cli.console import print_json, stdout, table
    from screening.errors import ScreeningError
    from workflows.validation import run_metrics

    with open_store(existing(db)) as store:
        chosen = find_run(store, run)
        found = run_metrics(store, chosen)
    if not found:
        raise ScreeningError(f"run {chosen.run_id} has no validations; `screen validate` first")
    if as_json:
        print_json({"run_id": chosen.run_id, "metrics": [m.as_dict() for m in found]})
        return
    for result in found:
        title = f"Run {chosen.run_id}, {result.engine}, {result.recipe}"
        stdout().print(
            table(title, ("figure", "95 % interval", "estimate or its bounds"), _figures(result))
        )
        stdout().print(table("DFT", ("materials", "number"), _counts(result)))
        stdout().print(f"Validated: {result.assessment.design}.")


def _figures(result: Metrics) -> list[tuple[str, str, str]]:
    assessment = result.assessment
    figures = {
        "precision, validated set": assessment.precision,
        "recall, validated set": assessment.recall,
        "F1, validated set": assessment.f1,
        "precision, screened set": assessment.screened_precision,
        "recall, screened set": assessment.screened_recall,
    }
    return [
        (name, _range(figure.low, figure.high), _range(figure.least, figure.most))
        for name, figure in figures.items()
    ]


def _range(low: float | None, high: float | None) -> str:
    """Two shares, or one if they are the same."""
    if low is None or high is None:
        return ""
    if low == high:
        return f"{low:.2f}"
    return f"{_digits(low)} to {_digits(high)}"


def _digits(share: float) -> str:
    return f"{share:.3f}" if 0 < share < 0.1 else f"{share:.2f}"


def _counts(result: Metrics) -> list[tuple[str, int]]:
    names = {
        "tp": "true positives",
        "fp": "false positives",
        "fn": "false negatives",
        "tn": "true negatives",
    }
    counts = result.assessment.counts
    undecided = {f"without a verdict: {why}": n for why, n in result.undecided.items()}
    return [*((name, counts[key]) for key, name in names.items()), *undecided.items()]
