"""`screen config`: each setting and where it comes from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from screening.cli import options

if TYPE_CHECKING:
    from screening.cli.preferences import Preference


def config(
    context: typer.Context,
    db: options.Db = options.DEFAULT_DB,
    mp_api_key_file: options.MpApiKeyFile = None,
    checkpoint: options.Checkpoint = None,
    rescore: options.Rescore = None,
    device: options.Device = "auto",
    launchpad: options.LaunchPadFile = options.DEFAULT_LAUNCHPAD,
    as_json: options.Json = False,
) -> None:
    """Show each setting and where it comes from.

    In rising order: the environment, screen.yaml in this folder, the command line.
    """
    from db.store import mask_uri
    from screening.cli.console import print_json, stdout, table
    from screening.cli.preferences import read_preferences

    settings = [_as_given(context, setting) for setting in read_preferences()]
    rows = [(s.name, s.value and mask_uri(s.value), s.origin) for s in settings]
    if as_json:
        print_json([{"name": name, "value": value, "from": origin} for name, value, origin in rows])
        return
    stdout().print(table(None, ("setting", "value", "from"), rows))


def _as_given(context: typer.Context, setting: Preference) -> Preference:
    """The setting, or what the command line says instead."""
    from screening.cli.preferences import COMMAND_LINE

    source = context.get_parameter_source(setting.name)
    if source is None or source.name != "COMMANDLINE":
        return setting
    return replace(setting, value=str(context.params[setting.name]), origin=COMMAND_LINE)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"edos-screening {version('edos-screening')}")
        raise typer.Exit


def apply_settings(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version."),
    ] = False,
) -> None:
    """Make environment and screen.yaml the defaults of the command that comes."""
    from screening.cli.preferences import DEFAULT, read_preferences

    given = {s.name: s.value for s in read_preferences() if s.origin != DEFAULT and s.value}
    context.default_map = _defaults(context.command, given)


def _defaults(command: Any, given: dict[str, str]) -> dict[str, Any]:
    """Defaults of a command's options, or of all commands in a group."""
    if hasattr(command, "commands"):
        return {name: _defaults(sub, given) for name, sub in command.commands.items()}
    return {p.name: given[p.name] for p in command.params if p.name in given}
