"""Every listing command in terminals of several widths: ids are whole, lines are not too long."""

import codecs
import fcntl
import io
import json
import os
import pty
import struct
import sys
import termios
from datetime import timedelta

import pytest
from rich.console import Console

from db.documents import Run, ValidationDoc
from db.open import open_store
from screening.cli import console as output
from screening.cli.console import table
from screening.cli.fitting_table import Column
from tests.workflows.screened_run import candidate, crystal, put_prediction, put_run, with_gap

DB = "screening.sqlite"
LONG_ID = "a-rather-long-name-of-sixty-characters-as-of-some-data-bases"
IDS = ("mp-1234567", "folder/run1/CONTCAR#2", LONG_ID)
RUN = "20260131-093000-5f2a"
OLDER_RUN = "20260130-080000-77aa"
assert len(LONG_ID) == 60


class Terminal(io.TextIOBase):
    """A text stream that writes to a pseudo-terminal of a given width."""

    def __init__(self, columns):
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self.encoding_errors, self.written = "strict", []

    @property
    def encoding(self):
        return "utf-8"

    def fileno(self):
        return self.slave

    def isatty(self):
        return os.isatty(self.slave)

    def write(self, text):
        """Write, and read what the terminal got, so that its buffer is never full."""
        for start in range(0, len(text), 500):
            os.write(self.slave, text[start : start + 500].encode())
            self.written.append(os.read(self.master, 8192))
        return len(text)

    def text(self):
        decoder = codecs.getincrementaldecoder("utf-8")()
        return "".join(decoder.decode(part) for part in self.written).replace("\r\n", "\n")

    def close(self):
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def in_terminal(screen, monkeypatch):
    """Call `screen` in a terminal so many columns wide; its plain text."""
    from rich.text import Text

    def call(columns, *arguments):
        terminal = Terminal(columns)
        monkeypatch.delenv("COLUMNS", raising=False)
        monkeypatch.setenv("TERM", "xterm-256color")
        with monkeypatch.context() as streams:
            streams.setattr(sys, "stdout", terminal)
            # Rich asks the first standard stream that is a terminal for its size.
            streams.setattr("rich.console._STD_STREAMS", (terminal.slave,))
            outcome = screen(*arguments)
        assert outcome.code == 0, outcome.err
        text = Text.from_ansi(terminal.text()).plain
        terminal.close()
        return text

    return call


@pytest.fixture
def listed(screen):
    """Two runs over three materials with long ids, with predictions, calculations, failures."""
    structures = {name: crystal(i) for i, name in enumerate(IDS)}
    reason = "the density of this cell did not converge in so many steps, as a long reason says"
    with open_store(DB) as store:
        for run_id, positives in ((OLDER_RUN, ()), (RUN, IDS)):
            run = put_run(store, structures, positives, run_id=run_id)
            begun = run.created_at - timedelta(days=run_id == OLDER_RUN)
            source = {"name": "structures_of_a_long_campaign.parquet", "database_version": "2025.9"}
            changes = {"created_at": begun, "source": source}
            store.put_run(Run.model_validate(run.model_dump() | changes))
        for name, structure in structures.items():
            document = candidate(RUN, name, structure, energy_above_hull=0.1)
            put_prediction(store, document, with_gap(True))
        store.upsert_candidates(
            [candidate(RUN, f"{LONG_ID[:-1]}2", crystal(9), state="failed", reason=reason)]
        )
        store.upsert_validations(
            ValidationDoc(
                material_id=name,
                structure_hash=candidate(RUN, name, structure).structure_hash,
                engine="gpaw",
                recipe="pbe-standard-v2",
                state="done",
                run_ids=[RUN],
                is_positive=False,
            )
            for name, structure in structures.items()
        )


def assert_fits(text, columns, whole):
    lines = text.splitlines()
    assert max(map(len, lines)) <= columns, max(lines, key=len)
    for name in whole:
        words = [line for line in lines if name in line]
        assert words, f"{name} is not whole in\n{text}"


COMMANDS = {
    "runs": (("runs",), (RUN, OLDER_RUN)),
    "candidates": (("candidates",), IDS),
    "all candidates": (("candidates", "--all"), IDS),
    "failed": (("candidates", "--state", "failed"), (f"{LONG_ID[:-1]}2",)),
    "disagreements": (("candidates", "--disagreements"), IDS),
    "similar": (("similar", "mp-1234567"), IDS),
    "similar to a long name": (("similar", LONG_ID), IDS),
    "history": (("history", LONG_ID), (LONG_ID, RUN, OLDER_RUN)),
    "show": (("show", LONG_ID), (LONG_ID, RUN)),
    "metrics": (("metrics",), (RUN,)),
}


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("name", COMMANDS)
def test_lists_fit_the_terminal(listed, in_terminal, name, columns):
    arguments, whole = COMMANDS[name]
    text = in_terminal(columns, *arguments)
    assert_fits(text, columns, whole)


def test_what_has_left_is_said_and_wide_shows_it(listed, in_terminal):
    narrow = in_terminal(80, "candidates")
    assert "Not shown at this width: " in narrow
    assert "robust" in narrow.split("Not shown at this width: ")[1]
    wide = in_terminal(80, "candidates", "--wide")
    assert "Not shown" not in wide
    header = wide.splitlines()[2]
    for column in ("material", "formula", "hull eV/atom", "score eV", "kind", "robust"):
        assert column in header


def test_a_pipe_has_every_column_and_one_line_a_row(listed, screen):
    out = screen("candidates", "--state", "failed").out
    assert "Not shown" not in out
    (row,) = [line for line in out.splitlines() if LONG_ID[:-1] in line]
    assert "as a long reason says" in row


# the table itself


def rendered(columns, rows, width, title=None):
    stream = io.StringIO()
    Console(file=stream, width=width).print(table(title, columns, rows))
    return stream.getvalue()


COLUMNS = (Column("name"), Column("a number", 1), Column("x", 3), Column("remark", 2, folds=True))
ROWS = [("some-id", 1.25, True, "word " * 20), ("another", None, False, "short")]


def test_the_least_important_column_leaves_first():
    seen = []
    for width in range(100, 8, -1):
        text = rendered(COLUMNS, ROWS, width)
        assert max(map(len, text.splitlines())) <= width
        assert "some-id" in text
        names = " ".join(text.split()).partition("Not shown at this width: ")[2]
        seen.append(names.removesuffix(" (--wide)"))
    assert list(dict.fromkeys(seen)) == ["", "x", "x, remark", "a number, x, remark"]


def test_numbers_stay_whole_and_only_remarks_fold():
    text = rendered(COLUMNS, ROWS, 50)
    assert "1.25" in text
    assert text.count("word") == 20
    assert len(text.splitlines()) > 8


def test_ids_wider_than_the_table_begin_paragraphs():
    rows = [(LONG_ID, 1.25, True, "a remark"), ("mp-1", None, False, "-")]
    text = rendered((Column("name"), Column("n"), Column("x", 1), Column("remark")), rows, 60)
    assert text.splitlines() == [
        LONG_ID,
        "  n 1.25, remark a remark",
        "mp-1",
        "Not shown at this width: x (--wide)",
    ]


def test_nothing_in_a_table_is_markup():
    rows = [("H2[relaxed]", "[/]"), ("[bold]x[/bold]", "[red]")]
    text = rendered(("[id]", Column("[/]")), rows, 80, title="[/] of [red]")
    for words in ("H2[relaxed]", "[/]", "[bold]x[/bold]", "[red]", "[/] of [red]", "[id]"):
        assert words in text


def test_an_empty_table_has_its_headers():
    text = rendered(COLUMNS, [], 80, title="0 rows")
    assert "0 rows" in text
    assert "a number" in text


def test_lines_are_as_long_as_they_must_be_in_a_pipe(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert output.stdout().width == output.UNLIMITED


# runs by a prefix, materials wherever they are


def test_a_run_is_called_by_any_prefix_that_only_it_has(listed, screen):
    for prefix in (RUN, RUN[:-1], RUN[:8], "20260131"):
        rows = json.loads(screen("candidates", "--run", prefix, "--json").out)
        assert {row["run_id"] for row in rows} == {RUN}
    assert json.loads(screen("metrics", "--run", "20260131", "--json").out)["run_id"] == RUN


@pytest.mark.parametrize(
    ("prefix", "words"),
    [
        ("2026013", f"--run 2026013: 2 runs begin so: {RUN}, {OLDER_RUN}"),
        ("2027", "has no run '2027'"),
        ("", "has no run ''"),
        ("5f2a", "has no run '5f2a'"),
    ],
)
def test_a_prefix_of_no_or_of_several_runs_is_one_line(listed, screen, prefix, words):
    outcome = screen("candidates", "--run", prefix)
    assert outcome.code != 0
    assert words in outcome.err
    assert len(outcome.err.splitlines()) == 1


def test_a_whole_id_is_that_run_even_if_others_begin_with_it(listed, screen):
    with open_store(DB) as store:
        put_run(store, {"m": crystal(1)}, ["m"], run_id=RUN + "-more")
    (row, *_) = json.loads(screen("candidates", "--run", RUN, "--json").out)
    assert row["run_id"] == RUN


def test_a_material_is_found_in_whichever_run_has_it(listed, screen):
    with open_store(DB) as store:
        put_run(store, {"only-here": crystal(20), "other": crystal(21)}, run_id="newest")
        document = candidate(OLDER_RUN, "old", crystal(22))
        store.upsert_candidates([document])
        put_prediction(store, document, with_gap(False))
    assert json.loads(screen("show", "mp-1234567", "--json").out)["run_id"] == RUN
    assert json.loads(screen("show", "old", "--json").out)["run_id"] == OLDER_RUN
    assert OLDER_RUN in screen("show", "old").out
    shown = screen("show", "mp-1234567", "--run", OLDER_RUN[:10], "--json")
    assert json.loads(shown.out)["run_id"] == OLDER_RUN
    outcome = screen("similar", "old")
    assert f"old as in run {OLDER_RUN}" in outcome.err
    assert "mp-1234567" in outcome.out
    outcome = screen("show", "old", "--run", "newest")
    assert outcome.code != 0
    words = f"old is not in run newest; the newest that has it is {OLDER_RUN}"
    assert words in " ".join(outcome.err.split())


def test_similar_takes_the_newest_run_that_predicted_the_material(listed, screen):
    with open_store(DB) as store:
        put_run(store, {}, run_id="newest")
        failed = candidate(
            "newest", "mp-1234567", crystal(0), state="failed", reason="bad", model_id=None
        )
        store.upsert_candidates([failed])
    assert json.loads(screen("show", "mp-1234567", "--json").out)["run_id"] == "newest"
    assert f"as in run {RUN}" in screen("similar", "mp-1234567").err


# doubts


@pytest.mark.slow
def test_doubts_are_listed_filtered_and_shown(listed, screen, in_terminal):
    with open_store(DB) as store:
        store.upsert_candidates(
            [
                candidate(
                    RUN,
                    "mp-1234567",
                    crystal(0),
                    is_positive=True,
                    is_positive_per_atom=False,
                    unseen_elements=["Po"],
                    has_isolated_atoms=True,
                    out_of_domain=True,
                    in_domain="no",
                    remarks=["sites were merged [/]"],
                ),
                candidate(
                    RUN,
                    LONG_ID,
                    crystal(2),
                    is_positive=True,
                    is_positive_per_atom=True,
                    unseen_elements=[],
                    has_isolated_atoms=False,
                    out_of_domain=False,
                    in_domain="near",
                    training_percentile=80.5,
                    exceeds_training_cells=False,
                ),
            ]
        )
    rows = {r["material_id"]: r for r in json.loads(screen("candidates", "--json").out)}
    doubts = ["not trained on Po", "isolated atoms", "no gap per atom", "sites were merged [/]"]
    assert rows["mp-1234567"]["doubts"] == doubts
    assert rows["folder/run1/CONTCAR#2"]["doubts"] == ["model's domain not known"]  # older
    near = "a little unlike the training materials (percentile 80)"
    assert rows[LONG_ID]["doubts"] == [near]
    words = {"mp-1234567": "no", "folder/run1/CONTCAR#2": None, LONG_ID: "near"}
    assert {name: row["in_domain"] for name, row in rows.items()} == words

    def ids(*arguments):
        found = json.loads(screen("candidates", *arguments, "--json").out)
        return [row["material_id"] for row in found]

    assert ids("--in-domain") == [LONG_ID]
    assert ids("--out-of-domain") == ["mp-1234567"]
    assert ids("--domain", "near") == ids("--domain", "yes, near") == [LONG_ID]
    assert set(ids("--domain", "near,no")) == {LONG_ID, "mp-1234567"}
    assert ids("--domain", "yes") == []
    for wrong in ("maybe", "yes,maybe", ""):
        line = f"screen: --domain {wrong}: use yes, near, no, or several with commas"
        assert screen("candidates", "--domain", wrong).err.strip() == line
    assert "1 near it, 1 out of it" in " ".join(screen("candidates").out.split())
    assert len(ids()) == 3
    assert "; ".join(doubts) in screen("candidates").out
    narrow = in_terminal(80, "candidates", "--out-of-domain")
    assert_fits(narrow, 80, ["mp-1234567"])
    assert "not trained on" in narrow
    shown = " ".join(screen("show", "mp-1234567").out.split())
    assert "no: not trained on Po, isolated atoms" in shown
    assert "sites were merged [/]" in shown
    document = json.loads(screen("show", "mp-1234567", "--json").out)
    assert document["out_of_domain"]
    assert document["out_of_domain_because"] == ["not trained on Po", "isolated atoms"]
    assert "not known" in screen("show", "folder/run1/CONTCAR#2").out
    assert f"near: {near}" in " ".join(screen("show", LONG_ID).out.split())
    assert json.loads(screen("show", LONG_ID, "--json").out)["near_domain_because"] == [near]
