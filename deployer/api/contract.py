"""The contract, deployer/api/openapi.json: the routes, and what each takes. Pure; nothing is written twice.

A refusal tells where something is wrong and which rule it breaks, never what stands there: callers do put
values where none belongs.
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qsl

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError

from common import untrusted_json
from common.untrusted_json import MalformedError
from deployer.api.problems import (
    BAD_BODY,
    BAD_PARAMETER,
    METHOD_NOT_ALLOWED,
    NO_SUCH_PATH,
    RequestError,
)
from deployer.config.model import Role

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

TEXT: Final = resources.files("deployer.api").joinpath("openapi.json").read_bytes()
DOCUMENT: Final[dict[str, Any]] = json.loads(TEXT)
JSON: Final = "application/json"
_METHODS: Final = ("get", "put", "post")
_MOST_ERRORS: Final = 20
_MOST_FIELDS: Final = 20
_WHOLE: Final = re.compile(r"-?[0-9]{1,16}")


def _pattern(_: Any, pattern: str, instance: object, __: Any) -> Iterator[ValidationError]:
    """Check a pattern to the very end: in Python ``$`` is also before a last line feed."""
    if isinstance(instance, str) and not re.fullmatch(pattern.removeprefix("^").removesuffix("$"), instance):
        yield ValidationError("has another form")


_Validator: Final[Any] = validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, {"pattern": _pattern}
)


def resolved(schema: Any) -> Any:
    """Return a part of the document with every reference replaced by what it names; none names itself."""
    if isinstance(schema, list):
        return [resolved(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        found: Any = DOCUMENT
        for step in schema["$ref"].removeprefix("#/").split("/"):
            found = found[step]
        return resolved(found)
    return {key: resolved(value) for key, value in schema.items()}


def validator(schema: Any) -> Any:
    """Return what checks a part of the document; its ``iter_errors`` and ``is_valid`` are jsonschema's."""
    return _Validator(resolved(schema))


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a path, a query or a header."""

    name: str
    whole: bool
    """Whether it is a whole number."""
    default: str | int | None
    validator: Any

    def read(self, untrusted: str) -> str | int:
        """Return what a caller wrote, checked.

        Raises:
            RequestError: it breaks the contract's rules.
        """
        value: str | int | None = untrusted
        if self.whole:
            value = int(untrusted) if _WHOLE.fullmatch(untrusted) else None
        if value is None or not self.validator.is_valid(value):
            rule = _rule(next(self.validator.iter_errors(value)))
            raise RequestError(BAD_PARAMETER, f"{self.name} {rule}")
        return value


@dataclass(frozen=True, slots=True)
class Operation:
    """One thing that can be asked for. ``template`` is its path as the contract writes it."""

    id: str
    method: str
    template: str
    role: Role
    path: Mapping[str, Parameter]
    query: Mapping[str, Parameter]
    headers: Mapping[str, Parameter]
    body_type: str | None
    body: Any
    most_bytes: int | None

    @property
    def changes(self) -> bool:
        """Whether it can change anything."""
        return self.method != "GET"

    def read_query(self, untrusted: str) -> dict[str, str | int | None]:
        """Return every query parameter, checked, or its default.

        Raises:
            RequestError: one is unknown, given twice, or breaks its rules.
        """
        found: dict[str, str | int | None] = {name: each.default for name, each in self.query.items()}
        pairs: list[tuple[str, str]] | None = None
        with contextlib.suppress(ValueError):  # its message may hold the query
            pairs = parse_qsl(untrusted, keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
        if pairs is None:
            raise RequestError(BAD_PARAMETER, "the query can't be read")
        seen: set[str] = set()
        for name, value in pairs:
            if name not in self.query:
                known = ", ".join(sorted(self.query)) or "none"
                raise RequestError(BAD_PARAMETER, f"this path has the query parameters: {known}")
            if name in seen:
                raise RequestError(BAD_PARAMETER, f"{name} is given twice")
            seen.add(name)
            found[name] = self.query[name].read(value)
        return found

    def read_body(self, untrusted: bytes) -> dict[str, Any]:
        """Return a JSON body that keeps the contract; ``{}`` where the operation takes none.

        Raises:
            RequestError: with each rule that is broken, by its place.
        """
        if self.body is None:
            if untrusted:
                raise RequestError(BAD_BODY, "this operation takes no body")
            return {}
        value: Any = None
        malformed = ""
        try:
            value = untrusted_json.parse(untrusted, "the body")
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
        except (MalformedError, ValueError, RecursionError):
            malformed = "it is not JSON, or has a name twice, or text that is none"
        if malformed:
            raise RequestError(BAD_BODY, malformed)
        errors = [
            {"where": _where(error), "rule": _rule(error)}
            for _, error in zip(range(_MOST_ERRORS), self.body.iter_errors(value), strict=False)
        ]
        if errors:
            raise RequestError(BAD_BODY, "errors says what is wrong, and where", errors=errors)
        assert isinstance(value, dict)  # noqa: S101  # every body's schema says so
        return value


class Routes:
    """Every operation of the contract, by method and path."""

    def __init__(self) -> None:
        self.operations: Final = tuple(
            _operation(template, method, item)
            for template, item in DOCUMENT["paths"].items()
            for method in _METHODS
            if method in item
        )
        self._by_path: Final = [
            (re.compile(re.sub(r"\\\{([a-z]+)\\\}", r"(?P<\1>[^/]+)", re.escape(template))), template)
            for template in DOCUMENT["paths"]
        ]

    def find(self, method: str, path: str) -> tuple[Operation, dict[str, str]]:
        """Return the operation and the parameters in its path.

        Raises:
            RequestError: there is none, or a name in the path is none.
        """
        for pattern, template in self._by_path:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            there = {each.method: each for each in self.operations if each.template == template}
            wanted = "GET" if method == "HEAD" else method
            if wanted not in there:
                allow = ", ".join(sorted([*there, *(["HEAD"] if "GET" in there else [])]))
                raise RequestError(METHOD_NOT_ALLOWED, f"this path has {allow}", allow=allow)
            operation = there[wanted]
            values = {name: str(operation.path[name].read(text)) for name, text in match.groupdict().items()}
            return operation, values
        raise RequestError(NO_SUCH_PATH, "GET /v1/openapi.json tells every path")


def _operation(template: str, method: str, item: Mapping[str, Any]) -> Operation:
    it = item[method]
    parameters = resolved([*item.get("parameters", []), *it.get("parameters", [])])
    body_type, body = None, None
    if "requestBody" in it:
        ((body_type, content),) = resolved(it["requestBody"])["content"].items()
        body = _Validator(content["schema"]) if body_type == JSON else None
    by_place: dict[str, dict[str, Parameter]] = {"path": {}, "query": {}, "header": {}}
    for each in parameters:
        schema = each["schema"]
        whole = schema.get("type") == "integer"
        by_place[each["in"]][each["name"]] = Parameter(
            each["name"], whole, schema.get("default"), _Validator(schema)
        )
    return Operation(
        id=it["operationId"],
        method=method.upper(),
        template=template,
        role=Role[it["x-role"].upper()],
        path=by_place["path"],
        query=by_place["query"],
        headers=by_place["header"],
        body_type=body_type,
        body=body,
        most_bytes=it.get("x-most-bytes"),
    )


def _where(error: Any) -> str:
    """Return where an error is, in the contract's own words: a name in the body may be a value."""
    steps = list(error.absolute_schema_path)[:-1]
    place = ""
    while steps:
        step = steps.pop(0)
        if step == "properties":
            place += f"/{steps.pop(0)}"
        elif step in {"additionalProperties", "items"}:
            place += "/*"
        elif step == "allOf":
            steps.pop(0)
    return place or "/"


def _rule(error: Any) -> str:
    """Return the rule that is broken, in the contract's own words."""
    keyword, wanted = error.validator, error.validator_value
    if keyword == "required":
        return f"needs {', '.join(name for name in wanted if name not in error.instance)}"
    if keyword == "additionalProperties":
        known = ", ".join(error.schema.get("properties", {}))
        return f"has a member that is none of: {known}"
    if keyword == "enum":
        return f"must be one of {', '.join(map(str, wanted))}"
    if keyword == "type":
        return f"must be of type {wanted if isinstance(wanted, str) else ' or '.join(wanted)}"
    if keyword == "pattern":
        return f"must match {wanted}"
    words = {
        "minimum": "must be at least",
        "maximum": "must be at most",
        "minLength": "must have this many characters or more:",
        "maxLength": "must have this many characters or fewer:",
        "minItems": "must have this many elements or more:",
        "maxItems": "must have this many elements or fewer:",
        "maxProperties": "must have this many members or fewer:",
    }
    return f"{words.get(keyword, keyword)} {wanted}"
