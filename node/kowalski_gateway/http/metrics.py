"""Prometheus' text format, version 0.0.4, written from plain rows.

The format is twenty lines of rules, and what is shown is a snapshot of the node's own counters; a
client library would keep a second, process-wide set of them. Labels name operations, kinds and
devices, never what people wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

from .calls import Traffic

METRICS_MEDIA: Final = "text/plain; version=0.0.4; charset=utf-8"
Row = tuple[str, str, str, Mapping[str, str], float]
"""Name, "counter" or "gauge", help, labels, value."""

_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def metrics_text(rows: Iterable[Row]) -> str:
    """The rows in text form, those of one name together under one HELP and TYPE."""
    families: dict[str, list[Row]] = {}
    for row in rows:
        families.setdefault(row[0], []).append(row)
    lines: list[str] = []
    for name, family in families.items():
        assert _NAME.fullmatch(name), name
        _, kind, meaning, _, _ = family[0]
        lines.append(f"# HELP {name} {_escaped(meaning)}")
        lines.append(f"# TYPE {name} {kind}")
        lines += [f"{name}{_labels(labels)} {_number(value)}" for *_, labels, value in family]
    return "\n".join(lines) + "\n"


def traffic_rows(traffic: Traffic) -> list[Row]:
    """What the API counts of itself."""
    rows: list[Row] = [
        (
            "kowalski_http_requests_total",
            "counter",
            "Requests answered, by operation and status.",
            {"operation": name, "status": str(status)},
            float(count),
        )
        for (name, status), count in traffic.requests.items()
    ]
    rows += [
        (
            "kowalski_http_request_seconds_total",
            "counter",
            "Seconds from a request's head to the start of its answer, by operation.",
            {"operation": name},
            seconds,
        )
        for name, seconds in traffic.seconds.items()
    ]
    return rows


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    pairs: list[str] = []
    for name, value in labels.items():
        assert _LABEL.fullmatch(name), name
        pairs.append(f'{name}="{_escaped(value).replace(chr(34), chr(92) + chr(34))}"')
    return "{" + ",".join(pairs) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _number(value: float) -> str:
    if value != value:
        return "NaN"
    if value in (float("inf"), float("-inf")):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 2**53 else repr(value)
