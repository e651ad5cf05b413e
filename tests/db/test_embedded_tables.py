"""The tables of the embedded store are those of the documents."""

from __future__ import annotations

from db.collections import COLLECTIONS
from db.embedded_tables import TABLES


def test_columns_are_the_fields_of_the_documents() -> None:
    for collection in COLLECTIONS:
        assert set(TABLES[collection.name].fields) == set(collection.document.model_fields)
