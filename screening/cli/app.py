"""The commands, each in a file of its own; nothing heavy is imported before one runs."""

from __future__ import annotations

import typer

from screening.cli import (
    benchmark,
    candidates,
    config,
    database,
    doctor,
    fetch,
    history,
    predict,
    run,
    show,
    similar,
    train,
    validate,
)

app = typer.Typer(
    help="Find materials with a gap just below the Fermi level: predict the eDOS of thousands of "
    "crystals, and keep those worth a DFT calculation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback()(config.apply_settings)
app.command("run")(run.run)
app.command("runs")(history.runs)
app.command("candidates")(candidates.candidates)
app.command("show")(show.show)
app.command("similar")(similar.similar)
app.command("history")(history.history)
app.command("predict")(predict.predict)
app.command("validate")(validate.validate)
app.command("status")(validate.status)
app.command("metrics")(validate.metrics)
app.add_typer(fetch.app, name="fetch")
app.command("train")(train.train)
app.command("benchmark")(benchmark.benchmark)
app.add_typer(database.app, name="db")
app.command("config")(config.config)
app.command("doctor")(doctor.doctor)
