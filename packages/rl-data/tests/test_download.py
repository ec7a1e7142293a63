import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest

from rl_data import DataError, load_tokenizer
from rl_data.cli import main
from rl_data.hub import download
from rl_data.hub.checks import check_model
from rl_data.rows import open_rows
from rl_data.rows.unfinished import note_unfinished

pytest.importorskip("huggingface_hub")


def _module(name: str) -> ModuleType:
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hub_server = _module("hub_server")

PROMPTS = "".join(
    json.dumps({"prompt": [{"role": "user", "content": f"{number}+1?"}], "label": str(number + 1)}) + "\n"
    for number in range(30)
).encode()
OPENHERMES = json.dumps(
    [
        {
            "conversations": [{"from": "human", "value": f"{number}+1?"}, {"from": "gpt", "value": f"{number + 1}\n"}],
            "source": "made up",
        }
        for number in range(3)
    ],
    indent=2,
).encode()
WEIGHTS = os.urandom(50_000)
REPOS = {
    "datasets/zhuzilin/aime-2024": {
        ".gitattributes": b"*.jsonl filter=lfs\n",
        "README.md": b"# AIME\n",
        "aime-2024.jsonl": PROMPTS,
    },
    "models/Qwen/Qwen3-4B": {
        "config.json": b'{"model_type": "qwen3"}',
        "tokenizer_config.json": b"{}",
        "tokenizer.json": b'{"version": "1.0"}',
        "model.safetensors.index.json": b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}',
        "model-1.safetensors": WEIGHTS,
        "model-2.safetensors": WEIGHTS[::-1],
        "pytorch_model.bin": b"the same weights again",
    },
    "datasets/teknium/OpenHermes-2.5": {"README.md": b"# OpenHermes\n", "openhermes2_5.json": OPENHERMES},
    "datasets/some/pictures": {"pictures.csv": b"name\n"},
    "datasets/some/parts": {"a.jsonl": PROMPTS, "b.jsonl": PROMPTS, "c.jsonl": PROMPTS + PROMPTS},
    "datasets/some/half": {"rows.jsonl": b'{"question": "?"}\n'},
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator["hub_server.HubServer"]:
    # Between tries http_get waits a second; the tests' server is as ready at once.
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    # What arrives is written in parts of this size, of 10 MB otherwise.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    with hub_server.serving(REPOS) as server:
        yield server


READ_FROM_HUB = """
import json, sys
from rl_data import DataError
from rl_data.order import RowCursor
from rl_data.rows import open_rows
from rl_data.rows.unfinished import note_unfinished

state_at = sys.argv.pop(1)
rows = open_rows("hub:some/questions")
cursor = RowCursor(rows, name="rows", shuffle=True, seed=1)
if rows.row(0)["label"] == "1" and len(rows) > 30:  # it has grown
    cursor.load_state_dict(json.load(open(state_at)))
    print([cursor.advance().row for _ in range(18)], len({cursor.advance().row for _ in range(len(rows))}))
    sys.exit()
[cursor.advance() for _ in range(12)]
json.dump(cursor.state_dict(), open(state_at, "w"))
print([cursor.advance().row for _ in range(18)])
rows = open_rows("hub:some/questions@[5:20]")
print(len(rows), rows.row(0), len(open_rows("hub:some/questions?split=test")), rows.where(0).rpartition("/")[2])
for bad in sys.argv[1:]:
    try:
        open_rows(bad)
    except DataError as error:
        print(str(error).partition("\\n")[0])
"""


@pytest.mark.slow
def test_a_hub_data_set_is_read_through_datasets_and_kept(tmp_path: Path):
    """In a process of its own, for the hub's address is read when the library is imported."""
    pytest.importorskip("datasets")
    bad = ("hub:some/nothing", "hub:some/questions?split=dev", "hub:some/questions?part=1", "hub:some/broken")
    bad += ("hub:some/questions?split=train[:5]",)
    files = {"train.jsonl": PROMPTS, "test.jsonl": PROMPTS.splitlines(keepends=True)[0]}
    repos = {"datasets/some/questions": files, "datasets/some/broken": {"train.jsonl": b'{"prompt": "cut'}}
    with hub_server.serving(repos) as server:
        environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path)}
        command = [sys.executable, "-c", READ_FROM_HUB, str(tmp_path / "state.json")]
        done = subprocess.run([*command, *bad], env=environment, capture_output=True, text=True, timeout=120)
        num_requests = len(server.requests)
        offline = {**environment, "HF_HUB_OFFLINE": "1"}
        server.requests.clear()
        again = subprocess.run(command, env=offline, capture_output=True, text=True, timeout=120)
        assert not server.requests
        server.repos["datasets/some/questions"]["train.jsonl"] = PROMPTS + PROMPTS
        server.commit = server.commit[::-1]
        grown = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    order, first, *messages = done.stdout.splitlines()
    row = {"prompt": [{"role": "user", "content": "5+1?"}], "label": "6"}
    assert first == f"15 {row} 1 questions-train.arrow: row 5 (record batch 0)"
    assert messages[0].startswith(("hub:some/nothing: DatasetNotFoundError", "hub:some/nothing: RepositoryNotFound"))
    assert "Unknown split" in messages[1]
    assert messages[2] == "hub:some/questions?part=1: expected options of config, split, revision, found part"
    assert "JSON parse error" in messages[3]
    assert messages[4].endswith("expected a whole split, got 5 of 30 rows; use @[START:STOP]")
    assert num_requests > 0
    assert again.stdout.splitlines() == [order, first], again.stderr
    assert grown.stdout.splitlines() == [f"{order} 60"], grown.stderr  # the epoch ends as it began


def fetch(server: "hub_server.HubServer", name: str, to: Path, *more: str) -> int:
    return main(["download", name, "--to", str(to), "--endpoint", server.url, *more])


def contents(server: "hub_server.HubServer") -> list[tuple[str, str | None]]:
    """Path and Range of each request for the content of a large file."""
    return [(path.rpartition("/")[2], wanted) for _, path, wanted in server.requests if path.startswith("/cdn/")]


def test_a_data_set_is_fetched_and_checked(
    hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
):
    caplog.set_level("INFO")
    to = tmp_path / "aime"
    assert fetch(hub, "aime-2024", to) == 0
    shown = capsys.readouterr()
    assert f"dataset zhuzilin/aime-2024 at {hub_server.COMMIT}: 2 files fetched, 0 were there" in shown.out
    assert "30 rows with keys prompt, label" in shown.out
    # Without a terminal, a line for each file instead of bars.
    assert "%" not in shown.err
    lines = [record.getMessage() for record in caplog.records if record.name == "rl_data.hub.fetching"]
    assert [re.sub(r"in [\d.]+ s", "in S", line) for line in lines] == [
        "README.md: 0.0 MB in S, digest checked", "aime-2024.jsonl: 0.0 MB in S, digest checked",
    ]  # fmt: skip
    assert (to / "aime-2024.jsonl").read_bytes() == PROMPTS
    assert sorted(path.name for path in to.iterdir() if path.is_file()) == ["README.md", "aime-2024.jsonl"]
    assert len(open_rows(str(to))) == 30


def test_openhermes_is_a_list_in_json_and_goes_from_the_hub_into_parquet(
    hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert fetch(hub, "openhermes-2.5", tmp_path / "raw") == 0
    assert "3 rows with keys conversations, source" in capsys.readouterr().out
    assert main(["prepare", "openhermes", str(tmp_path / "raw"), "--to", str(tmp_path / "prepared.parquet")]) == 0
    rows = open_rows(str(tmp_path / "prepared.parquet"))
    messages = [{"role": "user", "content": "2+1?"}, {"role": "assistant", "content": "3\n"}]
    assert (len(rows), rows.row(2)) == (3, {"messages": messages, "source": "made up"})


def test_a_model_is_fetched_without_copies_of_its_weights(hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert fetch(hub, "qwen3-4b", tmp_path) == 0
    assert "model Qwen/Qwen3-4B" in capsys.readouterr().out
    assert (tmp_path / "model-2.safetensors").read_bytes() == WEIGHTS[::-1]
    assert not (tmp_path / "pytorch_model.bin").exists()


def test_what_is_whole_is_not_fetched_again_and_what_is_damaged_is(
    hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    fetch(hub, "qwen3-4b", tmp_path)
    hub.requests.clear()
    damaged = tmp_path / "model-1.safetensors"
    damaged.write_bytes(bytes(len(WEIGHTS)))
    capsys.readouterr()
    assert fetch(hub, "qwen3-4b", tmp_path) == 0
    assert "1 files fetched, 5 were there" in capsys.readouterr().out
    assert contents(hub) == [("model-1.safetensors", None)]
    assert damaged.read_bytes() == WEIGHTS


def test_a_broken_download_goes_on_where_it_ended(hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    hub.fails_after = 20_000
    assert fetch(hub, "qwen3-4b", tmp_path) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("rl-data: Qwen/Qwen3-4B: model-1.safetensors: ")
    assert not (tmp_path / "model-1.safetensors").exists()
    hub.fails_after = None
    hub.requests.clear()
    assert fetch(hub, "qwen3-4b", tmp_path) == 0
    assert contents(hub) == [("model-1.safetensors", "bytes=20000-"), ("model-2.safetensors", None)]
    assert (tmp_path / "model-1.safetensors").read_bytes() == WEIGHTS
    assert not list((tmp_path / ".rl-data" / "download").iterdir())


DOWNLOAD = """
import sys
import huggingface_hub.constants
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 1000  # of what is written at once, 10 MB otherwise
from rl_data.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_a_download_on_a_terminal_draws_a_bar_with_bytes_and_their_speed(hub, tmp_path: Path):
    control, terminal = os.openpty()
    termios.tcsetwinsize(terminal, (24, 120))
    words = ["download", "some/parts", "--to", str(tmp_path), "--endpoint", hub.url]
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen(
        [sys.executable, "-c", DOWNLOAD, *words], stdout=subprocess.DEVNULL, stderr=terminal, env=environment
    ) as process:
        os.close(terminal)
        shown = b""
        with suppress(OSError):  # so a terminal ends whose other side is closed
            while more := os.read(control, 4096):
                shown += more
        os.close(control)
        assert process.wait(60) == 0, shown
    frames = shown.decode().replace("\r", "\n").split("\n")
    size = rf"{len(PROMPTS) / 1000:.2f}k"
    assert any(
        re.match(rf"a\.jsonl: 100%\|\S+\| {size}/{size} \[\d\d:\d\d<00:00, [\d.]+[kMG]?B/s\]", one) for one in frames
    ), frames


def kill_in_the_middle(server: "hub_server.HubServer", words: list[str], part_of: Path) -> None:
    """Starts a download in a process of its own and kills it when some of a file, and not all, has come."""
    command = [sys.executable, "-c", DOWNLOAD, "download", *words, "--endpoint", server.url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while not (part_of.exists() and part_of.stat().st_size):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()


def test_a_killed_download_passes_for_nothing_and_goes_on_where_it_ended(
    hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data = {"large.jsonl": PROMPTS * 20}
    hub.repos["datasets/some/parts"] |= data
    part = tmp_path / ".rl-data" / "download" / f"{hashlib.sha256(data['large.jsonl']).hexdigest()}.part"
    hub.stalls["large.jsonl"] = 30_000
    kill_in_the_middle(hub, ["some/parts", "--to", str(tmp_path)], part)
    num_there = part.stat().st_size
    assert 0 < num_there <= 30_000
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == ["a.jsonl", "b.jsonl", "c.jsonl"]
    message = (
        r"the download of some/parts was not finished, large\.jsonl is missing: `rl-data download some/parts --endpoint"
    )
    for source in (str(tmp_path), f"{tmp_path}/*.jsonl", f"{tmp_path}@[:3]"):
        with pytest.raises(DataError, match=message):
            open_rows(source)
    assert len(open_rows(f"{tmp_path}/a.jsonl")) == 30
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "rows.jsonl").write_bytes(PROMPTS)
    assert len(open_rows(f"{tmp_path}/mine")) == 30  # nothing of the download belongs there
    (tmp_path / "mine" / "rows.jsonl").unlink()
    hub.stalls.clear()
    hub.requests.clear()
    assert fetch(hub, "some/parts", tmp_path) == 0
    assert "1 files fetched, 3 were there" in capsys.readouterr().out
    assert contents(hub) == [("large.jsonl", f"bytes={num_there}-")]
    assert (tmp_path / "large.jsonl").read_bytes() == data["large.jsonl"]
    assert len(open_rows(str(tmp_path))) == 30 * 24
    assert not list(part.parent.iterdir())


def test_an_update_that_was_broken_off_is_refused_although_every_file_is_there(
    hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    tmp_path = tmp_path / "with a space"
    assert fetch(hub, "some/parts", tmp_path) == 0
    newer = PROMPTS.replace(b"+1?", b"+0?")
    hub.repos["datasets/some/parts"] |= {"b.jsonl": newer, "c.jsonl": newer + newer}
    hub.fails_after = len(PROMPTS)  # b comes whole, and c does not
    assert fetch(hub, "some/parts", tmp_path) == 2
    assert (tmp_path / "b.jsonl").read_bytes() == newer
    assert (tmp_path / "c.jsonl").read_bytes() == PROMPTS + PROMPTS
    message = r"of some/parts was not finished, c\.jsonl is there as it was before it: `rl-data download some/parts"
    for source in (str(tmp_path), f"{tmp_path}/*.jsonl"):
        with pytest.raises(DataError, match=f"{message} --endpoint .* --to '{tmp_path}'` goes on"):
            open_rows(source)
    capsys.readouterr()
    hub.fails_after = None
    assert fetch(hub, "some/parts", tmp_path) == 0
    assert "1 files fetched, 2 were there" in capsys.readouterr().out
    assert len(open_rows(str(tmp_path))) == 120


def test_a_pattern_is_refused_where_a_file_of_it_has_not_come_in_whatever_folder(tmp_path: Path):
    for name in ("a/x.jsonl", "a/deep/x.jsonl", "c/x.jsonl"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PROMPTS)
    note_unfinished(tmp_path, "some/folders", ["b/y.jsonl", "README.md"], command="rl-data download some/folders")
    for pattern in ("**/*.jsonl", "*/*.jsonl", "[a-b]/*", "*", "b/*.jsonl", "**/y.*"):
        with pytest.raises(DataError, match=r"of some/folders was not finished, (b/)?y\.jsonl is missing: `rl-data"):
            open_rows(f"{tmp_path}/{pattern}")
    for pattern, num_rows in (("a/**/*.jsonl", 60), ("[ac]/*.jsonl", 60), ("**/x.jsonl", 90), ("a/x*", 30)):
        assert len(open_rows(f"{tmp_path}/{pattern}")) == num_rows


def test_the_folder_of_a_model_that_has_not_come_whole_is_refused(
    hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    hub.fails_after = 20_000
    assert fetch(hub, "qwen3-4b", tmp_path) == 2
    capsys.readouterr()
    message = (
        r"of Qwen/Qwen3-4B was not finished, model-1\.safetensors is missing: `rl-data download qwen3-4b --endpoint"
    )
    with pytest.raises(DataError, match=message):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (["tokenizer.json"], "expected tokenizer.json or vocab.json+merges.txt or tokenizer.model of a model, found"),
        (["config.json", "model-1.safetensors"], "expected config.json, model-1.safetensors of a model, found"),
        (["model-1.safetensors", "model-2.safetensors"], "expected model-1.safetensors, model-2.safetensors of a"),
        (["model.safetensors.index.json", "model-1.safetensors", "model-2.safetensors"], "expected *.safetensors of"),
    ],
)
def test_a_model_that_lacks_something_is_told_all_that_it_lacks(
    hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], gone: list[str], message: str
):
    for name in gone:
        del hub.repos["models/Qwen/Qwen3-4B"][name]
    assert fetch(hub, "qwen3-4b", tmp_path) == 2
    assert f"{tmp_path}: {message}" in capsys.readouterr().err


def test_a_model_has_a_vocabulary_in_one_of_its_forms_and_an_index_of_its_parts(tmp_path: Path):
    for name in ("config.json", "tokenizer_config.json", "vocab.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match=r"expected tokenizer\.json or vocab\.json\+merges\.txt or"):
        check_model(tmp_path)
    (tmp_path / "merges.txt").write_text("")
    assert check_model(tmp_path) == "1 files of weights"
    (tmp_path / "model.safetensors").rename(tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(DataError, match=r"expected model\.safetensors\.index\.json of a model"):
        check_model(tmp_path)


def test_other_bytes_than_the_hub_described_are_refused(hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    hub.corrupt.add("aime-2024.jsonl")
    assert fetch(hub, "aime-2024", tmp_path) == 2
    assert "aime-2024.jsonl: what came has not the digest" in capsys.readouterr().err
    assert not (tmp_path / "aime-2024.jsonl").exists()
    hub.corrupt.clear()
    assert fetch(hub, "aime-2024", tmp_path) == 0


def test_any_name_of_the_hub_is_fetched(hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert fetch(hub, "some/half", tmp_path / "half", "--revision", hub_server.COMMIT) == 0
    assert "1 rows with keys question" in capsys.readouterr().out
    assert fetch(hub, "some/pictures", tmp_path / "pictures") == 0
    assert "not a data set that this package reads" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "nonsense: expected OWNER/NAME or one of qwen3-4b"),
        (["some/thing"], "some/thing: the hub has no such repository"),
        (["some/half", "--type", "model"], "some/half: the hub has no such repository"),
        (["aime-2024", "--type", "model"], "aime-2024: it is a dataset, got --type model"),
        (["some/half", "--revision", "v9"], "some/half: it has no such revision"),
        (["some/pictures"], "some/pictures: given out on request only"),
    ],
)
def test_what_cannot_be_fetched_is_one_message(
    hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
):
    hub.gated.add("datasets/some/pictures")
    assert fetch(hub, words[0], tmp_path, *words[1:]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"rl-data: {message}")


def test_a_hub_that_is_not_there_and_repositories_that_lack_something_are_errors(
    hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["download", "aime-2024", "--to", str(tmp_path), "--endpoint", "http://127.0.0.1:9"]) == 2
    assert "zhuzilin/aime-2024: ConnectError" in capsys.readouterr().err
    del hub.repos["models/Qwen/Qwen3-4B"]["model-2.safetensors"]
    assert fetch(hub, "qwen3-4b", tmp_path / "model") == 2
    assert "expected model-2.safetensors of a model, found config.json" in capsys.readouterr().err
    hub.repos["datasets/zhuzilin/aime-2024"]["aime-2024.jsonl"] = b'{"question": "?"}\n'
    assert fetch(hub, "aime-2024", tmp_path / "aime") == 2
    assert "expected keys ['prompt', 'label'], found keys ['question']" in capsys.readouterr().err
    hub.repos["datasets/some/half"]["../outside.jsonl"] = b"{}"
    with pytest.raises(DataError, match="would lie outside the folder"):
        download("some/half", tmp_path / "half", endpoint=hub.url)
