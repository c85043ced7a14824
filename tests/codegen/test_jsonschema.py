"""The JSON Schema generator: the metaschema, and documents of the types."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import msgspec
import pytest

from greentic_session.codegen import generate_schema
from tests.codegen import samples


def _schema(**types: Any) -> Any:
    document = json.loads(generate_schema(types))
    jsonschema.Draft202012Validator.check_schema(document)
    return document


def test_a_schema_of_everything_fits_the_metaschema() -> None:
    assert _schema(Everything=samples.Everything)["$ref"] == "#/$defs/Everything"


def test_a_tagged_union_is_one_of_with_a_discriminator() -> None:
    union = _schema(Message=samples.Message)["$defs"]["Message"]
    assert len(union["oneOf"]) == 2
    assert union["discriminator"]["propertyName"] == "type"


@pytest.mark.parametrize("value", [samples.UserJoined(user="ann"), samples.Said("hi")])
def test_an_encoded_value_validates(value: object) -> None:
    jsonschema.validate(json.loads(msgspec.json.encode(value)), _schema(Message=samples.Message))


def test_an_unknown_tag_does_not_validate() -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"type": "other"}, _schema(Message=samples.Message))
