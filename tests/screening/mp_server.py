"""The Materials Project's own server code on loopback, with faults on demand."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

KEY = "k" * 31 + "1"
VERSION = "2026.11.01"
FUNCTIONALS = ["GGA", "r2SCAN", "GGA+U"]  # of the structures, in turn
QUERIED = ["energy_above_hull", "nelements", "band_gap", "ordering", "material_id"]


def summary_documents(n, seed=1):
    """Summary documents as the server keeps them, made of prototype structures."""
    from emmet.core.mpid import AlphaID

    from models.distances import overlap
    from screening.sources import open_source

    rng = np.random.default_rng(seed)
    structures = [c for c in open_source("prototypes") if overlap(c.structure) is None]
    for k in range(n):
        prototype = structures[k % len(structures)]
        structure = prototype.structure.as_dict()
        for site in structure["sites"]:
            site.update(label=site["species"][0]["element"], properties={"magmom": 0.0})
        yield {
            "material_id": str(AlphaID(k + 1, prefix="mp", padlen=8)),  # as in the database
            "deprecated": bool(rng.random() < 0.05),
            "builder_meta": {"license": "BY-NC" if rng.random() < 0.05 else "BY-C"},
            "formula_pretty": prototype.formula,
            "composition_reduced": dict(prototype.structure.composition),
            "elements": list(prototype.elements),
            "nelements": prototype.nelements,
            "nsites": prototype.nsites,
            "chemsys": prototype.chemsys,
            "structure": structure,
            "energy_above_hull": float(rng.choice([0.0, 0.1, 0.5, 0.6, 1.5])),
            "band_gap": float(rng.choice([0.0, 0.0, 0.3, 2.0])),
            "ordering": str(rng.choice(["NM", "NM", "FM", "AFM", "Unknown"])),
            "is_magnetic": bool(rng.random() < 0.3),
            "has_props": {"dos": bool(rng.random() < 0.4), "materials": True},
            "last_updated": "2025-09-30T12:00:00",
            "origins": [{"name": "structure", "task_id": f"mp-{700000 + k}"}],
            "run_types": {f"mp-{700000 + k}": FUNCTIONALS[k % 3], "mp-1": "GGA"},
        }


@dataclass
class Faults:
    """What goes wrong: `plan` maps the number of a request (from 1) to a fault."""

    plan: dict = field(default_factory=dict)
    always: str | None = None
    requests: list = field(default_factory=list)
    served: Counter = field(default_factory=Counter)

    def next(self, scope):
        self.requests.append(scope["query_string"].decode())
        return self.always or self.plan.get(len(self.requests))


def with_faults(app, faults):
    """ASGI middleware in the place of the gateway: keys, rate limits, broken connections."""

    async def wrapped(scope, receive, send):
        if scope["type"] != "http" or not scope["path"].startswith("/materials"):
            await app(scope, receive, send)
            return
        headers = {k.decode().lower(): v.decode() for k, v in scope["headers"]}
        fault = faults.next(scope)
        if headers.get("x-api-key") != KEY and fault is None:
            fault = (401, b'{"message":"Invalid authentication credentials"}')
        if fault is None:
            await app(scope, receive, send)
        elif fault == "cut":
            await _cut(app, scope, receive, send)
        else:
            status, body, *extra = fault
            await _answer(send, status, body, extra[0] if extra else [])

    return wrapped


async def _answer(send, status, body, headers):
    headers = [(b"content-type", b"application/json"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _cut(app, scope, receive, send):
    """Send half of the answer and close the connection."""
    messages = []

    async def keep(message):
        messages.append(message)

    await app(scope, receive, keep)
    body = b"".join(m.get("body", b"") for m in messages)
    await send(messages[0])
    await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
    raise ConnectionAbortedError


@contextlib.contextmanager
def serve(app):
    """Run an ASGI app in a thread; gives its address."""
    import uvicorn

    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


@contextlib.contextmanager
def materials_project(mongo_uri, documents, version=VERSION):
    """The server with these documents: its address, its faults and its collection."""
    from emmet.api.core.api import MAPI
    from emmet.api.resource.utils import CollectionWithKey
    from emmet.api.routes.materials.materials.resources import materials_resource
    from emmet.api.routes.materials.summary.resources import summary_resource
    from pymongo import AsyncMongoClient, MongoClient

    name = f"mp_{uuid.uuid4().hex[:12]}"
    client = MongoClient(mongo_uri)
    collection = client[name]["summary"]
    collection.create_index([("deprecated", 1), ("builder_meta.license", 1)])
    for queried in QUERIED:
        base = ["deprecated", "builder_meta.license", "formula_pretty", "material_id"]
        keys = list(dict.fromkeys([*base, queried]))
        collection.create_index([(key, 1) for key in keys])
    for queried in ("composition_reduced", "has_props"):
        collection.create_index([(f"{queried}.$**", 1)])
    batch = []
    for document in documents:
        batch.append(document)
        if len(batch) == 2000:
            collection.insert_many(batch)
            batch = []
    if batch:
        collection.insert_many(batch)

    store = CollectionWithKey(AsyncMongoClient(mongo_uri)[name]["summary"], "material_id")
    api = MAPI(
        resources={"materials": [summary_resource(store), materials_resource(store)]},
        heartbeat_meta={"db_version": version, "access_controlled_batch_ids": [""]},
    )
    faults = Faults()
    try:
        with serve(with_faults(api.app, faults)) as address:
            yield address, faults, collection
    finally:
        client.drop_database(name)
        client.close()
