"""The same analysis without Kowalski: an ordinary process that reads the files one by one.

A program of its own, `python -m kowalski_gateway.demo.plain_run`: it takes a JSON list of paths on
stdin and prints a JSON list of facts. It knows nothing of nodes, tasks or sandboxes, so when its
answers equal the cluster's, neither kills nor retries have changed a result.
"""

from __future__ import annotations

import json
import sys
import tokenize

from .source_facts import facts_of


def main() -> None:
    """Analyses the files that stdin names."""
    answers: list[object] = []
    for path in json.load(sys.stdin):
        with tokenize.open(path) as file:
            answers.append(facts_of(file.read()))
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
