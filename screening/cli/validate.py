"""`screen validate`, `status` and `metrics`: DFT for the positives, and how right they were."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from screening.cli import options

if TYPE_CHECKING:
    from workflows.validation import Metrics, ValidationFlowMaker, ValidationPlan

LaunchPadFile = Annotated[Path, typer.Option("--launchpad", help="FireWorks' launchpad file.")]
DEFAULT_LAUNCHPAD = Path("launchpad.yaml")


def validate(
    run: options.RunId = None,
    engine: Annotated[str, typer.Option(help="gpaw or vasp.")] = "gpaw",
    preset: Annotated[
        str | None, typer.Option(help="Of GPAW: fast or standard (the default).")
    ] = None,
    relax: Annotated[
        bool, typer.Option("--relax", help="Relax first: for structures that are not relaxed.")
    ] = False,
    random: Annotated[
        int, typer.Option(min=0, help="Random predicted negatives, to estimate recall.")
    ] = 49,
    limit: Annotated[
        int | None, typer.Option(min=0, help="Positives at most, the best ones.")
    ] = None,
    where: Annotated[str, typer.Option(help="local, or launchpad for FireWorks.")] = "local",
    wall_time: Annotated[
        float | None, typer.Option(min=1, help="Limit of each calculation, s.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Local calculations at a time.")] = 1,
    launchpad: LaunchPadFile = DEFAULT_LAUNCHPAD,
    db: options.Db = options.DEFAULT_DB,
    quiet: options.Quiet = False,
) -> None:
    """Calculate the DFT DOS of a run's positives and of random negatives."""
    from db.store import open_store
    from screening.cli.candidates import existing, find_run
    from screening.cli.console import stderr
    from screening.errors import ScreeningError
    from workflows.validation import ValidationFlowMaker, dos_maker, plan_validation

    if where not in ("local", "launchpad"):
        raise ScreeningError(f"--where {where}: use local or launchpad")
    given: dict[str, Any] = {"preset": preset, "relax": relax, "wall_time_limit": wall_time}
    engine_options = {k: v for k, v in given.items() if v not in (None, False)}
    maker = ValidationFlowMaker(db=db, dos_maker=dos_maker(engine, **engine_options))
    remarks = stderr(quiet)
    with open_store(existing(db)) as store:
        chosen = find_run(store, run)
        if chosen.state != "done":
            raise ScreeningError(f"run {chosen.run_id} is not done; `screen run --resume` first")
        recipe = maker.dos_maker.recipe
        plan = plan_validation(store, chosen, engine, recipe, n_random=random, limit=limit)
        remarks.print(
            f"Run {chosen.run_id}: {len(plan.todo)} to calculate with {recipe}, "
            f"{plan.reused} there already"
        )
        if where == "launchpad":
            from workflows.launch import open_launchpad, submit

            n = submit(open_launchpad(launchpad), store, maker, plan.todo)
            remarks.print(f"{n} workflows submitted; work them off with `rlaunch rapidfire`")
            return
    _check_installed(engine)
    _validate_locally(maker, plan, workers, quiet)
    remarks.print(f"`screen metrics --run {chosen.run_id}` shows precision and recall")


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
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor, as_completed

    from screening.cli.console import progress_bars, stderr
    from workflows.validation import validate_here

    remarks = stderr(quiet)
    context = multiprocessing.get_context("spawn")
    with (
        progress_bars(quiet) as report,
        ProcessPoolExecutor(workers, context, initializer=_quiet_worker) as pool,
    ):
        tasks = {pool.submit(validate_here, maker, c): c for c in plan.todo}
        try:
            for task in as_completed(tasks):
                candidate, outcome = tasks[task], task.result()
                verdict = outcome.get("error") or (
                    "VB gap" if outcome.get("is_positive") else "no VB gap"
                )
                remarks.print(f"{candidate.material_id} {candidate.formula}: {verdict}")
                report("validated", 1, len(tasks))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _quiet_worker() -> None:
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
    launchpad: LaunchPadFile = DEFAULT_LAUNCHPAD,
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
) -> None:
    """Show the state of a run's DFT workflows on the launchpad, and of its validations."""
    from db.store import open_store
    from screening.cli.candidates import existing, find_run
    from screening.cli.console import print_json, stderr, stdout, table
    from workflows import launch

    pad = launch.open_launchpad(launchpad)
    with open_store(existing(db)) as store:
        chosen = find_run(store, run)
        if rerun_lost:
            stderr().print(f"{launch.rerun_lost(pad, lost_after)} lost jobs made ready again")
        if rerun_failed:
            stderr().print(f"{launch.rerun(pad, chosen.run_id)} fizzled jobs made ready again")
        else:
            launch.record_failures(pad, store, chosen.run_id)
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
    """Show precision, recall and F1 of a run against DFT, with Wilson 95 % intervals."""
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
        stdout().print(table(title, ("figure", "value", "95 % interval"), _rows(result)))


def _rows(result: Metrics) -> list[tuple[Any, ...]]:
    matrix = result.matrix
    proportions = {
        "precision": matrix.precision,
        "recall, validated set": matrix.recall,
        "F1, validated set": matrix.f1,
        "recall, weighted to the screened set": result.screened_recall,
    }
    rows: list[tuple[Any, ...]] = [
        ("true positives", matrix.tp, ""),
        ("false positives", matrix.fp, ""),
        ("false negatives", matrix.fn, ""),
        ("true negatives", matrix.tn, ""),
        ("calculations that failed", result.n_failed, ""),
        ("predicted positives, negatives", f"{result.n_positive}, {result.n_negative}", ""),
    ]
    for name, p in proportions.items():
        interval = "" if p.low is None else f"{p.low:.2f} to {p.high:.2f}"
        rows.append((name, p.value, interval))
    return rows
