"""Where a node's home folder is: named by a person in many ways, absolute from the options on.

And what is damaged in it is told in a sentence that says so.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kowalski_gateway.node_main import options_from
from kowalski_node.blobs import Blobs
from kowalski_node.home import KEY_FILE, Home, default_home, home_at
from kowalski_protocol.errors import Problem

LISTEN = ("--listen", "/ip4/127.0.0.1/tcp/0")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a person who names folders by where they are."""
    monkeypatch.chdir(tmp_path)
    for name in ("KOWALSKI_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    return Path.cwd()


@pytest.mark.parametrize("named", ["desk", "./desk", "more/../desk"])
def test_a_relative_home_is_made_absolute_by_the_options(
    named: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, _ = options_from(["--home", named, *LISTEN])
    assert given.home == here / named
    monkeypatch.setenv("KOWALSKI_HOME", named)
    assert options_from(LISTEN)[0].home == here / named


def test_the_home_of_a_user_is_found(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    monkeypatch.setenv("HOME", str(here))
    assert home_at("~/desk") == here / "desk"


def test_a_home_that_leads_nowhere_is_told_in_a_sentence(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Problem) as problem:
        options_from(["--home", "~no-such-user-7f3a9/desk", *LISTEN])
    assert problem.value.code == "home_unusable"
    monkeypatch.chdir(here / "..")
    gone = here / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(Problem) as problem:
        home_at("desk")
    assert (problem.value.code, "desk" in problem.value.sentence) == ("home_unusable", True)


@pytest.mark.skipif(sys.platform == "darwin", reason="another folder there")
def test_the_folder_for_user_data_is_taken_where_it_is_absolute(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setenv("XDG_DATA_HOME", str(here / "data"))
    assert default_home() == here / "data" / "kowalski"
    for text in ("", "data"):
        monkeypatch.setenv("XDG_DATA_HOME", text)
        assert default_home() == here / ".local" / "share" / "kowalski"


def test_blobs_that_are_no_folder_are_told_in_a_sentence(here: Path) -> None:
    (here / "blobs").write_text("not a folder", encoding="utf-8")
    with pytest.raises(Problem) as problem:
        Blobs(here / "blobs")
    assert problem.value.code == "home_unusable"
    assert str(here / "blobs") in problem.value.sentence


def test_a_rest_of_a_blob_that_is_a_folder_is_told_in_a_sentence(here: Path) -> None:
    (here / "blobs" / "0123.part").mkdir(parents=True)
    with pytest.raises(Problem) as problem:
        Blobs(here / "blobs")
    assert problem.value.code == "home_unusable"


def test_a_key_that_is_a_folder_is_not_one_that_others_may_read(here: Path) -> None:
    for mode in (0o755, 0o700):
        (here / KEY_FILE).mkdir(exist_ok=True)
        (here / KEY_FILE).chmod(mode)
        with pytest.raises(Problem) as problem:
            Home(here).identity()
        assert (problem.value.code, problem.value.mend) == ("home_unusable", None)
        assert "is not a file" in problem.value.sentence
