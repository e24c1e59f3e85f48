"""Parameters with units, ranges and choices, and the errors that a wrong one gets.

A dataclass describes its fields with `option`; `check` then accepts or refuses values whoever sends
them: a profile, a notebook's parameters cell, or the command line.
"""

import dataclasses
import difflib
import math
from typing import Any

from beyond_hard_labels.base.errors import InputError


def option(doc: str, *, choices=None, at_least=None, above=None, at_most=None, default=dataclasses.MISSING):
    """Describe one field of a dataclass of parameters: its meaning, unit and range.

    A field that runs have had from the start has no default; one that came later has, see `runs.RunSpec`.
    """
    limits = {"choices": choices, "at_least": at_least, "above": above, "at_most": at_most}
    return dataclasses.field(default=default, metadata={"doc": doc, **limits})


def options(*classes) -> dict[str, dataclasses.Field]:
    """Return the fields of the given dataclasses by name."""
    return {f.name: f for c in classes for f in dataclasses.fields(c) if f.metadata}


def describe(field: dataclasses.Field) -> str:
    """Say in words what values a field takes: ``integer, at least 1``."""
    limits = field.metadata
    if limits["choices"]:
        return "one of " + ", ".join(limits["choices"])
    kind = {int: "an integer", float: "a finite number", bool: "true or false", str: "a string"}[field.type]
    bounds = [
        f"{word.replace('_', ' ')} {limits[word]}"
        for word in ("at_least", "above", "at_most")
        if limits[word] is not None
    ]
    return ", ".join([kind, *bounds])


def check(fields: dict[str, dataclasses.Field], values: dict[str, Any]) -> dict[str, Any]:
    """Return the values, integers widened to floats where a float is meant; raise on a bad one.

    Raises
    ------
    InputError
        On an unknown name (with the valid ones, and the nearest), on a wrong type and on a value out
        of range. Every fault is listed, not only the first.
    """
    faults, checked = [], {}
    for name, value in values.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            faults.append(f"unknown parameter '{name}'{hint}; valid: {', '.join(sorted(fields))}")
            continue
        field = fields[name]
        if field.type is float and type(value) is int:
            value = float(value)
        if type(value) is not field.type or not _in_range(field, value):
            faults.append(f"parameter '{name}' is {value!r}, expected {describe(field)}")
        checked[name] = value
    if faults:
        raise InputError("; ".join(faults))
    return checked


def _in_range(field, value) -> bool:
    limits = field.metadata
    return (
        not (isinstance(value, float) and not math.isfinite(value))
        and (limits["choices"] is None or value in limits["choices"])
        and (limits["at_least"] is None or value >= limits["at_least"])
        and (limits["above"] is None or value > limits["above"])
        and (limits["at_most"] is None or value <= limits["at_most"])
    )


def parse(fields: dict[str, dataclasses.Field], pairs: list[str]) -> dict[str, Any]:
    """Turn ``["epochs=3", "schedule=cosine"]`` into checked values; the field's type decides."""
    values = {}
    for pair in pairs:
        name, separator, text = pair.partition("=")
        if not separator:
            raise InputError(f"'{pair}' is not of the form key=value")
        kind = fields[name].type if name in fields else str
        try:
            values[name] = {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            values[name] = text
    return check(fields, values)
