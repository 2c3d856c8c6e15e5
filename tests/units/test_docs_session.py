"""The player of the manual sees what it should: a difference is one, and a blur hides no more than
it must."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.live.docs_session import Shell, as_shown, blur, play, rewritten, steps_of

PAGE = """\
Text.

<!-- file numbers.txt -->
```
1
2
```

<!-- run -->
```console
$ cat numbers.txt
1
2
$ for n in 1 2; do
>   echo "$n of 2"
> done
1 of 2
2 of 2
```

```sh
not played
```
"""


def test_a_page_is_cut_into_files_and_commands() -> None:
    file, session = steps_of(PAGE)
    assert (file.file, file.content) == ("numbers.txt", "1\n2\n")
    assert [c.text.splitlines()[0] for c in session.commands] == [
        "cat numbers.txt",
        "for n in 1 2; do",
    ]
    assert session.commands[1].shown == ["1 of 2", "2 of 2"]


def test_a_page_that_tells_the_truth_is_played_without_a_difference(tmp_path: Path) -> None:
    with Shell(tmp_path) as shell:
        assert all(one.as_shown is not None for one in play(PAGE, shell))


def test_a_lie_is_found_and_mended(tmp_path: Path) -> None:
    lie = PAGE.replace("2 of 2", "3 of 2")
    with Shell(tmp_path) as shell:
        played = play(lie, shell)
    assert [one.as_shown is None for one in played] == [False, True]
    assert rewritten(lie, played) == PAGE


def test_a_command_that_fails_is_a_difference(tmp_path: Path) -> None:
    page = "<!-- run -->\n```console\n$ false\n```\n"
    with Shell(tmp_path) as shell:
        assert [one.as_shown for one in play(page, shell)] == [None]


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("took     0.4 s, 500 tasks/s", "took     94.6 ms, 2,115 tasks/s"),
        ("digest       1:9b911e1041db", "digest       1:caca5da4e53e"),
        ("leader       desk (…Wxe53B6F), epoch 1", "leader       desk (…gUMNoAo7), epoch 1"),
        ("a  just now  b", "a      3 s ago  b"),
        ("score 0.952; considered: ...", "score 0.100; considered: a 0.1, b 0.2"),
    ],
)
def test_what_differs_from_run_to_run_is_let_pass(shown: str, printed: str) -> None:
    assert as_shown([shown], [printed]) is not None


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ("2 of 3 alive", "3 of 3 alive"),
        ("state  completed", "state  failed"),
        ("attempt 2 placed on desk", "attempt 2 placed on mini"),
        ("45", "46"),
        ("epoch 1", "epoch 2"),
        ("a", "a b"),
    ],
)
def test_what_matters_is_not_blurred(shown: str, printed: str) -> None:
    assert as_shown([shown], [printed]) is None
    assert blur(shown) != blur(printed)


def test_dots_stand_for_lines_that_are_left_out() -> None:
    assert as_shown(["a", "...", "z"], ["a", "b", "c", "z"]) == ["a", "...", "z"]
    assert as_shown(["a", "...", "z"], ["a", "b", "c"]) is None
    assert as_shown(["...", "b"], ["a", "c"]) is None
