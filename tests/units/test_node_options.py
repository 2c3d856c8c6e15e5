"""What an owner writes for a node's options is read in full or refused by the name of its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from kowalski_gateway.node_main import main, options_from, parser
from kowalski_node import __version__
from kowalski_node.options import NodeOptions
from kowalski_protocol.errors import Problem
from kowalski_protocol.limits import LIMITS, WAN

API = ("--api", "127.0.0.1:0")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder that the environment names; of the options it says nothing else."""
    for option in vars(parser().parse_args([])):
        monkeypatch.delenv(f"KOWALSKI_{option.upper()}", raising=False)
    monkeypatch.setenv("KOWALSKI_HOME", str(tmp_path))
    return tmp_path


def configured(home: Path, text: str) -> NodeOptions:
    (home / "config.toml").write_text(text, encoding="utf-8")
    return options_from(API)[0]


def refused(*arguments: str) -> Problem:
    with pytest.raises(Problem) as raised:
        options_from(arguments)
    return raised.value


def refused_config(home: Path, text: str) -> Problem:
    (home / "config.toml").write_text(text, encoding="utf-8")
    return refused(*API)


SORTS = {
    "5": "the number 5",
    "1.5": "the number 1.5",
    "true": "true",
    "[]": "a list",
    "[5]": "a list",
    "{}": "a table",
    "{ a = 5 }": "a table",
    "1979-05-27": "a date or time",
    '"basic_format"': "'basic_format'",
}
"""Values of TOML, and how a refusal calls them."""
TEXT = {'"basic_format"'}
LISTS = {'"basic_format"', "[]"}
"""Of these the option itself says what is wrong, if anything."""
TABLES = {*LISTS, "{}", "{ a = 5 }"}
TAKEN = {
    "listen": LISTS,
    "peer": LISTS,
    "join": TEXT,
    "api_token": TEXT,
    "name": TEXT,
    "slots": {"5"},
    "label": TABLES,
    "cost": TABLES,
    "run": LISTS,
    "no_mdns": {"true"},
    "unsandboxed": {"true"},
    "archive": {"true"},
    "preset": set[str](),
    "log": set[str](),
}


WRONG = [(key, one) for key, taken in TAKEN.items() for one in SORTS if one not in taken]


@pytest.mark.parametrize(("key", "written"), WRONG)
def test_a_value_of_a_wrong_sort_is_refused_by_its_key(home: Path, key: str, written: str) -> None:
    problem = refused_config(home, f"{key} = {written}")
    assert problem.code == "bad_request"
    is_looked_into = written == "[5]" and "[]" in TAKEN[key]
    what = "holds the number 5" if is_looked_into else f"is {SORTS[written]}"
    assert problem.sentence.startswith(f"'{key}' in config.toml {what}; it takes ")


def test_the_api_address_is_a_text(home: Path) -> None:
    (home / "config.toml").write_text("api = 5", encoding="utf-8")
    assert "'api' in config.toml is the number 5" in refused().sentence


@pytest.mark.parametrize(
    "text",
    [
        "label = { floor = 3 }",
        'label = { "" = "x" }',
        "cost = { code = true }",
        "cost = { code = inf }",
        "cost = { code = nan }",
        "cost = { code = -1 }",
        'cost = { code = "dear" }',
        "cost = { code = 0x" + "f" * 400 + " }",
        "slots = 0x" + "f" * 5000,
        "run = []",
    ],
)
def test_what_is_wrong_within_a_value_is_refused(home: Path, text: str) -> None:
    problem = refused_config(home, text)
    assert problem.code == "bad_request"
    assert problem.sentence.startswith(f"'{text.split()[0]}' in config.toml ")


@pytest.mark.parametrize("text", ["slots = " + "9" * 5000, "slots = " + "[" * 5000, "slots = \xff"])
def test_a_file_that_can_not_be_read_is_told_in_a_sentence(home: Path, text: str) -> None:
    (home / "config.toml").write_bytes(text.encode("latin-1"))
    problem = refused(*API)
    assert problem.code == "home_unusable"
    assert "config.toml can't be read" in problem.sentence


@pytest.mark.parametrize(
    ("key", "near"),
    [("slot", "slots"), ("labels", "label"), ("mdns", "no_mdns"), ("no-mdn", "no_mdns")],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(home: Path, key: str, near: str) -> None:
    problem = refused_config(home, f"{key} = 1")
    assert problem.code == "bad_request"
    assert problem.sentence == f"config.toml has no key '{key}'; did you mean '{near}'?"


def test_an_unknown_key_that_is_near_to_none_is_refused_with_all(home: Path) -> None:
    sentence = refused_config(home, "qqq = 1").sentence
    assert all(f" {key}" in sentence for key in TAKEN)
    assert "twice" in refused_config(home, "no-mdns = true\nno_mdns = false").sentence
    assert refused_config(home, "model_server = []").code == "not_supported"


def test_a_whole_configuration_is_read(home: Path) -> None:
    options = configured(
        home,
        """
        name = "desk"
        listen = "/ip4/127.0.0.1/tcp/0"
        peer = ["mini.local", "attic"]
        slots = "4"
        label = { home = "yes", leader = "never", room = "" }
        run = "code, tool"
        cost = { code = 2, tool = 0.5 }
        no-mdns = "on"
        unsandboxed = false
        preset = "wan"
        """,
    )
    assert options.name == "desk"
    assert options.listen == ("/ip4/127.0.0.1/tcp/0",)
    assert len(options.peers) == 2
    assert options.slots == 4
    assert options.labels == {"home": "yes", "leader": "never", "room": ""}
    assert options.run == ("code", "tool")
    assert options.costs == {"code": 2.0, "tool": 0.5}
    assert (options.mdns, options.unsandboxed) == (False, False)
    assert options.timers is WAN


def test_the_environment_is_refused_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KOWALSKI_SLOTS", "many")
    assert refused(*API).sentence.startswith("KOWALSKI_SLOTS is 'many'; it takes a whole number")
    monkeypatch.setenv("KOWALSKI_SLOTS", "3")
    monkeypatch.setenv("KOWALSKI_UNSANDBOXED", "ja")
    assert refused(*API).sentence == "KOWALSKI_UNSANDBOXED is 'ja'; it takes true or false."
    monkeypatch.setenv("KOWALSKI_UNSANDBOXED", "No")
    options, _ = options_from(API)
    assert (options.slots, options.unsandboxed) == (3, False)


def test_a_log_level_that_there_is_not_is_refused_with_those_that_there_are() -> None:
    problem = refused(*API, "--log", "nonsense")
    assert problem.code == "bad_request"
    assert "debug, info, warning, error" in problem.sentence
    assert options_from([*API, "--log", "Info"])[1] == "INFO"
    assert options_from(API)[1] == "WARNING"


@pytest.mark.parametrize("option", [("--run", "{}"), ("--run", "code,{}"), ("--cost", "{}=1")])
def test_a_node_takes_no_kinds_that_there_are_not(option: tuple[str, str]) -> None:
    name, form = option
    problem = refused(*API, name, form.format("foo"))
    assert problem.code == "unknown_kind"
    assert "'foo'" in problem.sentence
    assert "code, tool" in problem.sentence
    for kind in ("llm", "chat", "embed", "memory", "rlm"):
        problem = refused(*API, name, form.format(kind))
        assert problem.code == "not_supported"
        assert f"'{kind}'" in problem.sentence


def test_a_node_is_not_told_to_run_no_kind() -> None:
    assert refused(*API, "--run", "").code == refused(*API, "--run", ",").code == "bad_request"
    assert options_from([*API, "--run", "tool"])[0].run == ("tool",)
    assert options_from(API)[0].run is None


def test_labels_that_mean_something_take_what_means_something() -> None:
    for label, meant in (("home=no", "home=yes"), ("home=", "home=yes"), ("leader=x", "=never")):
        problem = refused(*API, "--label", label)
        assert problem.code == "bad_request"
        assert meant in problem.sentence
    options, _ = options_from([*API, "--label", "home=yes", "--label", "leader=never"])
    assert options.labels == {"home": "yes", "leader": "never"}


@pytest.mark.parametrize("where", ["--label", "config.toml"])
def test_labels_are_bounded_as_those_of_a_task(home: Path, where: str) -> None:
    def given(labels: dict[str, str]) -> list[str]:
        if where == "--label":
            return [*API, *(f"--label={key}={text}" for key, text in labels.items())]
        lines = ["[label]", *(f'"{key}" = "{text}"' for key, text in labels.items())]
        (home / "config.toml").write_text("\n".join(lines), encoding="utf-8")
        return [*API]

    length_max, labels_max = LIMITS.label_length_max, LIMITS.labels_max
    fits = {f"{n:02}" + "k" * (length_max - 2): "v" * length_max for n in range(labels_max)}
    assert options_from(given(fits))[0].labels == fits
    for labels in (
        {"key": "v" * 100_000},
        {"key": "v" * (length_max + 1)},
        {"k" * (length_max + 1): "value"},
        {**fits, "one more": ""},
    ):
        problem = refused(*given(labels))
        assert problem.code == "bad_request"
        assert len(problem.sentence) < 300


def test_a_device_name_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = "n" * LIMITS.name_length_max
    assert options_from([*API, "--name", longest])[0].name == longest
    for name in (longest + "n", "n" * 100_000, "", " ", "\udcff"):
        problem = refused(*API, "--name", name)
        assert problem.code == "bad_request"
        assert f"1 to {LIMITS.name_length_max} characters" in problem.sentence
    # Nobody chose the name of the host, so it is cut.
    monkeypatch.setattr("platform.node", lambda: longest + "n")
    assert options_from(API)[0].name == longest


@pytest.mark.parametrize("option", ["--name", "--join", "--api-token", "--peer", "--api", "--run"])
def test_bytes_that_are_no_text_are_refused(option: str) -> None:
    assert refused(option, "\udcff").code == "bad_request"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--slots", "abc"], "--slots is 'abc'; it takes a whole number from 1 to 4096."),
        (["--slots", "0"], "--slots is '0'; it takes a whole number from 1 to 4096."),
        (["--slots"], "Argument --slots: expected one argument."),
        (["--nosuch"], "Unrecognized arguments: --nosuch."),
        (["--log", "loud"], "--log is 'loud'; it takes one of debug, info, warning, error."),
    ],
)
def test_wrong_usage_exits_with_2_and_tells_its_code(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert (out, err) == ("", f"error [bad_request]: {said}\nmend: kowalski-node --help\n")


def test_a_preset_that_there_is_not_is_refused_wherever_it_stands(home: Path) -> None:
    flag, key = refused("--preset", "moon"), refused_config(home, 'preset = "moon"')
    for problem in (flag, key):
        assert (problem.code, problem.mend) == ("bad_request", "kowalski-node --help")
        assert "'moon'" in problem.sentence
        assert all(name in problem.sentence for name in ("preset", "local", "lan", "wan"))


def test_a_kind_that_is_unknown_exits_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--run", "foo"])
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error [unknown_kind]: --run names 'foo'")


def test_the_release_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"kowalski-node {__version__}\n"
