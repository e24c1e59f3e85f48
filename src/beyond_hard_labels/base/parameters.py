"""Parameters with units, ranges and choices, and the errors that a wrong one gets.

A dataclass describes its fields with `option`; `check` then accepts or refuses values whoever sends
them: a profile, a notebook's parameters cell, or the command line.
"""

import dataclasses
import difflib
import math
import operator
from typing import Any

from beyond_hard_labels.base.errors import InputError

_KINDS = {int: "an integer", float: "a finite number", bool: "true or false", str: "a string"}
_BOUNDS = {"at_least": operator.ge, "above": operator.gt, "at_most": operator.le}


def option(doc: str, *, choices=None, default=dataclasses.MISSING, **bounds: float):
    """Describe one field of a dataclass of parameters: its meaning, unit, choices, and bounds of `_BOUNDS`.

    A field that runs have had from the start has no default; one that came later has, see `runs.RunSpec`.
    """
    return dataclasses.field(default=default, metadata={"doc": doc, "choices": choices, "bounds": bounds})


def options(*classes) -> dict[str, dataclasses.Field]:
    """Return the fields of the given dataclasses by name."""
    return {f.name: f for c in classes for f in dataclasses.fields(c) if f.metadata}


def describe(field: dataclasses.Field) -> str:
    """Say in words what values a field takes: ``an integer, at least 1``."""
    if field.metadata["choices"]:
        return "one of " + ", ".join(field.metadata["choices"])
    bounds = field.metadata["bounds"].items()
    return ", ".join([_KINDS[field.type], *(f"{name.replace('_', ' ')} {bound}" for name, bound in bounds)])


def check(fields: dict[str, dataclasses.Field], values: dict[str, Any]) -> dict[str, Any]:
    """Return the values, integers widened to floats where a float is meant.

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
        checked[name] = value = float(value) if field.type is float and type(value) is int else value
        if type(value) is not field.type or not _in_range(field, value):
            faults.append(f"parameter '{name}' is {value!r}, expected {describe(field)}")
    if faults:
        raise InputError("; ".join(faults))
    return checked


def _in_range(field: dataclasses.Field, value) -> bool:
    choices, bounds = field.metadata["choices"], field.metadata["bounds"]
    finite = not isinstance(value, float) or math.isfinite(value)
    return finite and (not choices or value in choices) and all(_BOUNDS[b](value, of) for b, of in bounds.items())


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
