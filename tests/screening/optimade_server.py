"""OPTIMADE's own server package on loopback, with faults on demand."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, field
from urllib.parse import parse_qs

import numpy as np

from tests.screening.mp_server import serve

LICENCE = "CC-BY-4.0"
HULL, GAP = "_exmpl_hull", "_exmpl_gap"


def entry(k, symbols=("Mg", "O"), a=4.0, **attributes):
    """One structure as a database holds it: `symbols` along the diagonal of a cube."""
    n = len(symbols)
    elements = sorted(set(symbols))
    counts = {e: symbols.count(e) for e in elements}
    formula = "".join(f"{e}{c if c > 1 else ''}" for e, c in counts.items())
    ratios = [c / n for c in counts.values()]
    positions = (np.arange(n)[:, None] / n * np.full(3, a)).tolist()
    return {
        "id": f"s-{k}",
        "last_modified": "2026-01-02T03:04:05Z",
        "elements": elements,
        "nelements": len(elements),
        "elements_ratios": ratios,
        "chemical_formula_descriptive": formula,
        "chemical_formula_reduced": formula,
        "chemical_formula_anonymous": "A",
        "dimension_types": [1, 1, 1],
        "nperiodic_dimensions": 3,
        "lattice_vectors": (np.eye(3) * a).tolist(),
        "cartesian_site_positions": positions,
        "nsites": n,
        "species": [{"name": e, "chemical_symbols": [e], "concentration": [1.0]} for e in elements],
        "species_at_sites": list(symbols),
        "structure_features": [],
    } | attributes


@dataclass
class Faults:
    """What goes wrong, and what was asked.

    `plan` maps the number of a request for structures (from 1) to a fault: a status, ``"cut"``, or
    a function of the answer; `always` is a fault of each, and `edit` changes each answer. `info`
    is the status with which it refuses to describe its fields.
    """

    plan: dict = field(default_factory=dict)
    always: object = None
    edit: object = None
    info: int | None = None
    delay: float = 0.0
    requests: list = field(default_factory=list)

    def clear(self):
        self.plan, self.always, self.edit, self.info, self.delay = {}, None, None, None, 0.0
        self.requests.clear()


def with_faults(app, faults):
    """ASGI middleware in the place of the gateway."""

    async def wrapped(scope, receive, send):
        if scope["type"] != "http" or not scope["path"].endswith("/structures"):
            await app(scope, receive, send)
            return
        if "/info/" in scope["path"]:
            if faults.info is None:
                await app(scope, receive, send)
            else:
                await _answer(send, faults.info, b"{}")
            return
        query = parse_qs(scope["query_string"].decode())
        faults.requests.append({name: values[0] for name, values in query.items()})
        fault = faults.always or faults.plan.get(len(faults.requests))
        await asyncio.sleep(faults.delay)
        if isinstance(fault, int):
            body = json.dumps({"errors": [{"detail": "no <b>luck</b>"}]}).encode()
            await _answer(send, fault, body)
            return
        status, body = await _kept(app, scope, receive)
        if fault == "cut":
            await _answer(send, status, body[: len(body) // 2], length=len(body))
            return
        for change in (faults.edit, fault):
            if change is not None and status == 200:
                body = json.dumps(change(json.loads(body))).encode()
        await _answer(send, status, body)

    return wrapped


async def _kept(app, scope, receive):
    """Status and body of the app's own answer, not packed."""
    headers = [(k, v) for k, v in scope["headers"] if k != b"accept-encoding"]
    messages = []

    async def keep(message):
        messages.append(message)

    await app({**scope, "headers": headers}, receive, keep)
    return messages[0]["status"], b"".join(m.get("body", b"") for m in messages[1:])


async def _answer(send, status, body, length=None):
    headers = [(b"content-type", b"application/vnd.api+json")]
    headers.append((b"content-length", str(length or len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if length:
        await send({"type": "http.response.body", "body": body, "more_body": True})
        raise ConnectionAbortedError
    await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def optimade(entries, provider="exmpl", fields=(), page_limit_max=50):
    """A server with these structures: its address and its faults."""
    from optimade.server.config import ServerConfig, SupportedBackend
    from optimade.server.create_app import create_app

    config = ServerConfig(
        database_backend=SupportedBackend.MONGOMOCK,
        mongo_database=f"optimade_{id(entries)}",
        insert_test_data=False,
        page_limit=5,
        page_limit_max=page_limit_max,
        provider={
            "prefix": provider,
            "name": "Example & <b>sons</b>",
            "description": "for tests",
            "homepage": "https://example.org",
        },
        provider_fields={
            "structures": [
                {"name": name, "type": "float", "unit": unit, "description": name}
                for name, unit in fields
            ]
        },
    )
    # Not among its arguments: it would look the licence up in the network.
    vars(config)["license"] = f"https://spdx.org/licenses/{LICENCE}"
    app = create_app(config, logger_tag=f"tests-{provider}")
    app.state.entry_collections["structures"].insert(entries)
    faults = Faults()
    with serve(with_faults(app, faults)) as address:
        yield address.rstrip("/"), faults
