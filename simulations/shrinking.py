"""From a run that fails to the few faults that matter.

The schedule is a list that was drawn before the world began, and the rest of what is drawn comes
from other streams; so a fault can be left out and all else stays. Halves are left out, then
quarters, and so on, as long as the same check still breaks (delta debugging: Zeller and
Hildebrandt, "Simplifying and isolating failure-inducing input", 2002).
"""

from __future__ import annotations

from collections.abc import Callable

from .options import Options
from .running import Report, run
from .world import World


def shrink(
    options: Options, report: Report, *, told: Callable[[int, int], object] = lambda _t, _l: None
) -> tuple[Options, Report]:
    """The same failure with as few faults as could be found, and its report.

    `told` hears after each try how many were made and how many faults are left.
    """
    kept = [f.number for f in World(options).schedule if f.number not in options.left_out]
    everything = set(kept) | set(options.left_out)
    tries = 0

    def fails(numbers: list[int]) -> Report | None:
        nonlocal tries
        tries += 1
        left_out = tuple(sorted(everything - set(numbers)))
        found = run(options.with_(left_out=left_out))
        told(tries, len(numbers))
        return found if found.check == report.check else None

    parts = 2
    while kept:
        size = max(1, len(kept) // parts)
        for begin in range(0, len(kept), size):
            fewer = kept[:begin] + kept[begin + size :]
            found = fails(fewer)
            if found is not None:
                kept, report = fewer, found
                parts = max(2, parts - 1)
                break
        else:
            if size == 1:
                break
            parts = min(len(kept), parts * 2)
    left_out = tuple(sorted(everything - set(kept)))
    return options.with_(left_out=left_out), report
