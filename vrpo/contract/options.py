"""Every option of a job, with what it allows and means: read off the spec itself."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vrpo.contract.spec import CreateJob

_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


@dataclass(frozen=True, slots=True)
class Option:
    """One field of a job request."""

    path: str
    """Dotted, from the top of the request."""
    allowed: str
    default: str
    meaning: str


def job_options() -> list[Option]:
    """Return all options, in the order of the spec."""
    schema = CreateJob.model_json_schema()
    return list(_options(schema, schema["$defs"], path=()))


def options_markdown() -> str:
    """Return all options as a Markdown page."""
    lines = [
        "# Every option of a job",
        "",
        "Printed by `vrpo jobs options --markdown`; a test holds this page to the spec. What does"
        " not fit together is refused at submission.",
        "",
        "| option | allowed | default | meaning |",
        "|---|---|---|---|",
    ]
    for option in job_options():
        cells = (f"`{option.path}`", option.allowed, option.default, option.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _options(
    schema: Mapping[str, Any], definitions: Mapping[str, Any], *, path: tuple[str, ...]
) -> Iterator[Option]:
    required = schema.get("required", [])
    for name, field in schema["properties"].items():
        here = (*path, name)
        parts = [_resolved(part, definitions) for part in _alternatives(field)]
        inner = [part for part in parts if "properties" in part]
        plain = [part for part in parts if "properties" not in part]
        if not inner or plain:
            kinds = [_allowed(part) for part in plain] + ["object" for _ in inner[:1]]
            default = "required" if name in required else _default(field)
            meaning = " ".join(str(field.get("description", "")).split()).replace("``", "`")
            yield Option(".".join(here), " or ".join(dict.fromkeys(kinds)), default, meaning)
        for part in inner:
            yield from _options(part, definitions, path=here)


def _alternatives(field: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(field.get("anyOf") or field.get("oneOf") or [field])


def _resolved(part: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = part.get("$ref")
    return part if reference is None else definitions[reference.rsplit("/", 1)[1]]


def _allowed(part: Mapping[str, Any]) -> str:
    if "const" in part:
        return f"`{part['const']}`"
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    kind = str(part.get("type", "any"))
    bounds = [f"{sign} {part[key]}" for key, sign in _BOUNDS.items() if key in part]
    if kind == "string" and "maxLength" in part:
        bounds.append(f"up to {part['maxLength']} characters")
    if kind == "array" and "maxItems" in part:
        bounds.append(f"up to {part['maxItems']} items")
    if "multipleOf" in part:
        bounds.append(f"a multiple of {part['multipleOf']}")
    return f"{kind} {', '.join(bounds)}".strip()


def _default(field: Mapping[str, Any]) -> str:
    value = field.get("default")
    if value is None or isinstance(value, dict):
        return "null"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"
