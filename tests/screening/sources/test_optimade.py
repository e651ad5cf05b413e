"""OPTIMADE databases, against OPTIMADE's own server package."""

import itertools
import sys
import tracemalloc

import numpy as np
import pytest

from screening.candidate import Candidate, Unreadable
from screening.errors import ScreeningError
from screening.filters import ScreeningFilters
from screening.sources import open_source
from screening.sources.optimade.kept_pages import Facts, KeptPages
from screening.sources.optimade.server import ATTEMPTS, Page
from screening.sources.optimade.source import OptimadeSource
from tests.screening import optimade_server
from tests.screening.optimade_server import entry

pytest.importorskip("optimade", reason="the server's own code needs optimade")
pytest.importorskip("mongomock", reason="the server's own code needs mongomock")
pytestmark = [  # of the server's own code
    pytest.mark.filterwarnings("ignore:Structure with attributes"),
    pytest.mark.filterwarnings("ignore:Accessing the 'model_fields'"),
]

PAGE = 20  # structures, the server's own choice when it refuses ours
SWITCHED_OFF = {"max_energy_above_hull": None, "max_band_gap": None}
ANY = ScreeningFilters.from_options(**SWITCHED_OFF)
KINDS = [("Mg", "O"), ("Al",), ("Si", "Si"), ("U", "O"), ("Li", "Mg", "Al", "Si", "O")]
HULLS = [0.0, 0.3, 0.7, None]
GAPS = [0.0, 1.5, None]


def entries():
    for k, (symbols, hull, gap) in enumerate(itertools.product(KINDS, HULLS, GAPS)):
        yield entry(k, symbols, 4.0 + k / 100, stability=hull, band_gap=gap)


@pytest.fixture(scope="module")
def running():
    fields = [("stability", "eV/atom"), ("band_gap", "eV")]
    with optimade_server.optimade(list(entries()), "oqmd", fields) as running:
        yield running


@pytest.fixture
def server(running):
    running[1].clear()
    return running


@pytest.fixture
def opened(server, tmp_path):
    """Open the database with an empty cache; pauses are noted and not waited for."""
    pauses = []

    def open_it(filters=ANY, **options):
        source = f"optimade:{options.pop('url', server[0])}"
        return open_source(
            source, filters=filters, cache_dir=tmp_path, sleep=pauses.append, **options
        )

    open_it.pauses = pauses
    return open_it


def ids(items):
    return [item.material_id for item in items]


@pytest.fixture(scope="module")
def everything(running, tmp_path_factory):
    """All candidates of the database."""
    running[1].clear()
    filters = ScreeningFilters.from_options(max_elements=None, **SWITCHED_OFF)
    folder = tmp_path_factory.mktemp("everything")
    return list(open_source(f"optimade:{running[0]}", filters=filters, cache_dir=folder))


@pytest.mark.slow
def test_all_structures_come_over_many_pages(opened, server):
    source = opened(ScreeningFilters.from_options(max_elements=None, **SWITCHED_OFF))
    items = list(source)
    expected = list(entries())
    assert ids(items) == [e["id"] for e in expected]
    assert source.total == len(expected)
    assert [r.get("page_limit") for r in server[1].requests[:5]] == [
        "1000",
        "500",
        "100",
        None,
        None,
    ]
    assert len(server[1].requests) == 3 + len(expected) / PAGE
    for item, known in zip(items, expected, strict=True):
        crystal = item.structure
        assert np.allclose(crystal.lattice, known["lattice_vectors"])
        cartesian = crystal.frac_coords @ crystal.lattice
        assert np.allclose(cartesian, known["cartesian_site_positions"])
        assert sorted(crystal.composition) == known["elements"]
        assert (item.energy_above_hull, item.band_gap) == (known["stability"], known["band_gap"])
        assert item.origin.last_updated.startswith("2026-01-02")


@pytest.mark.parametrize("unknown", ["keep", "drop"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_energy_above_hull": 0.3, "max_band_gap": None},
        {"max_elements": 1, **SWITCHED_OFF},
        {"elements": {"Mg", "O"}, "max_elements": 5, **SWITCHED_OFF},
        {"exclude_elements": {"U", "Al"}, **SWITCHED_OFF},
        {"max_sites": 1, **SWITCHED_OFF},  # of the primitive cell, which no server knows
    ],
)
def test_server_drops_what_the_filters_would_drop(opened, everything, options, unknown):
    filters = ScreeningFilters.from_options(
        nonmagnetic=False, without_edos=False, unknown=unknown, **options
    )
    source = opened(filters)
    expected = [c.material_id for c in everything if filters.judge(c).passed]
    answer = list(source)
    assert [c.material_id for c in answer if filters.judge(c).passed] == expected
    assert 0 < len(expected) < len(everything)
    if "max_sites" not in options:
        assert ids(answer) == expected
        assert source.applied.passed == len(expected)
        assert source.applied.entered == len(list(entries()))


def test_filter_of_ones_own(opened):
    source = opened(optimade_filter='elements HAS "U" OR nelements=1')
    assert {c.formula for c in source} == {"UO", "Al", "Si"}
    with pytest.raises(ScreeningError, match=r"has no structure that meets .*Pu"):
        opened(optimade_filter='elements HAS "Pu"')


def test_filter_that_is_none_is_refused_before_the_server_is_asked(opened, server):
    with pytest.raises(ScreeningError, match="--optimade-filter 'elements HAS': ") as refused:
        opened(optimade_filter="elements HAS")
    assert "\n" not in str(refused.value)
    assert server[1].requests == []


def test_limited_reading_asks_for_no_more_than_it_needs(opened, server):
    list(itertools.islice(opened(optimade_filter="nsites>0"), 3))
    assert "page_limit" not in server[1].requests[-1]
    assert "page_offset" not in server[1].requests[-1]


def test_answer_is_kept(opened, server):
    first = list(opened())
    n = len(server[1].requests)
    again = opened()
    assert ids(again) == ids(first)
    assert len(server[1].requests) == n
    assert again.fingerprint == opened().fingerprint
    opened(refresh=True)
    assert len(server[1].requests) > n


@pytest.mark.parametrize("fault", [500, 503, 429, "cut", lambda answer: {**answer, "data": None}])
def test_a_page_that_fails_once_is_asked_for_again(opened, server, fault):
    expected = ids(opened())
    n = len(server[1].requests)
    server[1].clear()
    server[1].plan = {n - 2: fault}
    if callable(fault):
        with pytest.raises(ScreeningError, match="no list of structures"):
            list(opened(refresh=True))
        return
    assert ids(opened(refresh=True)) == expected
    assert opened.pauses == [2.0]
    assert len(server[1].requests) == n + 1


def test_answer_that_broke_off_goes_on_where_it_stopped(opened, server):
    expected = ids(opened())
    server[1].clear()
    opened(refresh=True)
    first = len(server[1].requests)
    server[1].plan = dict.fromkeys(range(first + 2, 100), 500)
    items = []
    with pytest.raises(ScreeningError, match=r"127\.0\.0\.1: the server has a problem \(500\)"):
        items.extend(opened())
    assert len(opened.pauses) == ATTEMPTS - 1
    server[1].clear()
    assert ids(opened()) == expected
    asked = [int(request["page_offset"]) for request in server[1].requests]
    assert asked == sorted(asked)
    assert asked[0] == 2 * PAGE


@pytest.mark.slow
def test_pages_that_come_slowly(opened, server, monkeypatch):
    server[1].delay = 0.3
    assert len(list(itertools.islice(opened(), PAGE))) == PAGE
    monkeypatch.setattr("screening.sources.optimade.server.TIMEOUT", 0.05)
    monkeypatch.setattr("screening.sources.optimade.server.ATTEMPTS", 2)
    with pytest.raises(ScreeningError, match=r"127\.0\.0\.1: no answer within 0\.05 s"):
        list(opened())


def test_page_without_an_end_is_not_taken_in(opened, monkeypatch):
    monkeypatch.setattr("screening.sources.optimade.server.MAX_BYTES", 2000)
    with pytest.raises(ScreeningError, match="a page of it is larger than"):
        opened()


def test_server_that_is_not_there(opened):
    with pytest.raises(ScreeningError, match=r"cannot reach 127\.0\.0\.1: is there a network\?"):
        opened(url="http://127.0.0.1:9/v1")
    assert opened.pauses == [2.0, 4.0]


HALF_FULL = [
    {"name": name, "chemical_symbols": [name, "vacancy"], "concentration": [0.5, 0.5]}
    for name in ("Mg", "O")
]


def lie(**attributes):
    def change(answer):
        answer["data"][1]["attributes"].update(attributes)
        return answer

    return change


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"nsites": "2"}, "nsites is not a number but '2'"),
        ({"nsites": 3}, "3 sites by its own account, 2 are there"),
        ({"elements": "MgO"}, "elements is not a list but 'MgO'"),
        ({"elements": ["Mg"]}, "the entry is of Mg by its own account"),
        ({"lattice_vectors": None}, "the entry has no lattice_vectors"),
        ({"lattice_vectors": [[None] * 3] * 3}, "lattice"),
        ({"lattice_vectors": "4 4 4"}, "not a structure of OPTIMADE"),
        ({"cartesian_site_positions": [[0, 0, 0]]}, "3 coordinates for 2 atoms"),
        ({"cartesian_site_positions": [["a", 0, 0], [1, 2, 3]]}, "not a structure of OPTIMADE"),
        ({"species_at_sites": ["Mg", "X"]}, "the species 'X' of a site is not described"),
        ({"dimension_types": [1, 1, 0]}, "periodic in 2 of 3 directions"),
        ({"structure_features": ["disorder"]}, "it is disordered"),
        ({"_oqmd_stability": "low"}, "_oqmd_stability is not a number but 'low'"),
        ({"_oqmd_band_gap": True}, "_oqmd_band_gap is not a number but True"),
        ({"species": HALF_FULL}, "species 'Mg' has partial occupancies"),
        ({"species": [{"name": "Mg"}]}, "not a structure of OPTIMADE"),
        ({"species": 7}, "not a structure of OPTIMADE"),
    ],
)  # fmt: skip
def test_lie_about_one_structure_is_recorded_and_stops_nothing(opened, server, attributes, reason):
    server[1].edit = lie(**attributes)
    items = list(itertools.islice(opened(), PAGE))
    assert ids(items) == [f"s-{k}" for k in range(PAGE)]
    assert isinstance(items[0], Candidate)
    assert isinstance(items[1], Unreadable)
    assert reason in items[1].reason


@pytest.mark.parametrize(
    "broken", [None, "text", 7, [], {}, {"id": None}, {"id": "a"}, {"id": ["a"]}]
)
def test_entry_that_is_none(opened, server, broken):
    server[1].edit = lambda answer: {**answer, "data": [broken, *answer["data"]]}
    items = list(itertools.islice(opened(), PAGE))
    assert isinstance(items[0], Unreadable)
    assert isinstance(items[1], Candidate)
    assert len(set(ids(items))) == len(items)


def linking(url):
    return lambda answer: {**answer, "links": {"next": url}}


def test_link_to_another_host_is_not_followed(opened, server):
    server[1].edit = linking("http://elsewhere.example/v1/structures?page_offset=5")
    with pytest.raises(ScreeningError, match=r"another host \('elsewhere\.example'\)"):
        opened()


@pytest.mark.slow
def test_link_that_a_proxy_has_left_wrong_leads_to_the_server(opened, server):
    def change(answer):
        link = answer["links"]["next"]
        if link:
            answer["links"]["next"] = {"href": f"http://127.0.0.1:1/{link.split('/', 3)[3]}"}
        return answer

    expected = ids(opened())
    server[1].edit = change
    assert ids(opened(refresh=True)) == expected


def test_pages_that_go_round_in_circles(opened, server):
    server[1].edit = linking("?page_offset=20")
    with pytest.raises(ScreeningError, match="go round in circles: page 2 links to one"):
        list(opened())
    limits = itertools.count(5)

    def change(answer):  # the same structures for ever, under new addresses
        return {**answer, "links": {"next": f"?page_offset=0&page_limit={next(limits)}"}}

    server[1].edit = change
    with pytest.raises(ScreeningError, match="nothing new"):
        list(opened(refresh=True))


def test_more_without_a_link_is_told(opened, server):
    def change(answer):
        answer["meta"]["more_data_available"] = True
        return {**answer, "links": {"next": None}}

    server[1].edit = change
    source = opened()
    list(source)
    assert "the server says that there is more, and gives no link to it" in source.notes


def test_ids_that_come_twice_are_recorded(opened, server):
    server[1].edit = lambda answer: {**answer, "data": [*answer["data"], answer["data"][0]]}
    items = list(itertools.islice(opened(), PAGE + 1))
    assert items[PAGE] == Unreadable(
        f"{ids(items)[0]}#2", "the server has sent this id before; the first is used"
    )


@pytest.mark.slow
@pytest.mark.parametrize("status", [400, 501])
def test_server_that_cannot_filter_by_its_own_fields(opened, server, status):
    filters = ScreeningFilters(unknown="drop", nonmagnetic=False, without_edos=False)
    expected = ids(opened(filters))

    server[1].plan = {n: status for n in range(1, 40) if n % 3 != 2}  # all but the second attempt
    source = opened(filters, refresh=True)
    server[1].plan = {}
    assert "_oqmd_stability<=0.5 is left to us" in " ".join(source.notes)
    answer = list(source)
    assert len(answer) > len(expected)
    assert [c.material_id for c in answer if filters.judge(c).passed] == expected


def test_fields_that_are_not_described_now_are_not_taken_for_unknown(opened, server, tmp_path):
    server[1].info = 503
    with pytest.raises(ScreeningError, match=r"^127\.0\.0\.1: .*\(503\): try again later$"):
        opened(ScreeningFilters())
    assert not list(tmp_path.rglob("facts.json"))
    assert "the server gives no energy above hull" in opened().notes  # no filter needs it
    server[1].info = 404  # it has no such fields
    assert "the server gives no energy above hull" in opened(ScreeningFilters()).notes


def test_refusal_is_told_in_the_servers_words(opened, server):
    server[1].always = 401
    with pytest.raises(ScreeningError, match=r"does not answer this \(401\): no <b>luck</b>"):
        opened()
    assert opened.pauses == []


@pytest.mark.slow
def test_field_in_another_unit_is_not_used(tmp_path):
    fields = [("stability", "meV/atom"), ("band_gap", "eV")]
    with optimade_server.optimade([entry(0, stability=3.0, band_gap=0.0)], "oqmd", fields) as (
        url,
        _,
    ):
        source = open_source(f"optimade:{url}", cache_dir=tmp_path)
        (candidate,) = source
    assert candidate.energy_above_hull is None
    assert candidate.band_gap == 0.0
    assert "_oqmd_stability is not in eV and not used" in source.notes
    assert "the server gives no energy above hull" in source.notes


def test_provider_and_licence_are_cited(opened):
    source = opened()
    assert source.attribution == (
        "Data from Example & <b>sons</b> (https://example.org/) by OPTIMADE, licence CC-BY-4.0"
    )
    assert source.provenance["retrieved"].startswith("20")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("https://ann:hush@example.org/v1", "has a user name or password in it"),
        ("https://example.org/v1?api_key=hush", "has a query"),
        ("ftp://example.org/", "needs a provider or the address of a server"),
        ("https://", "needs a provider or the address of a server"),
        ("https://[hush/", "needs a provider or the address of a server"),
    ],
)
def test_addresses_that_cannot_be_used(address, words, tmp_path):
    with pytest.raises(ScreeningError, match=words) as refused:
        open_source(f"optimade:{address}", cache_dir=tmp_path)
    assert "hush" not in str(refused.value)


@pytest.fixture
def listed(monkeypatch, server):
    """Providers: one with this database, one with two, one without a server."""
    import optimade.utils

    providers = [{"id": "none", "base_url": None}]
    providers += [{"id": name, "base_url": f"{server[0]}/{name}"} for name in ("one", "two")]
    monkeypatch.setattr(optimade.utils, "get_providers", lambda: providers)
    from screening.sources.optimade import providers as module

    def get(self, path, *args, **options):
        if path != "links":
            return original(self, path, *args, **options)
        n = 1 if self.base_url.endswith("one/v1") else 2
        links = [
            {"id": f"db-{k}", "attributes": {"link_type": "child", "base_url": server[0]}}
            for k in range(n)
        ]
        return {"data": [None, {"id": "root", "attributes": {"link_type": "root"}}, *links]}

    original = module.OptimadeServer.get
    monkeypatch.setattr(module.OptimadeServer, "get", get)


@pytest.mark.parametrize("name", ["one", "one/db-0", "two/db-1"])
def test_database_by_the_name_of_its_provider(listed, name, tmp_path):
    source = open_source(f"optimade:{name}", filters=ANY, cache_dir=tmp_path)
    assert source.name == f"optimade:{name}"
    assert isinstance(next(iter(source)), Candidate)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("three", "there is no such OPTIMADE provider; there are one, two, and optimade:https"),
        ("none", "this provider has no server"),
        ("two", "several databases: optimade:two/db-0, optimade:two/db-1"),
        ("two/db-7", "no such database; it has db-0, db-1"),
        ("", "no such OPTIMADE provider"),
    ],
)
def test_provider_that_cannot_be_used(listed, name, words, tmp_path):
    with pytest.raises(ScreeningError, match=words):
        open_source(f"optimade:{name}", cache_dir=tmp_path)


def test_list_of_providers_without_a_network(monkeypatch):
    import optimade.utils
    from requests.exceptions import ReadTimeout

    from screening.sources.optimade.providers import _index_of

    def fails():
        raise ReadTimeout

    monkeypatch.setattr(optimade.utils, "get_providers", fails)
    assert _index_of("oqmd").startswith("https://")


def test_package_that_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optimade.filterparser", None)
    with pytest.raises(ScreeningError, match=r"pip install 'edos-screening\[optimade\]'"):
        open_source("optimade:https://example.org", optimade_filter="nsites=1", cache_dir=tmp_path)


class EndlessServer:
    """Pages made when they are asked for."""

    host = "example.org"

    def __init__(self, pages):
        self.pages = pages

    def page(self, url):
        n = int(url)
        rows = [{"id": f"{n}-{k}", "attributes": entry(k)} for k in range(100)]
        return Page(rows, str(n + 1) if n < self.pages else None, {})


def peak_of(pages, folder):
    """Peak of the memory in bytes."""
    server = EndlessServer(pages)
    kept = KeptPages(folder / f"{pages}")
    facts = Facts("https://example.org/v1", "", "2026", "example", "", None, None)
    kept.begin(facts, server.page("1"))
    source = OptimadeSource("optimade:example", facts, kept, server)
    tracemalloc.start()
    n = sum(1 for _ in source)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == 100 * pages
    return peak


@pytest.mark.slow
def test_pages_are_streamed(tmp_path):
    few, many = peak_of(3, tmp_path), peak_of(13, tmp_path)
    # Of 1,000 more structures only the ids stay, not the 2 kB of each that their JSON takes.
    assert many - few < 1000 * 500
