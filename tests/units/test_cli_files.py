"""Files on the command line: which go with a task, what is sent, and where results may lie."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kowalski_node.client.local_files import find_files
from kowalski_node.client.saving import open_saving
from kowalski_node.views import FileView, ResultView
from kowalski_protocol.errors import Problem
from tests.ports.api_world import Served
from tests.units.cli_runner import Ended, Kowalski


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that commands run in, with some files and a program."""
    folder = tmp_path / "here"
    made = {"prog.py": "1", "data/a.csv": "a", "data/b.csv": "bb", "data/deep/c.csv": "ccc"}
    for name, text in made.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "other.txt").write_text("elsewhere")
    monkeypatch.chdir(folder)
    return folder


def named(*sources: Any) -> dict[str, int]:
    return {file.path: file.size_bytes for file in find_files(sources)[0]}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


ALL = {"data/a.csv": 1, "data/b.csv": 2, "data/deep/c.csv": 3}


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("data/a.csv", {"data/a.csv": 1}),
        ("./data//a.csv", {"data/a.csv": 1}),
        ("data/a.csv=in.csv", {"in.csv": 1}),
        ("data/a.csv=in/", {"in/a.csv": 1}),
        ("data", ALL),
        ("data/", ALL),
        ("data=texts", {path.replace("data", "texts"): size for path, size in ALL.items()}),
        ("data=in/", {f"in/{path}": size for path, size in ALL.items()}),
        (".", {**ALL, "prog.py": 1}),
        ("data/*.csv", {"data/a.csv": 1, "data/b.csv": 2}),
        ("data/**/*.csv", ALL),
        ("data/*.csv=in/", {"in/a.csv": 1, "in/b.csv": 2}),
        ("../other.txt", {"other.txt": 9}),
        ("../here/data", ALL),
        (Path("data/a.csv"), {"data/a.csv": 1}),
        (("data/a.csv", "x=y"), {"x=y": 1}),
    ],
)
def test_a_file_is_named_with_its_place(source: Any, files: Mapping[str, int]) -> None:
    assert named(source) == files


def test_a_name_with_an_equals_sign_is_a_file_where_there_is_one(here: Path) -> None:
    (here / "x=1.csv").write_text("x")
    assert named("x=1.csv") == {"x=1.csv": 1}
    assert named("x=1.csv=y") == {"y": 1}
    assert named(str(here / "data" / "a.csv")) == {"a.csv": 1}


@pytest.mark.parametrize(
    ("source", "word"),
    [("none.csv", "no file"), ("*.none", "no file"), ("data/*.csv=in", "a pattern"), ("", "name")],
)
def test_what_names_no_file_is_told(source: str, word: str) -> None:
    with pytest.raises(Problem, match=word):
        find_files([source])


def test_links_are_taken_where_they_are_named_and_left_out_where_they_are_found(
    here: Path, tmp_path: Path
) -> None:
    (here / "data/link.csv").symlink_to(tmp_path / "other.txt")
    (here / "data/up").symlink_to(tmp_path)
    os.mkfifo(here / "data/pipe")
    files, left_out = find_files(["data"])
    assert {file.path for file in files} == {*ALL}
    assert {path.name for path in left_out} == {"link.csv", "up", "pipe"}
    assert named("data/link.csv") == {"data/link.csv": 9}
    assert named("data/up=up")["up/other.txt"] == 9
    with pytest.raises(Problem, match="neither"):
        find_files(["data/pipe"])


def test_a_file_that_changes_while_it_is_read_is_told(here: Path) -> None:
    (file,) = find_files(["data/b.csv"])[0]
    (here / "data/b.csv").write_text("cc")
    os.utime(here / "data/b.csv", ns=(1, 1))
    with pytest.raises(Problem, match="changed"):
        file.blob()
    (file,) = find_files(["data/b.csv"])[0]
    pieces = file.pieces()
    assert next(pieces) == b"cc"
    with (here / "data/b.csv").open("a") as more:
        more.write("more")
    with pytest.raises(Problem, match="changed"):
        next(pieces)
    (here / "data/b.csv").unlink()
    os.mkfifo(here / "data/b.csv")
    with pytest.raises(Problem, match="changed"):
        file.blob()


def submitted(api: Served) -> dict[str, Any]:
    (payload,) = api.node._payloads.values()
    return dict(payload)


def test_files_are_sent_once_and_named_in_the_payload(
    api: Served, kowalski: Kowalski, here: Path
) -> None:
    asked = ("submit", "prog.py", "--file", "data", "--file", "prog.py=copy.csv", "--output", "*.x")
    (here / "data/same.csv").write_text("1")
    assert kowalski(*asked).code == 0
    payload = submitted(api)
    assert payload["outputs"] == ["*.x"]
    contents = {path: path[-5].encode() * size for path, size in ALL.items()}
    contents |= {"copy.csv": b"1", "data/same.csv": b"1"}
    assert {entry["path"]: entry["blob"] for entry in payload["inputs"]} == {
        path: digest(data) for path, data in contents.items()
    }
    assert {*api.node.blobs} == {digest(data) for data in contents.values()}
    sent = len(api.node.blob_pieces)
    assert kowalski(*asked, "--key", "again").code == 0
    assert len(api.node.blob_pieces) == sent


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--file", "none"), 1),
        (("--file", "data=../x"), 1),
        (("--file", "data/a.csv=program/x"), 1),
        (("--file", "data/a.csv", "--file", "data/b.csv=data/a.csv"), 1),
        (("--output", "../*"), 1),
        (("--save", "x"), 2),
        (("--save", "x", "--wait"), 2),
        (("--save", "x", "--output", "*"), 2),
    ],
)
def test_what_can_not_be_is_refused_before_anything_is_sent(
    api: Served, kowalski: Kowalski, arguments: tuple[str, ...], code: int
) -> None:
    if code == 1 and arguments[0] == "--output":
        arguments = ("--file", "data", *arguments)
    assert kowalski("submit", "prog.py", *arguments).code == code
    assert api.node.blobs == {}
    assert api.node._payloads == {}


def test_a_tool_takes_no_files(api: Served, kowalski: Kowalski) -> None:
    ended = kowalski("submit", "--tool", "echo", "--file", "data")
    assert ended.code == 2
    assert "--file belongs to a program" in ended.err
    assert api.node._payloads == {}


def settled(api: Served, kowalski: Kowalski, files: Mapping[str, bytes], **wrong: Any) -> str:
    """A task that has left these files."""
    task_id = kowalski("submit", "prog.py").out.strip()

    def act() -> None:
        views: list[FileView] = []
        for path, data in files.items():
            api.node.blobs[digest(data)] = data
            views.append(FileView(path, digest(data), wrong.get("size_bytes", len(data))))
        api.node.settle(task_id, ResultView(True, value=1, files=views))

    api.do(act)
    return task_id


def saved(kowalski: Kowalski, task_id: str, *more: str) -> Ended:
    return kowalski("result", task_id, "--save", "back", *more)


def test_files_are_saved_below_the_folder(api: Served, kowalski: Kowalski, here: Path) -> None:
    task_id = settled(
        api, kowalski, {"a.csv": b"a" * 200_000, "deep/er/b.csv": b"", ".hidden": b"h"}
    )
    ended = saved(kowalski, task_id)
    assert ended.code == 0
    assert "195.3 KiB" in ended.err
    assert (here / "back/a.csv").read_bytes() == b"a" * 200_000
    assert (here / "back/deep/er/b.csv").read_bytes() == b""
    assert sorted(path.name for path in (here / "back").iterdir()) == [".hidden", "a.csv", "deep"]
    told = kowalski("result", task_id)
    assert "Left deep/er/b.csv (0 B)." in told.err
    assert "--save DIR" in told.err
    assert len(kowalski("--json", "result", task_id).json["result"]["files"]) == 3


def test_nothing_is_replaced_unless_it_may_be(api: Served, kowalski: Kowalski, here: Path) -> None:
    task_id = settled(api, kowalski, {"a.csv": b"new", "b.csv": b"new"})
    (here / "back").mkdir()
    (here / "back/b.csv").write_text("mine")
    ended = saved(kowalski, task_id)
    assert ended.code == 1
    assert "is there already" in ended.err
    assert "--overwrite" in ended.err
    assert [path.name for path in (here / "back").iterdir()] == ["b.csv"]
    assert (here / "back/b.csv").read_text() == "mine"
    assert kowalski("--json", "result", task_id, "--save", "back").json["error"]["code"]
    assert saved(kowalski, task_id, "--overwrite").code == 0
    assert (here / "back/b.csv").read_text() == "new"


@pytest.mark.parametrize(
    "path", ["../x", "/tmp/x", "a/../../x", "a//b", "a\\b", "a\nb", "", ".", "x" * 256]
)
def test_a_name_that_leads_elsewhere_is_not_written(
    api: Served, kowalski: Kowalski, here: Path, path: str
) -> None:
    task_id = settled(api, kowalski, {"good": b"1", path: b"evil"})
    ended = saved(kowalski, task_id, "--overwrite")
    assert "[bad_answer]" in ended.err
    assert "can't be saved" in ended.err
    assert not (here / "back").exists()
    assert sorted(path.name for path in here.parent.iterdir()) == ["here", "other.txt"]


def test_nothing_is_written_through_a_link(
    api: Served, kowalski: Kowalski, here: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (here / "back").mkdir()
    (here / "back/deep").symlink_to(outside)
    (here / "back/b.csv").symlink_to(outside / "kept")
    (here / "back/c").mkdir()
    task_id = settled(api, kowalski, {"deep/kept": b"evil"})
    assert saved(kowalski, task_id, "--overwrite").code == 1
    task_id = settled(api, kowalski, {"b.csv": b"evil"})
    assert saved(kowalski, task_id).code == 1
    assert saved(kowalski, task_id, "--overwrite").code == 0
    assert (here / "back/b.csv").read_bytes() == b"evil"
    assert not (here / "back/b.csv").is_symlink()
    task_id = settled(api, kowalski, {"c": b"evil"})
    assert saved(kowalski, task_id, "--overwrite").code == 1
    task_id = settled(api, kowalski, {"b.csv/d": b"evil"})
    assert saved(kowalski, task_id, "--overwrite").code == 1
    assert [path.name for path in outside.iterdir()] == ["kept"]
    assert (outside / "kept").read_text() == "kept"


def test_other_bytes_than_those_that_were_named_get_no_name(
    api: Served, kowalski: Kowalski, here: Path
) -> None:
    for wrong in (2, 4):
        task_id = settled(api, kowalski, {"a.csv": b"abc"}, size_bytes=wrong)
        assert "[bad_answer]" in saved(kowalski, task_id).err
    task_id = settled(api, kowalski, {"a.csv": b"abc"})
    api.node.blobs[digest(b"abc")] = b"xyz"
    assert "[bad_answer]" in saved(kowalski, task_id).err
    api.node.blobs.clear()
    assert "[not_found]" in saved(kowalski, task_id).err
    assert [*(here / "back").iterdir()] == []


def test_a_file_that_appears_meanwhile_is_not_replaced(here: Path) -> None:
    left = FileView("a", digest(b"new"), 3)

    def save() -> None:
        with (
            open_saving(here / "back", [left], overwrite=False) as saving,
            saving.target(left) as target,
        ):
            target.write(b"new")
            (here / "back/a").write_text("mine")

    with pytest.raises(Problem, match="there already"):
        save()
    assert (here / "back/a").read_text() == "mine"
    assert [path.name for path in (here / "back").iterdir()] == ["a"]


def test_a_large_file_is_hashed_in_constant_memory(here: Path) -> None:
    with (here / "large").open("wb") as file:
        file.truncate(64 << 20)
    (found,) = find_files(["large"])[0]
    tracemalloc.start()
    try:
        found.blob()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
