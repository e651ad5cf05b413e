"""`screen validate`, `status` and `metrics`: DFT for the positives, and how right they were."""

from __future__ import annotations

import re
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from screening.cli import options
from screening.cli.invocation import resumable
from screening.strategies import Strategy
from workflows.dos.engines import ENGINES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from db.documents import CandidateDoc, ValidationDoc
    from db.store import ScreeningStore
    from workflows.dos.base import DosMaker
    from workflows.dos.cost import CostEstimate
    from workflows.launchpad import Waiting
    from workflows.plan import ValidationPlan
    from workflows.validation import ValidationFlowMaker

ASK = 20  # calculations that are started without a question
UNITS = {"min": 60.0, "h": 3600.0, "d": 86400.0}  # s


def _known_engine(name: str) -> str:
    if name not in ENGINES:
        known = ", ".join(map(repr, ENGINES))
        raise typer.BadParameter(f"{name!r} is not one of {known}.")
    return name


def _seconds(text: str) -> float:
    """Time in s of a number with its unit."""
    match = re.fullmatch(r"\s*([\d.]+(?:e[+-]?\d+)?)\s*(min|h|d)\s*", text)
    try:
        seconds = float(match[1]) * UNITS[match[2]] if match else 0.0
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise typer.BadParameter(f"{text!r} is no time above 0 with its unit: 40h, 90min or 2d.")
    return seconds


Engine = Annotated[
    str,
    typer.Option(callback=_known_engine, metavar=f"[{'|'.join(ENGINES)}]", help="DFT program."),
]


ChosenBy = Annotated[
    Strategy,
    typer.Option(
        "--strategy",
        help="Positives under a limit or --budget: those of the best score; of the largest "
        "probability; the most to be expected for the budget; of the probability nearest to "
        "1/2; the best of each family of anonymous formula and space group first; or random "
        "ones (so that precision and recall of all can be estimated).",
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(
        "--budget",
        parser=_seconds,
        metavar="TIME",
        help="Core time of what is not calculated yet, random negatives included, as "
        "estimated: 40h, 90min, 2d.",
    ),
]


def validate(
    run: options.RunId = None,
    engine: Engine = "gpaw",
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
    lanthanides: Annotated[
        Literal["stand-ins", "own"] | None,
        typer.Option(
            help="Of GPAW: La in the place of Pr to Sm and Y in that of Gd to Tm, which the "
            "Materials Project, but for Gd, computes without 4f electrons, too; or the elements "
            "themselves. Stand-ins by default."
        ),
    ] = None,
    random: Annotated[
        int, typer.Option(min=0, help="Random predicted negatives, to estimate recall.")
    ] = 49,
    limit: Annotated[
        int | None, typer.Option(min=0, help="Positives at most; all by default.")
    ] = None,
    strategy: ChosenBy = "best",
    budget: Budget = None,
    where: options.Where = "local",
    wall_time: options.WallTime = None,
    workers: Annotated[int, typer.Option(min=1, help="Local calculations at a time.")] = 1,
    launchpad: options.LaunchPadFile = options.DEFAULT_LAUNCHPAD,
    out_of_domain: Annotated[
        bool,
        typer.Option(
            "--out-of-domain",
            help="Also what the model cannot know: elements that it was not trained on, isolated "
            "atoms. Else only their number is said.",
        ),
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", help=f"Do not ask before more than {ASK} calculations."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List what would be calculated, and start nothing.")
    ] = False,
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    wide: options.Wide = False,
) -> None:
    """Calculate the DFT DOS of a run's positives and of random negatives.

    Calculations that failed are named at the end; the command exits with 1 if all of them did.
    """
    from db.open import open_store
    from screening.cli.console import print_json, stderr
    from screening.cli.stored import existing, find_run
    from screening.errors import ScreeningError
    from workflows.dos.engines import dos_maker
    from workflows.plan import choose_validation, plan_cost, record_plan
    from workflows.validation import ValidationFlowMaker

    given: dict[str, Any] = {
        "preset": preset,
        "relax": relax,
        "lanthanides": lanthanides,
        "wall_time_limit": wall_time,
    }
    engine_options = {k: v for k, v in given.items() if v is not None}
    maker = ValidationFlowMaker(db=db, dos_maker=dos_maker(engine, **engine_options))
    on_launchpad = where == "launchpad"
    remarks = stderr(quiet)
    with open_store(existing(db)) as store:
        stored = find_run(store, run)
        if stored.state != "done":
            raise ScreeningError(f"run {stored.run_id} is not done; `screen run --resume` first")

        def chosen() -> tuple[ValidationPlan, CostEstimate]:
            plan = choose_validation(
                store,
                stored,
                maker.dos_maker,
                n_random=random,
                limit=limit,
                strategy=strategy,
                budget=budget,
                in_domain=not out_of_domain,
            )
            return plan, plan_cost(store, plan, maker.dos_maker)

        plan, cost = chosen()
        if dry_run:
            _show_plan(plan, cost, maker.dos_maker, workers, as_json, wide)
            return
        remarks.print(_plan_in_words(plan, maker.dos_maker))
        if plan.todo and not on_launchpad and (lacking := maker.dos_maker.missing()):
            raise ScreeningError("; ".join(lacking))
        if _confirm(plan, cost, 1 if on_launchpad else workers, yes):
            plan, cost = chosen()  # much may have ended, or been submitted, until the answer
        record_plan(store, plan)
        results = _submit(launchpad, store, maker, plan, remarks) if on_launchpad else []
    if plan.todo and not on_launchpad:
        if not quiet:
            remarks.print(_cost_in_words(cost, workers))
        results = validate_locally(maker, plan.todo, workers, quiet)
    if as_json:
        document = _plan_document(plan, cost, maker.dos_maker, workers)
        print_json(document | {"results": results})
    if not on_launchpad:
        remarks.print(f"`screen metrics --run {stored.run_id}` shows precision and recall")
    _name_failures(stored.run_id, results, len(plan.todo))


def _plan_in_words(plan: ValidationPlan, maker: DosMaker) -> str:
    words = f"Run {plan.run.run_id}: {len(plan.todo)} to calculate with {maker.recipe}"
    if n := sum(maker.recipe_for(c.elements) != maker.recipe for c in plan.todo):
        words += f" ({n} with stand-ins for lanthanides)"
    words += f", {plan.reused} there already"
    known = [c.probability for c in plan.todo if c.is_positive and c.probability is not None]
    if known:
        words += f"; about {sum(known):.1f} of {len(known)} positives are expected to be confirmed"
    if plan.left_out:
        words += (
            f"; {len(plan.left_out)} positives out of the model's domain are left out "
            "(--out-of-domain takes them)"
        )
    return words


def _cost_in_words(cost: CostEstimate, workers: int) -> str:
    hours = cost.hours(workers)
    time = f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.0f} minutes"
    return f"About {time} with {workers} at a time ({cost.basis})"


def _confirm(plan: ValidationPlan, cost: CostEstimate, workers: int, yes: bool) -> bool:
    """Ask before many calculations are started; whether it had to.

    Raises
    ------
    ScreeningError
        If there is nobody to ask.
    """
    import sys

    from screening.errors import ScreeningError

    n = len(plan.todo)
    if yes or n <= ASK:
        return False
    time = _cost_in_words(cost, workers)
    if not sys.stdin.isatty():
        raise ScreeningError(
            f"{n} calculations. {time}: --yes starts them, --dry-run lists them, --limit takes "
            "fewer"
        )
    typer.confirm(f"{n} calculations. {time}. Start them?", abort=True, err=True)
    return True


def _plan_document(
    plan: ValidationPlan, cost: CostEstimate, maker: DosMaker, workers: int
) -> dict[str, Any]:
    from screening.domain import Domain

    return {
        "run_id": plan.run.run_id,
        "recipe": maker.recipe,
        "to_calculate": [
            {
                "material_id": candidate.material_id,
                "formula": candidate.formula,
                "nsites": candidate.nsites,
                "recipe": maker.recipe_for(candidate.elements),
                "is_positive": candidate.is_positive,
                "probability": candidate.probability,
                "estimated_seconds": seconds,
            }
            for candidate, seconds in zip(plan.todo, cost.seconds, strict=True)
        ],
        "there_already": [validation.material_id for validation in plan.shared],
        "left_out": [
            {"material_id": c.material_id, "reasons": Domain.of_document(c).reasons}
            for c in plan.left_out
        ],
        "estimated_hours": cost.hours(workers),
        "estimate": cost.basis,
    }


def _show_plan(
    plan: ValidationPlan,
    cost: CostEstimate,
    maker: DosMaker,
    workers: int,
    as_json: bool,
    wide: bool,
) -> None:
    """What would be calculated, and what would not and why."""
    from screening.cli.console import print_json, stdout, table
    from screening.cli.fitting_table import Column
    from screening.domain import Domain

    if as_json:
        print_json(_plan_document(plan, cost, maker, workers))
        return
    columns = (
        Column("material"),
        Column("formula", 2),
        Column("atoms", 3),
        Column("predicted", 1),
        Column("minutes", 1),
        Column("calculated", folds=True),
    )
    rows: list[tuple[Any, ...]] = [
        (c.material_id, c.formula, c.nsites, _predicted(c), f"{seconds / 60:.1f}", "yes")
        for c, seconds in zip(plan.todo, cost.seconds, strict=True)
    ]
    twins = {(c.structure_hash, maker.recipe_for(c.elements)): c.material_id for c in plan.todo}
    rows += [
        (v.material_id, v.formula, v.nsites, None, None, f"no: {_why_not(v, twins)}")
        for v in plan.shared
    ]
    rows += [
        (
            c.material_id,
            c.formula,
            c.nsites,
            _predicted(c),
            None,
            f"no: {', '.join(Domain.of_document(c).reasons)}",
        )
        for c in plan.left_out
    ]
    console = stdout(wide)
    console.print(table(_plan_in_words(plan, maker), columns, rows))
    console.print(_cost_in_words(cost, workers))


def _why_not(validation: ValidationDoc, twins: dict[tuple[str | None, str], str]) -> str:
    """Why a structure that is shared is not calculated; twins are calculated in this plan."""
    twin = twins.get((validation.structure_hash, validation.recipe))
    return f"same structure as {twin}" if twin else f"{validation.state} already"


def _predicted(candidate: CandidateDoc) -> str:
    from screening.report.words import verdict_title

    return _in_words(verdict_title(candidate), bool(candidate.is_positive))


def _in_words(title: str, is_positive: bool) -> str:
    return title if is_positive else f"no {title}"


def _submit(
    file: Path,
    store: ScreeningStore,
    maker: ValidationFlowMaker,
    plan: ValidationPlan,
    remarks: Any,
) -> list[dict[str, Any]]:
    """Submit what is to be calculated, and say so; what the engine cannot calculate."""
    from workflows.launchpad import open_launchpad, submit

    with open_launchpad(file) as launchpad:
        refused = submit(launchpad, store, maker, plan.todo)
    n = len(plan.todo) - len(refused)
    remarks.print(f"{n} workflows submitted; `rlaunch -l {file} rapidfire` works them off")
    return refused


def validate_locally(
    maker: ValidationFlowMaker, todo: Sequence[CandidateDoc], workers: int, quiet: bool
) -> list[dict[str, Any]]:
    """Calculate one after the other, or several at a time in processes of their own.

    Parameters
    ----------
    maker : ValidationFlowMaker
    todo : sequence of CandidateDoc
        With structures.
    workers : int
    quiet : bool
        Show no progress.
    """
    from screening.cli.calculations import CalculationsShown
    from workflows.local import validate_all

    outcomes = validate_all(maker, todo, workers)
    results = []
    with (
        resumable("the same command goes on with what is left"),
        CalculationsShown(todo, workers, quiet) as shown,
        closing(outcomes),
    ):
        for candidate, outcome in outcomes:
            shown.ended(candidate, _verdict(outcome))
            results.append({"material_id": candidate.material_id} | outcome)
    return results


def _name_failures(run_id: str, results: Sequence[dict[str, Any]], n: int) -> None:
    """Say what failed; an error if all `n` calculations did."""
    from screening.cli.console import name_failures

    failures = {r["material_id"]: r["error"] for r in results if r["state"] == "failed"}
    if not failures:
        return
    what = f"{len(failures)} of {n} calculations failed"
    name_failures(what, failures, f"validate --dry-run --run {run_id}")
    if len(failures) == n:
        raise typer.Exit(1)


def _verdict(outcome: dict[str, Any]) -> str:
    """Verdict in words, with edges and width of the gap or nearest miss."""
    if outcome.get("error") or outcome["state"] == "magnetic":
        return outcome.get("error") or "magnetic, no verdict"
    from screening.criteria.gap_criterion import gap_title

    criterion = outcome.get("criterion")
    if outcome["is_positive"] is None:
        return f"no verdict by {criterion}"
    words = _in_words(gap_title(criterion) or str(criterion), outcome["is_positive"])
    gap = outcome.get("gap") or {}
    if not gap.get("width"):
        return words
    bound = "≥ " if gap["is_lower_bound"] else ""
    nearest = "" if outcome["is_positive"] else " nearest miss"
    edges = f"{gap['lower_edge']:.2f} to {gap['upper_edge']:.2f} eV"
    return f"{words},{nearest} {edges}, width {bound}{gap['width']:.2f} eV"


def status(
    run: options.RunId = None,
    rerun_failed: Annotated[
        bool, typer.Option("--rerun-failed", help="Make fizzled jobs ready again.")
    ] = False,
    rerun_lost: Annotated[
        bool,
        typer.Option(
            "--rerun-lost",
            help="Make jobs ready again whose worker is gone; what the launchpad will not "
            "calculate any more counts as failed.",
        ),
    ] = False,
    lost_after: Annotated[
        float, typer.Option(min=0, help="Seconds without a sign of life of a worker.")
    ] = 14400,
    launchpad: options.LaunchPadFile = options.DEFAULT_LAUNCHPAD,
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
) -> None:
    """Show how far a run is on the launchpad: its screening, its DFT, and its validations."""
    from db.open import open_store
    from screening.cli.console import print_json, stderr, stdout, table
    from screening.cli.stored import existing, find_run
    from workflows import launchpad as fireworks

    with fireworks.open_launchpad(launchpad) as pad, open_store(existing(db)) as store:
        stored = find_run(store, run)
        if rerun_lost:
            lost = fireworks.rerun_lost(pad, store, stored.run_id, lost_after)
            stderr().print(f"{lost} lost jobs made ready again")
        fireworks.record_failures(pad, store, stored.run_id)
        if rerun_failed:
            failed = fireworks.rerun_failed(pad, store, stored.run_id)
            stderr().print(f"{failed} fizzled jobs made ready again")
        screening = fireworks.screening_jobs(pad, stored.run_id)
        states = fireworks.workflow_states(pad, stored.run_id)
        waiting = fireworks.waiting(pad, store, stored.run_id)
        validations = Counter(v.state for v in store.validations(run_id=stored.run_id))
    counts = Counter(state.state for state in states)
    reasons = {s.material_id: s.reason for s in states if s.reason}
    if as_json:
        print_json(
            {
                "run_id": stored.run_id,
                "screening": screening.states,
                "screening_reasons": screening.reasons,
                "workflows": counts,
                "validations": validations,
                "paused": waiting.paused,
                "gone": waiting.gone,
                "reasons": reasons,
            }
        )
        return
    rows = [
        (name, *item)
        for name, of_job in sorted(screening.states.items())
        for item in sorted(of_job.items())
    ]
    rows += [("workflow", *item) for item in sorted(counts.items())]
    rows += [("validation", *item) for item in sorted(validations.items())]
    stdout().print(table(f"Run {stored.run_id}", ("what", "state", "number"), rows))
    for reason in screening.reasons:
        stdout().print(reason)
    for line in _what_waits(waiting):
        stdout().print(line)
    for material_id, reason in reasons.items():
        stdout().print(f"{material_id}: {reason}")


def _what_waits(waiting: Waiting) -> Iterator[str]:
    """What no worker does, and how it goes on."""
    from models.errors import named

    if waiting.paused:
        yield (
            f"paused: {named(waiting.paused)}; `lpad resume_fws` lets them go on. To give them up, "
            "`lpad archive_wflows`, then `screen status --rerun-lost`"
        )
    if waiting.gone:
        yield (
            f"queued, but archived, defused or no more on the launchpad: {named(waiting.gone)}; "
            "`screen status --rerun-lost`, then `screen validate` submits them again"
        )


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
    from db.open import open_store
    from screening.cli.console import print_json, stdout, table
    from screening.cli.stored import existing, find_run
    from screening.errors import ScreeningError
    from screening.report.words import by_criterion, count_rows, figure_rows
    from workflows.metrics import run_metrics
    from workflows.plan import check_calculable

    with open_store(existing(db)) as store:
        stored = find_run(store, run)
        check_calculable(stored)
        results = run_metrics(store, stored)
    if not results:
        raise ScreeningError(f"run {stored.run_id} has no validations; `screen validate` first")
    if as_json:
        print_json({"run_id": stored.run_id, "metrics": [result.as_dict() for result in results]})
        return
    for result in results:
        title = f"Run {stored.run_id}{by_criterion(stored)}, {result.engine}, {result.recipe}"
        stdout().print(
            table(
                title,
                ("figure", "95 % interval", "estimate or its bounds"),
                figure_rows(result.assessment),
            )
        )
        stdout().print(
            table("DFT", ("materials", "number"), count_rows(result.assessment, result.undecided))
        )
        among = " Of what the model can know only." if result.in_domain else ""
        stdout().print(f"Validated: {result.assessment.design}.{among}")
