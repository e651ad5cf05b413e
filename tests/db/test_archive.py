"""A run in an archive: what comes out is what went in, and nothing is believed unseen."""

from __future__ import annotations

import hashlib
import io
import json
import random
import zipfile
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from db.archive import MANIFEST, write_archive
from db.collections import CANDIDATES, COLLECTIONS, PREDICTIONS, RUNS, VALIDATIONS, Query
from db.columns import arrow_schema, from_row, to_row
from db.copy import copy_store
from db.documents import EnergyGrid, FilterCount
from db.errors import StoreError
from db.open import open_source, open_store
from db.opened_archive import OpenedArchive
from db.paths import without_folders
from tests.db.db_examples import START, candidate, gap, prediction, round_document, run, validation

RAW = {"@class": "Dos", "efermi": 0.5, "energies": [-1.0, 1.0], "densities": {"1": [0.25, 2.0]}}
HOME = "/home/ann/My data/runs/checkpoints/mine"
SECRET = "mongodb://ann:hunter2@db.example.org/screening"
N = 1100  # more than a batch


def fill(store, n=N):
    """A run with n candidates, and another one that is not to be exported."""
    reference = store.put_raw_dos(RAW)
    one = run(
        "run-1",
        selection=["mp-1", "mp-2"],
        parameters={"checkpoint": HOME, "filters": {"max_ehull": 0.5}, "source": SECRET},
        funnel=[FilterCount(name="hull", entered=10, dropped=4)],
    )
    store.put_run(one)
    store.put_run(run("run-2", created_at=START + timedelta(days=1)))
    features = {"vb_gap": {"width": 1.25, "lower_edge": None}, "n_atoms": 2.0}
    special = {
        1: {"gap": gap(), "is_positive": True, "score": -0.0, "state": "screened"},
        2: {"criterion": "steep-edge", "features": features},
        3: {"state": "failed", "reason": f"cannot read {HOME}.cif: odd", "structure": None},
        5: {"state": "failed", "reason": "ünreadable\n日本", "structure_hash": None},
    }
    store.upsert_candidates(candidate(i, **special.get(i, {})) for i in range(n))
    store.upsert_candidates([candidate(7, "run-2")])
    store.upsert_predictions(prediction(i) for i in range(0, n, 2))
    store.upsert_predictions([prediction(1, "another-model")])
    store.upsert_validations(
        [
            validation(1, run_ids=["run-1"], raw_dos=reference),
            validation(2, run_ids=["run-1"], state="failed", error=f"died in {HOME}/job",
                       spectrum=None, grid=None, gap=None, is_positive=None, raw_dos=None),
            validation(3, run_ids=["run-2"]),
        ]
    )  # fmt: skip
    store.put_round(round_document(run_id="run-1", chosen_in="run-1", checkpoint=HOME))
    return one


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    with open_store(tmp_path_factory.mktemp("filled") / "s.sqlite") as store:
        one = fill(store)
        yield store, one


@pytest.fixture(scope="module")
def archive(filled, tmp_path_factory):
    store, one = filled
    path = tmp_path_factory.mktemp("archive") / "run.zip"
    write_archive(store, one, path, {"README.md": b"# Run\n"}, attributions=["A source"])
    return path


def everything(store):
    return {
        c.name: sorted(store.find(Query(c, with_structure=True)), key=c.key) for c in COLLECTIONS
    }


@pytest.mark.slow
def test_a_copy_has_all_documents_of_the_run_and_no_other(filled, archive, tmp_path):
    store, one = filled
    with open_source(archive) as source, open_store(tmp_path / "copy.sqlite") as target:
        report = copy_store(source, target)
        copies = everything(target)
        assert target.raw_dos(copies["validations"][0].raw_dos) == RAW
        assert [c.documents for c in report] == [1, N, N // 2, 2, 1, 1]
        assert list(source.problems) == []
        again = copy_store(source, target)
        assert [c.written for c in again] == [0] * 6
        assert [c.checksum for c in again] == [c.checksum for c in report]
    originals = everything(store)
    candidates = [c for c in originals["candidates"] if c.run_id == "run-1"]
    for copied, original in zip(copies["candidates"], candidates, strict=True):
        if copied.material_id != "mp-3":  # whose reason names a folder
            assert copied == original
            assert repr(copied) == repr(original)  # types, and the sign of zero, too
    assert copies["predictions"] == [
        p for p in originals["predictions"] if p.model_id == one.model_id
    ]
    assert copies["validations"][0] == originals["validations"][0]


@pytest.mark.mongo
def test_a_store_is_no_archive_nor_called_so(archive, tmp_path):
    for path in (archive, tmp_path / "new.zip"):
        with pytest.raises(StoreError, match=r"a \.zip is an archive of `screen export`"):
            open_store(path)
    assert not (tmp_path / "new.zip").exists()
    open_store(tmp_path / "old.sqlite").close()
    (tmp_path / "old.sqlite").rename(tmp_path / "old.zip")
    with open_source(tmp_path / "old.zip") as renamed:
        assert renamed.runs() == []


def test_an_archive_fills_mongodb_and_comes_out_of_it_the_same(archive, mongo_database, tmp_path):
    with open_source(archive) as source, open_store(mongo_database) as target:
        assert copy_store(source, target)[1].documents == N
        assert {c.written for c in copy_store(source, target)} == {0}
        path = tmp_path / "again.zip"
        write_archive(target, target.run("run-1"), path, {})
    with zipfile.ZipFile(archive) as one, zipfile.ZipFile(path) as other:
        for collection in COLLECTIONS:
            name = f"{collection.name}.parquet"
            assert one.read(name) == other.read(name)


@pytest.mark.slow
def test_folders_and_passwords_do_not_leave(archive):
    with zipfile.ZipFile(archive) as file:
        manifest = json.loads(file.read(MANIFEST))
        tables = {name: file.read(name) for name in file.namelist() if name.endswith(".parquet")}
    assert manifest["without_folders"] == {
        "candidates.reason": 1,
        "rounds.checkpoint": 1,
        "runs.parameters.checkpoint": 1,
        "runs.parameters.source": 1,
        "validations.error": 1,
    }
    text = "".join(str(pq.read_table(io.BytesIO(data)).to_pylist()) for data in tables.values())
    for secret in ("/home", "ann/", "ann:", "hunter2"):
        assert secret not in text
    (stored,) = pq.read_table(io.BytesIO(tables["runs.parquet"])).to_pylist()
    assert json.loads(stored["parameters"]) == {
        "checkpoint": "mine",
        "filters": {"max_ehull": 0.5},
        "source": "mongodb://db.example.org/screening",
    }


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/ann", "~"),
        ("/home/ann/", "~"),
        ("/home/ann: permission denied", "~: permission denied"),
        (r"C:\Users\Ann Lee\models\mine", "mine"),
        (r"\\server\share\mine", "mine"),
        ("~/data/x.cif", "x.cif"),
        ("~ann/data/x.cif", "x.cif"),
        ("file:///root/x.cif is gone", "x.cif is gone"),
        ("no run1/CONTCAR, 0.5 eV/atom, and/or 1/2", "no run1/CONTCAR, 0.5 eV/atom, and/or 1/2"),
        ("https://materialsproject.org/a/b", "https://materialsproject.org/a/b"),
        ("doi:10.1063/1.4812323", "doi:10.1063/1.4812323"),
        ("a / b", "a / b"),
        ("./models/mine", "./models/mine"),
        ("at '/tmp/a b/c.txt'", "at 'a b/c.txt'"),
    ],
)
def test_only_names_are_left_of_absolute_paths(text, left):
    assert without_folders(text) == left


def test_the_same_run_gives_the_same_bytes(filled, archive, tmp_path):
    store, one = filled
    path = tmp_path / "again.zip"
    write_archive(store, one, path, {"README.md": b"# Run\n"}, attributions=["A source"])
    assert path.read_bytes() == archive.read_bytes()


@pytest.mark.slow
def test_a_calculation_stays_that_of_the_runs_that_asked_for_it_here(archive, tmp_path):
    with open_source(archive) as source, open_store(tmp_path / "mine.sqlite") as target:
        target.put_run(run("mine"))
        target.upsert_validations([validation(1, run_ids=["mine"])])
        for written in (2, 0):
            assert {c.name: c for c in copy_store(source, target)}["validations"].written == written
        (calculation,) = target.validations(run_id="mine")
        assert calculation.run_ids == ["run-1", "mine"]
        assert {v.material_id for v in target.validations(run_id="run-1")} == {"mp-1", "mp-2"}


def test_raw_dos_can_be_left_out(tmp_path):
    path = tmp_path / "small.zip"
    with open_store(tmp_path / "s.sqlite") as store:
        one = fill(store, 4)
        manifest = write_archive(store, one, path, {}, with_raw_dos=False)
    assert manifest.raw_dos == "left out"
    with open_source(path) as source, open_store(tmp_path / "copy.sqlite") as target:
        assert copy_store(source, target)[-1].documents == 0
        assert len(list(target.validations())) == 2


def test_others_read_the_tables_with_pandas(archive, tmp_path):
    with zipfile.ZipFile(archive) as file:
        file.extractall(tmp_path)
    table = pq.read_table(tmp_path / "predictions.parquet")
    assert table.schema.field("spectrum").type == pa.list_(pa.float32(), 128)
    frame = table.to_pandas()
    assert frame["spectrum"][0].tolist() == prediction(0).spectrum
    candidates = pq.ParquetFile(tmp_path / "candidates.parquet")
    assert candidates.num_row_groups == 2
    assert {field.name for field in candidates.schema_arrow} == set(candidate(1).model_dump())
    schema = json.loads((tmp_path / "schema" / "candidates.json").read_text())
    assert set(schema["properties"]) == set(candidate(1).model_dump())


def test_documents_are_rows_and_rows_are_documents():
    for document in (run(), candidate(1), prediction(1), validation(1), round_document()):
        kind = type(document)
        rows = [to_row(kind, document.model_dump())]
        (row,) = pa.Table.from_pylist(rows, schema=arrow_schema(kind)).to_pylist()
        assert kind.model_validate(from_row(kind, row)) == document


def test_spectra_of_two_lengths_are_kept(tmp_path):
    grid = EnergyGrid(start=-310.0, width=20.0, size=66, unit="cm^-1")
    with open_store(tmp_path / "s.sqlite") as store:
        one = run("run-1", model_id="phonons", second_model_id="mat2spec-1")
        store.put_run(one)
        store.upsert_candidates([candidate(1)])
        phonons = prediction(1, "phonons", grid=grid, spectrum=[0.5] * 66, gap=None, score=None)
        store.upsert_predictions([phonons, prediction(1)])
        write_archive(store, one, tmp_path / "a.zip", {})
    with open_source(tmp_path / "a.zip") as source:
        lengths = {len(p.spectrum) for p in source.find(Query(PREDICTIONS))}
    assert lengths == {66, 128}


# What comes from others


def rewritten(archive, path, change=None, manifest=None, add=(), leave=()):
    """Copy of an archive with other members; hashes in the manifest are made right again."""
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, "w") as target:
        document = json.loads(source.read(MANIFEST))
        for name in source.namelist():
            if name == MANIFEST or name in leave:
                continue
            content = source.read(name)
            if change and name in change:
                content = change[name](content)
                digest = hashlib.sha256(content).hexdigest()
                document["members"][name] |= {"sha256": digest, "bytes": len(content)}
            target.writestr(name, content)
        for name, content in add:
            target.writestr(name, content)
        if manifest:
            document = manifest(document)
        target.writestr(MANIFEST, json.dumps(document))
    return path


def refused(path, *words):
    with pytest.raises(StoreError) as error:
        open_source(path)
    message = str(error.value)
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message


def test_what_is_no_archive_is_refused(archive, tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(b"")
    refused(path, "no zip file")
    path.write_bytes(b"PK\x03\x04 and nothing more")
    refused(path, "no zip file")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("photo.png", b"x")
    refused(path, "no archive of `screen export`")
    for content in (b"[]", b"{", b'{"format": "other", "format_version": 1}', b"null"):
        with zipfile.ZipFile(path, "w") as file:
            file.writestr(MANIFEST, content)
        refused(path, "no archive of `screen export`")
    refused(rewritten(archive, path, manifest=lambda d: d | {"format_version": 2}), "format 2")
    refused(rewritten(archive, path, manifest=lambda d: d | {"schema_version": 9}), "version 9")
    refused(rewritten(archive, path, manifest=lambda d: d | {"members": 3}), MANIFEST)


def test_truncated_and_damaged_archives_are_refused(archive, tmp_path):
    whole, path = archive.read_bytes(), tmp_path / "x.zip"
    chance = random.Random(1)
    for _ in range(20):
        path.write_bytes(whole[: chance.randrange(4, len(whole))])
        refused(path)
    flipped = 0
    for _ in range(40):
        data = bytearray(whole)
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        path.write_bytes(data)
        try:
            with open_source(path) as source:
                for collection in COLLECTIONS:
                    list(source.find(Query(collection)))
                assert not source.problems
        except StoreError:
            flipped += 1
    assert flipped > 30  # the others are bits of a zip that mean nothing, such as a time


@pytest.mark.parametrize("name", [MANIFEST, "runs.parquet"])
def test_encrypted_archives_are_refused(archive, tmp_path, name):
    data, path = bytearray(archive.read_bytes()), tmp_path / "x.zip"
    for signature, flags, start in ((b"PK\x03\x04", 6, 30), (b"PK\x01\x02", 8, 46)):
        places = [i for i in range(len(data)) if data.startswith(signature, i)]
        (place,) = (i for i in places if data.startswith(name.encode(), i + start))
        data[place + flags] |= 1
    path.write_bytes(data)
    refused(path, f"'{name}' is damaged or encrypted; ask for it again")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_manifest_that_was_compressed_and_damaged_is_refused(archive, tmp_path, method):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            kind = method if name == MANIFEST else zipfile.ZIP_STORED
            target.writestr(zipfile.ZipInfo(name), source.read(name), kind)
        place = target.getinfo(MANIFEST).header_offset
    whole, n_refused = path.read_bytes(), 0
    for i in range(place + 30 + len(MANIFEST), place + 90, 3):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :])
        try:
            open_source(path).close()
        except StoreError:
            n_refused += 1
    assert n_refused > 10  # the others are bytes of a header that mean nothing


def test_jobs_of_the_launchpad_here_are_nobody_elses(tmp_path):
    path, mine = tmp_path / "a.zip", {"run_ids": ["run-1"], "raw_dos": None}
    with open_store(tmp_path / "s.sqlite") as store:
        store.put_run(run())
        states = dict(enumerate(("done", "magnetic", "queued", "running", "failed")))
        store.upsert_validations(validation(i, state=s, **mine) for i, s in states.items())
        write_archive(store, run(), path, {})
        with open_store(tmp_path / "copy.sqlite") as copy:
            copy_store(store, copy)
            assert all(v.job_uuids for v in copy.validations())
    with open_source(path) as source:
        found = {v.state: v.job_uuids for v in source.find(Query(VALIDATIONS))}
    finished = {"done": ["6f1c"], "magnetic": ["6f1c"]}
    assert found == finished | {"queued": [], "running": [], "failed": []}


def test_members_that_the_manifest_does_not_know_are_refused(archive, tmp_path):
    path = tmp_path / "x.zip"
    for name in ("../../evil", "/etc/passwd", "C:\\evil", "extra.txt", "a/../../b"):
        refused(rewritten(archive, path, add=[(name, b"x")]), "is not where manifest.json says")
        hashed = {"sha256": hashlib.sha256(b"x").hexdigest(), "bytes": 1}
        listed = {name: hashed}
        rewritten(
            archive, path, add=[(name, b"x")],
            manifest=lambda d, more=listed: d | {"members": d["members"] | more},
        )  # fmt: skip
        with open_source(path) as source:  # listed: hashed, and never written under that name
            assert source.count(Query(RUNS)) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.zip"]
    with pytest.warns(UserWarning, match="Duplicate"):
        rewritten(archive, path, add=[("runs.parquet", b"x")])
    refused(path)
    refused(rewritten(archive, path, leave=("runs.parquet",)), "runs.parquet")


def test_bombs_are_refused_before_they_are_unpacked(archive, tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(archive) as source, zipfile.ZipFile(path, "w") as target:
        document = json.loads(source.read(MANIFEST))
        document["members"]["bomb"] = {"sha256": 64 * "0", "bytes": 10**9}
        for name in source.namelist():
            if name != MANIFEST:
                target.writestr(name, source.read(name))
        with target.open(zipfile.ZipInfo("bomb"), "w") as bomb:
            bomb.write(b"0" * 1000)
        target.writestr(zipfile.ZipInfo("zeros"), b"0" * 10**7, zipfile.ZIP_DEFLATED)
        document["members"]["zeros"] = {"sha256": 64 * "0", "bytes": 10**7}
        target.writestr(MANIFEST, json.dumps(document))
    refused(path, "'bomb' is damaged")
    table = pa.table({"run_id": pa.array(["x"] * 100_000)})
    content = io.BytesIO()
    pq.write_table(table, content)
    change = {"runs.parquet": lambda _: content.getvalue()}
    refused(rewritten(archive, path, change=change), "not as `screen export` writes it")


@pytest.mark.slow
def test_documents_are_checked_one_by_one(archive, tmp_path):
    def spoil(content):
        rows = pq.read_table(io.BytesIO(content)).to_pylist()
        schema = pq.read_schema(io.BytesIO(content))
        rows[5]["structure"] = "{"
        rows[6]["origin"] = '{"a.b": 1}'
        rows[7]["score"] = float("nan")
        rows[8]["state"] = "failed"
        out = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), out, row_group_size=1000)
        return out.getvalue()

    path = rewritten(archive, tmp_path / "x.zip", change={"candidates.parquet": spoil})
    with open_source(path) as source, open_store(tmp_path / "copy.sqlite") as target:
        report = {c.name: c for c in copy_store(source, target)}
        assert report["candidates"].unreadable == 4
        assert report["candidates"].documents == N - 4
        reasons = [str(problem) for problem in source.problems]
        assert len(reasons) == 4
        assert all("candidates run-1, mp-" in reason for reason in reasons)


def test_columns_of_a_newer_program_are_named(archive, tmp_path):
    def widen(content):
        table = pq.read_table(io.BytesIO(content))
        out = io.BytesIO()
        pq.write_table(table.append_column("spin", pa.array([1] * len(table))), out)
        return out.getvalue()

    path = rewritten(archive, tmp_path / "x.zip", change={"validations.parquet": widen})
    refused(path, "column 'spin'", "install a newer version")

    def narrow(content):  # and those of an older one lack some
        table = pq.read_table(io.BytesIO(content)).drop_columns(["warnings", "wall_time"])
        out = io.BytesIO()
        pq.write_table(table, out)
        return out.getvalue()

    path = rewritten(archive, tmp_path / "x.zip", change={"validations.parquet": narrow})
    with open_source(path) as source:
        assert all(v.warnings == [] for v in source.find(Query(VALIDATIONS)))


def test_no_copy_of_the_tables_stays_behind(archive):
    source = OpenedArchive(archive)
    folder = source._folder.name
    assert list(source.find(Query(CANDIDATES)))
    source.close()
    source.close()
    assert not Path(folder).exists()
