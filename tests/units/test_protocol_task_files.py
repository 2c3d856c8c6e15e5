"""What a payload may say of files: places, sizes and patterns that are taken, and all others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kowalski_protocol.errors import Problem
from kowalski_protocol.limits import LIMITS
from kowalski_protocol.task_files import (
    INPUTS_MAX,
    OUTPUTS_MAX,
    InputFile,
    check_files,
    clash,
    path_flaw,
    read_files,
    shown_path,
)

BLOB = "0f" * 32


def entry(path: Any = "a", blob: Any = BLOB, size_bytes: Any = 1) -> dict[str, Any]:
    return {"path": path, "blob": blob, "size_bytes": size_bytes}


def refused(payload: dict[str, Any]) -> Problem:
    with pytest.raises(Problem) as caught:
        check_files(payload)
    return caught.value


def test_a_payload_without_files_has_none() -> None:
    assert read_files({"language": "python", "code": ""}) == ((), ())
    assert read_files({"inputs": None, "outputs": []}) == ((), ())


def test_files_are_read_as_they_are_said() -> None:
    largest = LIMITS.blob_size_bytes_max
    files = read_files(
        {
            "inputs": [entry("data/Größe 1.csv", size_bytes=0), entry("b", size_bytes=largest)],
            "outputs": ["*.csv", "plots/**/*.png", "[a-c]?.txt", "**"],
        }
    )
    assert files.inputs == (InputFile("data/Größe 1.csv", BLOB, 0), InputFile("b", BLOB, largest))
    assert files.outputs == ("*.csv", "plots/**/*.png", "[a-c]?.txt", "**")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/etc/passwd",
        "a//b",
        "a/",
        "./a",
        "a/./b",
        "..",
        "../a",
        "a/../b",
        "a\\b",
        "a\0b",
        "a\nb",
        "a\x7fb",
        "a\x9bb",
        "\ud800",
        "a" * 256,
        "ä" * 128,
        "/".join(["abcdefg"] * 129),
        "/".join("a" * 65),
    ],
)
def test_a_path_that_leads_elsewhere_or_nowhere_is_refused(path: str) -> None:
    assert path_flaw(path)
    problem = refused({"inputs": [entry(path)]})
    assert problem.code == "bad_request"
    assert "payload.inputs[0].path" in problem.sentence
    assert problem.sentence.isprintable()
    assert len(problem.sentence) < 300
    assert refused({"outputs": ["ok", path]}).sentence.startswith("'payload.outputs[1]' ")


@pytest.mark.parametrize(
    "path", ["a", "a b/c", "...", "a" * 255, "ä" * 127, "-rf", "~", "/".join("a" * 64)]
)
def test_ordinary_paths_are_taken(path: str) -> None:
    assert path_flaw(path) is None
    check_files({"inputs": [entry(path)], "outputs": [path]})


@pytest.mark.parametrize("path", ["program", "program/main.py"])
def test_the_programs_own_folder_takes_no_inputs(path: str) -> None:
    assert "program's own folder" in refused({"inputs": [entry(path)]}).sentence
    check_files({"inputs": [entry("programs")], "outputs": [path]})


@pytest.mark.parametrize(
    ("paths", "word"),
    [(["a", "b", "a"], "twice"), (["a", "a/b"], "folder"), (["a/b/c/d", "a-", "a/b"], "folder")],
)
def test_two_inputs_can_not_be_in_one_place(paths: list[str], word: str) -> None:
    problem = refused({"inputs": [entry(path) for path in paths]})
    assert problem.code == "bad_request"
    assert word in problem.sentence


@pytest.mark.parametrize(
    ("payload", "word"),
    [
        ({"inputs": {}}, "must be a list"),
        ({"inputs": "data.csv"}, "must be a list"),
        ({"outputs": "*.csv"}, "must be a list"),
        ({"inputs": ["data.csv"]}, "must be an object"),
        ({"inputs": [{}]}, "path' must be a text"),
        ({"inputs": [entry(7)]}, "path' must be a text"),
        ({"inputs": [entry(blob="F0" * 32)]}, "lower-case"),
        ({"inputs": [entry(blob="0f" * 31)]}, "64"),
        ({"inputs": [entry(blob=None)]}, "64"),
        ({"inputs": [entry(size_bytes=-1)]}, "whole number"),
        ({"inputs": [entry(size_bytes=1.0)]}, "whole number"),
        ({"inputs": [entry(size_bytes=True)]}, "whole number"),
        ({"inputs": [entry(size_bytes=LIMITS.blob_size_bytes_max + 1)]}, "more than a blob"),
        ({"inputs": [entry() | {"mode": 7}]}, "no field 'mode'"),
        ({"outputs": [None]}, "must be a text"),
        ({"outputs": ["a**"]}, "stands alone"),
        ({"outputs": ["a/**b/c"]}, "stands alone"),
    ],
)
def test_what_is_not_of_the_form_is_told_which_part_is_wrong(
    payload: dict[str, Any], word: str
) -> None:
    problem = refused(payload)
    assert problem.code == "bad_request"
    assert word in problem.sentence


def test_too_many_are_refused_by_their_number() -> None:
    inputs = [entry(f"file-{number}") for number in range(INPUTS_MAX + 1)]
    assert refused({"inputs": inputs}).code == "spec_too_large"
    check_files({"inputs": inputs[1:]})
    outputs = [f"file-{number}" for number in range(OUTPUTS_MAX + 1)]
    assert refused({"outputs": outputs}).code == "spec_too_large"
    check_files({"outputs": outputs[1:]})


@given(st.text(alphabet=st.sampled_from("ab./\\\0\n*é\ud800"), max_size=12))
def test_a_path_that_is_taken_stays_below_its_folder(path: str) -> None:
    if path_flaw(path) is None:
        parts = path.split("/")
        assert all(parts)
        assert not {".", ".."} & {*parts}
        path.encode()
    assert shown_path(path).isprintable()


@given(st.lists(st.text(alphabet="a/", min_size=1, max_size=5).filter(lambda p: not path_flaw(p))))
def test_paths_clash_where_no_file_system_could_hold_both(paths: list[str]) -> None:
    def both(one: str, other: str) -> bool:
        return one != other and not other.startswith(one + "/") and not one.startswith(other + "/")

    pairs = [(paths[i], paths[j]) for i in range(len(paths)) for j in range(i)]
    assert (clash(paths) is None) == all(both(one, other) for one, other in pairs)
