"""``status --json`` held to the JSON Schema that is shipped."""

import json
from pathlib import Path

from jsonschema import Draft202012Validator

import learnerd

SCHEMA = json.loads((Path(learnerd.__file__).parent / "status.schema.json").read_text(encoding="utf-8"))


def check_schema(document):
    """Every value is as the schema says, and every name is in it."""
    Draft202012Validator(SCHEMA).validate(document)
    for name, value in document.items():
        part = SCHEMA["properties"][name]
        if part.get("type") == "object":
            assert value.keys() <= part["properties"].keys(), name
