"""What comes from outside, such as ids, is shown as it is and never as markup."""

import json

import pytest

from models.crystal import Crystal

NAMES = ("H2[relaxed]", "LiH[/]", "[red]LiH", "a:smiley:b", "LiH[/red]", "x\\[y]")
ALL = ("--max-dos", 1000, "--min-width", 0.1, "--max-upper-edge", 5)


@pytest.fixture
def source(tmp_path):
    documents = {
        name: Crystal([[4.0 + 0.01 * i, 0, 0], [0, 4, 0], [0, 0, 4]], [[0] * 3, [0.5] * 3], [3, 1])
        for i, name in enumerate(NAMES)
    }
    path = tmp_path / "ids[red].json"
    path.write_text(json.dumps({name: crystal.as_dict() for name, crystal in documents.items()}))
    return path


@pytest.mark.slow
def test_every_listing_shows_ids_with_brackets(screen, source):
    run = screen("run", "--source", source, "--workers", 1, *ALL)
    assert run.code == 0
    assert "ids[red].json" in run.err
    listing = screen("candidates")
    for name in NAMES:
        assert name in run.out
        assert name in listing.out
    for command, name in zip(("show", "history", "similar"), NAMES[:3], strict=True):
        shown = screen(command, name)
        assert shown.code == 0
        assert name in shown.out
    predicted = screen("predict", source, "--workers", 1, *ALL)
    assert all(name in predicted.out for name in NAMES)


@pytest.mark.parametrize(
    "command",
    [
        ("run", "--source", "[/red]"),
        ("predict", "[/red]"),
        ("run", "--source", "prototypes", "--elements", "[/red]"),
        ("run", "--source", "prototypes", "--limit", "[/red]"),
        ("run", "--source", "prototypes", "--known-edos", "[/red]"),
        ("candidates", "--[/red]"),
        ("show", "[/red]", "--run", "[/red]"),
    ],
)
def test_errors_quote_brackets(screen, command):
    outcome = screen(*command)
    assert outcome.code != 0
    assert "MarkupError" not in outcome.err
    assert "closing tag" not in outcome.err


def test_consoles_take_nothing_for_markup(capsys):
    from screening.cli.console import progress_bars, stderr, stdout, table

    cells = [["[/]", "[bold]x[/bold]", ":smiley:"]]
    stdout().print(table("[/] title", ("[/] column", "b", "c"), cells))
    stderr().print("[/] remark :smiley:")
    with progress_bars(quiet=False) as report:
        report("[/] stage", 1, 2)
    out, err = capsys.readouterr()
    for text in ("[/] title", "[/] column", "[bold]x[/bold]", ":smiley:"):
        assert text in out
    assert "[/] remark :smiley:" in err
    assert "[/] stage" in err
