"""`screen criteria`: what can be looked for, and of what one's own criterion can be made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from screening.cli import options

if TYPE_CHECKING:
    from screening.criteria.interface import Criterion


def criteria(
    name: Annotated[
        str | None, typer.Argument(help="One of them, or a .yaml file; all by default.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """List the criteria, or show one of them with the features that it could use."""
    from screening.cli.console import print_json, stdout, table
    from screening.criteria.features import FEATURES
    from screening.criteria.interface import SPECTRA_IN_WORDS
    from screening.criteria.registry import criterion_names, find_criterion

    if name is None:
        known = [find_criterion(each) for each in criterion_names()]
        if as_json:
            print_json([criterion.definition() for criterion in known])
            return
        rows = [(c.name, SPECTRA_IN_WORDS[c.spectra], c.unit, _description(c)) for c in known]
        columns = ("criterion", "judges the", "unit of the score", "finds")
        stdout().print(table("Criteria for `screen run --criterion`", columns, rows))
        return
    criterion = find_criterion(name)
    features = FEATURES[criterion.spectra]
    if as_json:
        print_json(
            criterion.definition()
            | {"features": {name: [f.unit, f.what] for name, f in features.items()}}
        )
        return
    for field, value in criterion.definition().items():
        stdout().print(f"{field}: {value}", highlight=False)
    listed = [(feature, f.unit, f.what) for feature, f in features.items()]
    title = f"Features of the {SPECTRA_IN_WORDS[criterion.spectra]} for a criterion of one's own"
    stdout().print(table(title, ("feature", "unit", "what it is"), listed))


def _description(criterion: Criterion) -> str:
    """First sentence of what it finds."""
    words = criterion.definition().get("description") or type(criterion).__doc__ or ""
    return " ".join(words.split()).partition(". ")[0].partition(": ")[0]
