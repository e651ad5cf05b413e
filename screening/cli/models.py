"""`screen models`: what predictors there are, and how they come and go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from screening.cli import options

if TYPE_CHECKING:
    from models.sharing.listing import ListedPredictor


class _ListOrShow(TyperGroup):
    """`screen models NAME` shows a model, as `screen models show NAME` does."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        known = args[0] in self.commands or args[0].startswith("-")
        return super().resolve_command(ctx, args if known else ["show", *args])


app = typer.Typer(
    cls=_ListOrShow,
    invoke_without_command=True,
    help="List the models: shipped, trained here, and pulled from elsewhere.",
)
Name = Annotated[str, typer.Argument(help="Name, id or folder of a model.")]
Replace = Annotated[
    bool, typer.Option("--replace", help="Let it take the place of one that is there.")
]


@app.callback()
def models(
    context: typer.Context,
    db: options.Db = options.DEFAULT_DB,
    as_json: options.Json = False,
    wide: options.Wide = False,
) -> None:
    """List the models: shipped, trained here (beside the database, or in this folder), pulled."""
    if context.invoked_subcommand is not None:
        return
    from models.sharing.listing import list_predictors
    from screening.cli.console import print_json, stdout, table_of
    from screening.cli.fitting_table import Column

    listed = list_predictors(_trained_in(db))
    if as_json:
        print_json([_document(one) for one in listed])
        return
    columns: dict[Column, Any] = {
        Column("model", folds=True): "checkpoint",
        Column("from"): lambda one: "shipped, default" if one.is_default else one.origin,
        Column("predicts"): "target",
        Column("state", leaves=1): _state,
        Column("WD of the test"): _wasserstein,
        Column("trained on", leaves=2): lambda one: one.card and one.card.n_train,
        Column("elements", leaves=3): lambda one: one.card and len(one.card.elements),
        Column("architecture", leaves=4): lambda one: one.card and one.card.architecture,
        Column("id", leaves=5): "model_id",
        Column("MAE (states/eV/cell)", leaves=6): _absolute_error,
        Column("labels", leaves=7): lambda one: one.card and ", ".join(one.card.labels),
        Column("of", leaves=8): lambda one: one.card and one.card.trained_at,
        Column("folder", leaves=9): "folder",
    }
    stdout(wide).print(table_of("Models", columns, listed))
    for one in listed:
        for remark in _remarks(one):
            stdout(wide).print(f"{one.checkpoint}: {remark}", highlight=False)


@app.command("show")
def show_model(
    name: Name, db: options.Db = options.DEFAULT_DB, as_json: options.Json = False
) -> None:
    """Show the card of a model: data, test figures, limits."""
    from models.errors import ModelError
    from models.sharing.listing import find_listed
    from screening.cli.console import print_json, stdout

    one = find_listed(name, _trained_in(db))
    if as_json:
        print_json(_document(one))
        return
    if one.card is None or one.problem:
        raise ModelError(one.problem or f"{name}: has no card")
    origin = _document(one)["pulled"]
    source = f"pulled from {origin['source']} at {origin['pulled_at']}" if origin else one.origin
    stdout().print(f"{one.model_id} ({source}; {one.folder})\n", highlight=False)
    print(one.card.to_markdown().rstrip())


@app.command("pull")
def pull_model(
    source: Annotated[
        str, typer.Argument(help="hf:owner/repository[@revision], or a folder from `push`.")
    ],
    name: Annotated[
        str | None, typer.Option("--as", help="Call it so; by default as its owner does.")
    ] = None,
    replace: Replace = False,
    quiet: options.Quiet = False,
) -> None:
    """Take a model from a hub or a folder; every file is checked, and none of them is run."""
    from models.sharing.pulling import pull
    from screening.cli.console import stderr, stdout

    _hide_token(source)
    folder = pull(source, name, replace=replace, announce=stderr(quiet).print)
    stdout().print(f"{folder.name}: --checkpoint {folder.name} uses it ({folder})", highlight=False)


@app.command("push")
def push_model(
    name: Name,
    target: Annotated[
        str, typer.Argument(help="hf:owner/repository, or a folder that is to be made.")
    ],
    license_id: Annotated[
        str,
        typer.Option(
            "--license", help="What others may do: an identifier of the hub, as cc-by-4.0 or mit."
        ),
    ],
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="Data set on the hub that it was trained on; may be given repeatedly."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="A new repository is for its owner only.")
    ] = False,
    replace: Replace = False,
    db: options.Db = options.DEFAULT_DB,
) -> None:
    """Give a model away, with its card; the token is HF_TOKEN, or that of `hf auth login`."""
    from models.sharing.listing import find_listed
    from models.sharing.pushing import push
    from screening.cli.console import stdout

    _hide_token(target)
    folder = find_listed(name, _trained_in(db)).folder
    place = push(
        folder,
        target,
        license_id=license_id,
        datasets=dataset or (),
        private=private,
        replace=replace,
    )
    stdout().print(f"{folder.name}: {place}", highlight=False)


def _trained_in(db: str) -> list[Path]:
    """Where one's own models are: those of `screen learn` beside the database, and here."""
    return [options.models_folder(db), Path.cwd()]


def _hide_token(place: str) -> None:
    from models.sharing import hub
    from screening.secrets import keep_secret

    if hub.is_on_hub(place):
        keep_secret(hub.token() or "")


def _state(one: ListedPredictor) -> str:
    return "damaged" if one.problem else "changed" if one.change else "whole"


def _remarks(one: ListedPredictor) -> list[str]:
    if one.problem:
        return [f"damaged: {one.problem}"]
    changed = [f"not as it was pulled: {one.change}"] if one.change else []
    return changed + (["another of that name comes before it"] if one.is_hidden else [])


def _wasserstein(one: ListedPredictor) -> str | None:
    """Of the shape."""
    from models.training.card import with_error
    from models.zoo import predictor_parts

    if one.card is None:
        return None
    figures = one.card.figures.get(predictor_parts(one.folder)[0], {})
    return f"{with_error(figures, 'wd')} {one.card.unit}" if "wd" in figures else None


def _absolute_error(one: ListedPredictor) -> str | None:
    from models.training.card import with_error

    for what, figures in one.card.figures.items() if one.card else ():
        if what.endswith("states/eV/cell)") or what == "states/eV/cell":
            return with_error(figures, "mae")
    return None


def _document(one: ListedPredictor) -> dict[str, Any]:
    from models.errors import ModelError
    from models.sharing.pulling import PulledFrom

    try:
        pulled = PulledFrom.read(one.folder) if one.origin == "pulled" else None
    except ModelError:
        pulled = None
    return {
        "name": one.name,
        "checkpoint": one.checkpoint,
        "origin": one.origin,
        "pulled": pulled.model_dump() if pulled else None,
        "default": one.is_default,
        "target": one.target,
        "model_id": one.model_id,
        "folder": one.folder,
        "usable": one.problem is None,
        "remarks": _remarks(one),
        "card": one.card.model_dump(mode="json") if one.card else None,
    }
