"""JSON Schema validators for MongoDB, made from the pydantic models.

With them the server refuses what no program could read, also from a hand in mongosh.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

BSON_TYPES: dict[str, list[str]] = {
    "string": ["string"],
    "integer": ["int", "long"],
    "number": ["double", "int", "long"],
    "boolean": ["bool"],
    "array": ["array"],
    "object": ["object"],
    "null": ["null"],
}
KEPT = ("minLength", "maxLength", "minimum")


def validator(model: type[BaseModel]) -> dict[str, Any]:
    """Validator for a collection of such documents.

    Only keywords that MongoDB and servers compatible with it know: types, enumerations and
    required fields are checked by the server; patterns, finite numbers and unknown fields by
    pydantic when a document is written or read.

    Examples
    --------
    >>> from db.documents import FilterCount
    >>> validator(FilterCount)["$jsonSchema"]["properties"]["dropped"]
    {'bsonType': ['int', 'long'], 'minimum': 0}
    """
    schema = model.model_json_schema()
    converted = _convert(schema, schema.get("$defs", {}))
    return {"$jsonSchema": converted}


def _convert(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return _convert(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:  # pydantic's way to say that a field may be None
        (option,) = (option for option in schema["anyOf"] if option != {"type": "null"})
        converted = _convert(option, definitions)
        if "enum" in converted:
            return converted | {"enum": [*converted["enum"], None]}
        return converted | {"bsonType": [*converted["bsonType"], "null"]}
    converted = {}
    if "const" in schema or "enum" in schema:
        converted["enum"] = schema.get("enum", [schema.get("const")])
    elif schema.get("format") == "date-time":
        converted["bsonType"] = ["date"]
    elif "type" in schema:
        converted["bsonType"] = BSON_TYPES[schema["type"]]
    converted |= {name: schema[name] for name in KEPT if name in schema}
    if "items" in schema:
        converted["items"] = _convert(schema["items"], definitions)
    if "properties" in schema:
        fields = schema["properties"]
        converted["properties"] = {
            name: _convert(field, definitions) for name, field in fields.items()
        }
        always = [name for name in fields if name == "schema_version"]
        if required := [*always, *schema.get("required", [])]:  # MongoDB refuses an empty list
            converted["required"] = required
    return converted
