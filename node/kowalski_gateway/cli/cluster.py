"""`kowalski status` and `kowalski devices`: what the cluster is and how it is, as this node sees
it."""

from __future__ import annotations

import time
from typing import Any

import click

from .screen import (
    Column,
    error_line,
    print_facts,
    print_json,
    print_table,
    say,
    styled,
    tinted,
    wants_json,
)
from .settings import command
from .transport import node_api
from .wording import SHORT_ID_LENGTH, duration, peer_end, safe, size

OPEN_STATES = ("submitted", "waiting", "placed", "running", "completed")


@command(
    "status",
    examples=("kowalski status", "kowalski status --json", "kowalski status --api 127.0.0.1:52430"),
    details="Warnings stand at the end, each with the command that mends it.",
)
def status() -> None:
    cluster = node_api().get("/api/cluster")
    if wants_json():
        print_json(cluster)
        return
    names = device_names(cluster)
    devices = cluster["devices"]
    alive = sum(device["alive"] for device in devices)
    leader = cluster["leader"]
    led = "none yet" if leader is None else _named(leader, names)
    if leader == cluster["self"]:
        led += ", this device"
    print_facts(
        {
            "cluster": f"{cluster['name']}  {cluster['cluster'][:SHORT_ID_LENGTH]}",
            "this device": _named(cluster["self"], names),
            "leader": f"{led}, epoch {cluster['epoch']}" if leader is not None else led,
            "devices": f"{alive} of {len(devices)} alive",
            "digest": short_digest(cluster["digest"]),
            "tasks": task_counts(cluster["tasks"]),
            "release": cluster["version"],
        }
    )
    for warning in cluster["warnings"]:
        click.echo()
        click.echo(tinted("warning: ", fg="yellow"), nl=False)
        say(warning["message"])
        if warning.get("mend"):
            say(f"mend: {warning['mend']}")


def device_names(cluster: dict[str, Any]) -> dict[str, str]:
    """The name of each member's device by its peer ID."""
    return {device["id"]: device["name"] for device in cluster["devices"]}


def _named(peer: str, names: dict[str, str]) -> str:
    return f"{names.get(peer, '?')} ({peer_end(peer)})"


def short_digest(digest: str) -> str:
    """A digest as people compare it: its version and first characters."""
    version, _, value = digest.partition(":")
    return f"{version}:{value[:SHORT_ID_LENGTH]}"


def task_counts(counts: dict[str, int]) -> str:
    """How many tasks are in each state, in words."""
    still_open = [f"{counts[state]:,} {state}" for state in OPEN_STATES if counts.get(state)]
    settled = f"{counts.get('settled', 0):,} settled"
    return ", ".join([*still_open, settled]) if still_open else f"none open, {settled}"


@command(
    "devices",
    examples=("kowalski devices", "kowalski devices --links", "kowalski devices --json"),
    details="With --links: what this node measures of its connections instead.",
)
@click.option("--links", is_flag=True, help="Show round trips, traffic and addresses.")
def devices(links: bool) -> None:
    cluster = node_api().get("/api/cluster")
    if wants_json():
        print_json(cluster["links"] if links else cluster["devices"])
    elif links:
        _print_links(cluster)
    else:
        _print_devices(cluster)


def _print_devices(cluster: dict[str, Any]) -> None:
    rows: list[list[Any]] = []
    for device in cluster["devices"]:
        offers: dict[str, Any] = device["capabilities"]
        sample: dict[str, Any] = device["sample"] or {}
        rows.append(
            [
                device["name"] + (" (this)" if device["self"] else ""),
                peer_end(device["id"]),
                device["role"],
                _state(device),
                f"{device['running']}/{offers.get('slots', '–')}",
                device["queued"] or "–",
                f"{device['completed']:,}",
                _load(sample),
                _memory(sample, offers),
                _offers(offers),
            ]
        )
    print_table(
        [
            Column("NAME", cut=True),
            Column("ID"),
            Column("ROLE"),
            Column("STATE"),
            Column("RUNS", right=True),
            Column("QUEUE", right=True, spare=1),
            Column("DONE", right=True, spare=2),
            Column("CPU", right=True),
            Column("MEMORY", right=True, spare=3),
            Column("OFFERS", cut=True),
        ],
        rows,
    )
    for device in cluster["devices"]:
        for problem in device["capabilities"].get("problems", ()):
            click.echo()
            error_line(f"{device['name']}: {problem}")
        for pause in device.get("pauses", ()):
            click.echo()
            click.echo(tinted("warning: ", fg="yellow"), nl=False)
            say(f"{device['name']}: {_paused(pause)}")


def _paused(pause: dict[str, Any]) -> str:
    reason = f"{pause['failures']} failures in a row ({pause['code']})"
    if pause["for_s"] <= 0:
        return f"{pause['kind']} tasks one at a time: {reason}"
    until = time.strftime("%H:%M:%S", time.localtime(time.time() + pause["for_s"]))
    return f"no {pause['kind']} tasks until {until}: {reason}"


def _state(device: dict[str, Any]) -> Any:
    if device["leader"] and device["alive"]:
        return styled("leader", "bold green")
    if device["alive"]:
        return styled("alive", "green")
    heard = device["last_heard_s"]
    return styled("away" if heard is None else f"lost {duration(heard)}", "red")


def _load(sample: dict[str, Any]) -> str:
    for name, scale in (("cpu_percent", 1.0), ("cpu_fraction", 100.0)):
        if isinstance(sample.get(name), int | float):
            return f"{sample[name] * scale:.0f} %"
    return "–"


def _memory(sample: dict[str, Any], offers: dict[str, Any]) -> str:
    total = sample.get("memory_total_bytes") or offers.get("memory_total_bytes")
    used = sample.get("memory_used_bytes")
    if isinstance(used, int | float) and isinstance(total, int | float) and total:
        return f"{used / total:.0%} of {size(total)}".replace("%", " %")
    return size(total) if isinstance(total, int | float) else "–"


def _offers(offers: dict[str, Any]) -> str:
    words: list[str] = []
    kinds = offers.get("kinds", ())
    languages = offers.get("languages", {})
    if "code" in kinds:
        words += [*languages] or ["code"]
    tools = offers.get("tools", ())
    if "tool" in kinds and tools:
        words.append(f"{len(tools)} tools")
    # Every device runs graphs; it tells nothing of this one.
    words += [kind for kind in kinds if kind not in ("code", "graph", "tool")]
    words += offers.get("accelerators", ())
    words += [f"{key}={value}" for key, value in offers.get("labels", {}).items()]
    return ", ".join(map(str, words)) or "–"


def _print_links(cluster: dict[str, Any]) -> None:
    names = device_names(cluster)
    rows = [
        [
            names.get(link["peer"], "?"),
            peer_end(link["peer"]),
            styled("connected", "green") if link["connected"] else styled("apart", "red"),
            "–" if link["round_trip_ms"] is None else f"{link['round_trip_ms']:.2f} ms",
            size(sum(link["bytes_in"].values())),
            size(sum(link["bytes_out"].values())),
            link.get("address") or "–",
        ]
        for link in cluster["links"]
    ]
    if not rows:
        click.echo("This device is the only member; `kowalski invite` lets another in.")
        return
    print_table(
        [
            Column("NAME", cut=True),
            Column("ID"),
            Column("LINK"),
            Column("ROUND TRIP", right=True),
            Column("IN", right=True, spare=1),
            Column("OUT", right=True, spare=1),
            Column("ADDRESS", cut=True),
        ],
        rows,
    )


def resolve_device(cluster: dict[str, Any], wanted: str) -> str:
    """The peer ID that is meant by a name, an ID, or an ID's beginning or end."""
    ids = [device["id"] for device in cluster["devices"]]
    named = [device["id"] for device in cluster["devices"] if device["name"] == wanted]
    part = wanted.removeprefix("…")
    found = (
        [one for one in ids if one == wanted]
        or named
        or [one for one in ids if len(part) >= 4 and (one.startswith(part) or one.endswith(part))]
    )
    if len(found) == 1:
        return found[0]
    known = ", ".join(sorted(safe(device["name"]) for device in cluster["devices"]))
    what = "No device is" if not found else f"{len(found)} devices are"
    raise click.UsageError(f"{what} called {safe(wanted)!r}; the cluster has {known}.")
