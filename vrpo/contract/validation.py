"""Requests from outside: strict JSON, and faults that name the field and what to write instead."""

import difflib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, JsonValue, ValidationError

from vrpo.contract.spec import CreateJob

M = TypeVar("M", bound=BaseModel)

MAX_DEPTH = 32
MAX_INTEGER_DIGITS = 18
"""Integers that every database and JSON reader can hold."""


@dataclass(frozen=True)
class RequestFault:
    """One thing that is wrong with a request."""

    code: str
    message: str
    param: str | None = None
    """Dotted path of the field."""


class RequestRefused(Exception):
    """Raised when a request cannot be what it says it is; ``faults`` has at least one item."""

    def __init__(self, faults: Sequence[RequestFault]) -> None:
        super().__init__(faults[0].message)
        self.faults = tuple(faults)


def parse_json(raw: bytes) -> JsonValue:
    """Return the value of a JSON text that any other reader would read the same way.

    Raises ``RequestRefused`` for text that is not UTF-8 or not JSON, for NaN and infinities,
    duplicate keys, lone surrogates, NUL, huge integers and nesting deeper than 32.
    """
    try:
        value: JsonValue = json.loads(
            raw.decode("utf-8"),
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_moderate,
            object_pairs_hook=_unique,
        )
    except UnicodeDecodeError as error:
        raise _refused(f"the body is not UTF-8: byte {error.start} is wrong") from error
    except json.JSONDecodeError as error:
        raise _refused(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from error
    except RecursionError as error:
        raise _refused(f"the body is nested deeper than {MAX_DEPTH} levels") from error
    _check_texts(value, path=(), depth=0)
    return value


def parse_job(raw: bytes) -> CreateJob:
    """Return the job that a request body asks for. Raises ``RequestRefused`` with all faults."""
    value = parse_json(raw)
    if not isinstance(value, dict):
        raise _refused("the body must be a JSON object", code="invalid_type")
    return validate(CreateJob, _with_openai_defaults(value))


def validate(model: type[M], value: JsonValue) -> M:
    """Return ``value`` as a model, without turning text into numbers. Raises ``RequestRefused``."""
    try:
        return model.model_validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise RequestRefused(faults_of(error, model, value)) from error


def faults_of(
    error: ValidationError, model: type[BaseModel], value: JsonValue
) -> list[RequestFault]:
    """Return pydantic's faults in words for people, one per field."""
    grouped: dict[str, list[tuple[str, str, Any]]] = {}
    for fault in error.errors(include_url=False):
        path = _path_in(value, fault["loc"], missing=fault["type"] == "missing")
        param = ".".join(str(part) for part in path)
        grouped.setdefault(param, []).append((fault["type"], fault["msg"], fault.get("ctx", {})))
    return [_fault(param, found, model, value) for param, found in grouped.items()]


def nearest(name: str, known: Sequence[str]) -> str | None:
    """Return the known name that ``name`` was probably meant to be."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.6)), None)


def _refused(
    message: str, *, code: str = "invalid_json", param: str | None = None
) -> RequestRefused:
    return RequestRefused([RequestFault(code=code, message=message, param=param)])


def _refuse_constant(name: str) -> float:
    raise _refused(f"{name} is not a JSON number; leave the field out or send a finite number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _refused(f"the number {text[:40]} is too large")
    return number


def _moderate(text: str) -> int:
    if len(text.lstrip("-")) > MAX_INTEGER_DIGITS:
        raise _refused(f"the integer {text[:40]} has more than {MAX_INTEGER_DIGITS} digits")
    return int(text)


def _unique(pairs: list[tuple[str, JsonValue]]) -> dict[str, JsonValue]:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _refused(f"the key {ascii(twice)[:80]} is given twice in one object")
    return value


def _check_texts(value: JsonValue, *, path: tuple[str | int, ...], depth: int) -> None:
    if depth >= MAX_DEPTH and isinstance(value, (dict, list)):
        raise _refused(f"the body is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, str):
        if "\x00" in value or any("\ud800" <= character <= "\udfff" for character in value):
            param = ".".join(str(part) for part in path)
            raise _refused(
                f"{param or 'the body'} holds a NUL character or a lone surrogate,"
                " which is not storable text",
                code="invalid_value",
                param=param or None,
            )
    elif isinstance(value, dict):
        for key, item in value.items():
            _check_texts(key, path=path, depth=depth)
            _check_texts(item, path=(*path, key), depth=depth + 1)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_texts(item, path=(*path, index), depth=depth + 1)


def _with_openai_defaults(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the body in today's form: older clients send no method, or empty integrations."""
    value = {key: item for key, item in value.items() if key != "integrations" or item}
    if "method" in value:
        return value
    hyperparameters = value.pop("hyperparameters", None)
    supervised: JsonValue = {}
    if hyperparameters is not None:
        supervised = {"hyperparameters": hyperparameters}
    method: JsonValue = {"type": "supervised", "supervised": supervised}
    return {**value, "method": method}


def _path_in(
    value: JsonValue, loc: tuple[int | str, ...], *, missing: bool
) -> tuple[int | str, ...]:
    """Return pydantic's location without the names it gives to members of unions."""
    if loc[:1] == ("method",) and len(loc) > 1:
        loc = (loc[0], *loc[2:])  # the second part is the method's type, not a key
    path: list[int | str] = []
    current: JsonValue = value
    for place, part in enumerate(loc):
        inside = _inside(current, part)
        if inside is not _NOTHING:
            current = inside
        elif not (missing and place == len(loc) - 1):
            continue
        path.append(part)
    return tuple(path)


_NOTHING: JsonValue = {}


def _inside(value: JsonValue, part: int | str) -> JsonValue:
    """Return the item at a key or index, or ``_NOTHING``."""
    if isinstance(value, dict) and isinstance(part, str):
        return value.get(part, _NOTHING)
    if isinstance(value, list) and isinstance(part, int) and part < len(value):
        return value[part]
    return _NOTHING


def _fault(
    param: str,
    found: Sequence[tuple[str, str, Any]],
    model: type[BaseModel],
    value: JsonValue,
) -> RequestFault:
    kind, _, context = found[0]
    shown = param or "the body"
    if kind == "extra_forbidden":
        return RequestFault(
            code="unknown_parameter",
            message=f"unknown parameter {shown}; {_hint(param, model, value)}",
            param=param,
        )
    if kind == "missing":
        return RequestFault(
            code="missing_required_parameter", message=f"{shown} is required", param=param
        )
    if kind == "union_tag_not_found":
        return RequestFault(
            code="missing_required_parameter",
            message=f"{shown}.type is required: vrpo, dpo or supervised",
            param=f"{param}.type",
        )
    if kind == "union_tag_invalid":
        allowed = str(context.get("expected_tags", "")).replace("'", "")
        tag = str(context.get("tag", ""))
        close = nearest(tag, allowed.split(", "))
        guess = "" if close is None else f"; did you mean {close}?"
        return RequestFault(
            code="unsupported_method",
            message=f"{shown}.type {ascii(tag)[:80]} is not one of {allowed}{guess}",
            param=f"{param}.type",
        )
    texts = [text.removeprefix("Value error, ").removeprefix("Input ") for _, text, _ in found]
    is_type = kind.endswith("_type") or kind in ("int_parsing", "float_parsing", "bool_parsing")
    return RequestFault(
        code="invalid_type" if is_type else "invalid_value",
        message=f"{shown}: {', or '.join(dict.fromkeys(texts))}",
        param=param or None,
    )


def _hint(param: str, model: type[BaseModel], value: JsonValue) -> str:
    *parents, name = param.split(".")
    here = _model_at(model, parents, value)
    known = [] if here is None else list(here.model_fields)
    close = nearest(name, known)
    if close is not None:
        return f"did you mean {'.'.join([*parents, close])}?"
    elsewhere = next((path for path in _all_paths(model, value) if path[-1] == name), None)
    if elsewhere is not None:
        return f"did you mean {'.'.join(elsewhere)}?"
    return f"the keys allowed here are {', '.join(known)}"


def _model_at(
    model: type[BaseModel], parents: Sequence[str], value: JsonValue
) -> type[BaseModel] | None:
    current: type[BaseModel] | None = model
    for part in parents:
        value = value.get(part) if isinstance(value, dict) else None
        if current is None or part not in current.model_fields:
            return None
        current = _chosen_model(current.model_fields[part].annotation, value)
    return current


def _chosen_model(annotation: Any, value: JsonValue) -> type[BaseModel] | None:
    """Return the model inside an annotation; of a union, the one whose ``type`` the value has."""
    models = list(_models_in(annotation))
    if len(models) > 1 and isinstance(value, dict):
        for model in models:
            kind = model.model_fields.get("type")
            if kind is not None and value.get("type") in get_args(kind.annotation):
                return model
    return models[0] if models else None


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not Literal:
        for argument in get_args(annotation):
            yield from _models_in(argument)


def _all_paths(
    model: type[BaseModel], value: JsonValue, parents: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    for name, described in model.model_fields.items():
        yield (*parents, name)
        inside = value.get(name) if isinstance(value, dict) else None
        inner = _chosen_model(described.annotation, inside)
        if inner is not None:
            yield from _all_paths(inner, inside, (*parents, name))
