"""The recipes' command lines: whose flag it is, where it was given, what wins, and what is refused."""

import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

import pytest

from recipes.arguments import (
    UsageError,
    exit_on_usage_error,
    parse_arguments,
    read_model_config,
    resolved_yaml,
)
from recipes.arguments.flags_slime import ALWAYS, ALWAYS_IN_SFT, REFUSED_OF_SLIME
from recipes.arguments.known import OWNED_HERE
from rl_rollout.sglang import flags as sglang_flags
from rl_train import TrainConfigError
from rl_train.megatron import flags_honoured, flags_refused

ROOT = Path(__file__).parents[2]
MODEL = {
    "architectures": ["Qwen3ForCausalLM"],
    "head_dim": 16,
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "vocab_size": 320,
}


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintConfig:
    """How things are painted."""

    width: int = field(metadata={"help": "millimetres"})
    speed: float = field(default=1.0, metadata={"help": "metres a second"})
    colour: Colour = field(default=Colour.RED, metadata={"help": "of the paint"})
    finish: Literal["matt", "gloss"] | None = field(default=None, metadata={"help": "of the surface"})
    tags: tuple[str, ...] = field(default=(), metadata={"help": "words"})
    layers: tuple[int, ...] = field(default=(), metadata={"help": "numbers"})
    extra: dict[str, object] = field(default_factory=dict, metadata={"help": "an object"})
    folder: Path | None = field(default=None, metadata={"help": "a path"})
    wet: bool = field(default=False, metadata={"help": "paint wet"})
    drying: bool = field(default=True, metadata={"help": "do not dry", "flag": "--disable-drying"})
    rollout_seed: int = field(default=42, metadata={"help": "of the brush"})
    masked: bool | None = field(default=None, metadata={"help": "cover the rest"})
    fresh: bool = field(default=False, metadata={"help": "not part of what is saved", "saved": False})

    def __post_init__(self) -> None:
        if self.width < 1:
            raise TrainConfigError(f"width: expected at least 1, got {self.width}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameConfig:
    """How things are framed."""

    save_interval: int | None = field(default=None, metadata={"help": "frames between two saves"})
    rollout_seed: int = field(default=42, metadata={"help": "of the wood"})


CONFIGS = (PaintConfig, FrameConfig)


def parse(*words: str, presets: Path | None = None):
    return parse_arguments(words, CONFIGS, program="paint", presets_dir=presets or ROOT)


def usage_error(*words: str, presets: Path | None = None) -> str:
    with pytest.raises(UsageError) as error:
        parse(*words, presets=presets)
    return str(error.value)


def test_each_field_is_read_as_its_type():
    paint = parse(
        *("--width", "3", "--speed", "2e-3", "--colour", "blue", "--finish", "gloss", "--tags", "a", "-b", "c"),
        *("--layers", "1", "-2", "--extra", '{"x": [1]}', "--folder", "a/b", "--wet", "--disable-drying"),
    ).get(PaintConfig)
    assert paint == PaintConfig(
        width=3, speed=0.002, colour=Colour.BLUE, finish="gloss", tags=("a", "-b", "c"), layers=(1, -2),
        extra={"x": [1]}, folder=Path("a/b"), wet=True, drying=False,
    )  # fmt: skip
    assert isinstance(paint.colour, Colour)


def test_an_equals_sign_may_join_a_flag_and_its_value():
    assert parse("--width=3", "--speed=-1").get(PaintConfig).speed == -1.0


def test_a_switch_without_a_default_can_be_given_either_way_and_the_later_wins(presets, tmp_path, monkeypatch):
    (presets / "masked.yaml").write_text("masked: true\n")
    (presets / "unmasked.yaml").write_text("masked: false\n")
    monkeypatch.chdir(tmp_path)
    for name, line in (("false", "masked: false"), ("null", "masked: null"), ("not-no", "no-masked: false")):
        Path(name).write_text(line)
    given = {
        (): None,
        ("--masked",): True,
        ("--no-masked",): False,
        ("--masked", "--no-masked"): False,
        ("--no-masked", "--masked"): True,
        ("--preset", "masked", "--no-masked"): False,
        ("--config", "false"): False,
        ("--preset", "masked", "--config", "false"): False,
        ("--config", "false", "--masked"): True,
        ("--preset", "masked", "--config", "null"): None,
        ("--preset", "unmasked", "--config", "not-no"): None,
    }
    for words, expected in given.items():
        parsed = parse("--width", "1", *words, presets=presets)
        assert parsed.get(PaintConfig).masked is expected
        saved = tmp_path / "saved.yaml"
        saved.write_text(resolved_yaml(parsed))
        assert parse("--config", str(saved)).get(PaintConfig).masked is expected
    assert "--no-masked: it takes no value" in usage_error("--width", "1", "--no-masked", "1")


def test_a_flag_that_two_configurations_have_goes_to_both():
    parsed = parse("--width", "3", "--rollout-seed", "7")
    assert (parsed.get(PaintConfig).rollout_seed, parsed.get(FrameConfig).rollout_seed) == (7, 7)


def test_flags_are_split_between_their_three_owners():
    parsed = parse(
        *("--lr", "1e-6", "--width", "3", "--sglang-mem-fraction-static", "0.7", "--bf16", "--save-interval", "5"),
        *("--recompute-modules", "core_attn", "mlp"),
    )
    assert parsed.megatron_argv == ("--lr", "1e-6", "--bf16", "--recompute-modules", "core_attn", "mlp")
    assert parsed.sglang_argv == ("--sglang-mem-fraction-static", "0.7")
    assert parsed.get(FrameConfig).save_interval == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--widht 3", "--widht: there is no such flag; the nearest is --width"),
        ("--tensor_model_parallel_size 2", "there is no such flag; the nearest is --tensor-model-parallel-size"),
        ("--sglang-mem-fracton-static 1", "there is no such flag; the nearest is --sglang-mem-fraction-static"),
        ("--mem-fraction-static 1", "SGLang's flags take a prefix: --sglang-mem-fraction-static"),
        ("--zzzzzz 1", "there is no such flag; see --help"),
        ("--data-path x", "--data-path: this Megatron flag is not taken: rl-data reads the data"),
        ("--sglang-port 1", "--sglang-port: this SGLang flag is not taken: engines are called directly"),
        ("--use-wandb", "--use-wandb: this flag of slime is not taken: the run's folder holds metrics.jsonl"),
        ("--speed fast", "--speed fast: expected a number"),
        ("--width 3.5", "--width 3.5: expected a whole number"),
        ("--colour green", "--colour green: expected one of red, blue"),
        ("--finish shiny", "--finish shiny: expected one of matt, gloss"),
        ("--extra [1]", "--extra [1]: expected a JSON object"),
        ("--extra {", "--extra {: expected a JSON object"),
        ("--wet yes", "--wet: it takes no value, got yes"),
        ("--speed 1 2", "--speed: expected one value, got 1 2"),
        ("--speed", "--speed: expected one value, got none"),
        ("--tags", "--tags: expected at least one value, got none"),
        ("--wet", "--width is missing: millimetres"),
        ("--width 0", "--width: expected at least 1, got 0"),
        ("--use-dynamic-batch-size 3", "--use-dynamic-batch-size: it takes no value, got 3"),
        ("--preset", "--preset: expected one value, got none"),
        ("width 3", "expected a flag such as --config FILE, got 'width'"),
        ("--config /nowhere.yaml", "/nowhere.yaml: No such file or directory"),
    ],
)
def test_a_mistake_is_an_error_that_names_the_flag(words, message):
    assert message in usage_error(*words.split())


def test_all_mistakes_are_reported_together():
    assert usage_error("--speed", "x", "--colour", "y").count("\n") == 2  # and --width is missing
    assert usage_error("--nonsense", "1", "--data-path", "x").count("\n") == 1


def test_a_flag_that_asks_for_what_always_is_changes_nothing():
    assert parse("--width", "1", "--use-dynamic-batch-size").own == parse("--width", "1").own


@pytest.fixture
def presets(tmp_path) -> Path:
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "wall.yaml").write_text("width: 1\nspeed: 5\nwet: true\nbf16: true\nlr: 1e-3\n")
    return folder


def test_the_command_line_wins_over_the_file_and_the_file_over_the_preset(presets, tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("speed: 6\nwidth: 2\nwet: false\n")
    parsed = parse("--width", "3", "--config", str(config), "--preset", "wall", presets=presets)
    paint = parsed.get(PaintConfig)
    assert (paint.width, paint.speed, paint.wet) == (3, 6.0, False)
    assert parsed.megatron_argv == ("--bf16", "--lr", "1e-3")


def test_an_unknown_preset_is_an_error_with_the_nearest_name(presets):
    assert usage_error("--preset", "wal", presets=presets) == "--preset wal: there is no such preset; the nearest: wall"


def test_what_a_file_takes_back_need_not_be_a_flag_that_is_taken(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("width: 1\nuse-wandb: false\nnum-workers: null\nbf16: false\n")
    assert parse("--config", str(config)).megatron_argv == ()


def test_values_of_a_file_stay_the_words_that_were_written(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text('width: 007\ntags: [no, "true", 1e-6]\nextra: {deep: {x: true}}\nspeed: null\nlayers: []\n')
    paint = parse("--config", str(config)).get(PaintConfig)
    assert (paint.width, paint.tags, paint.extra) == (7, ("no", "true", "1e-6"), {"deep": {"x": True}})
    assert (paint.speed, paint.layers) == (1.0, ())


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("width: 1\nspeed: [1\n", 3, "not valid YAML"),
        ("width: 1\nwidth: 2\n", 2, "width stands a second time, first at "),
        ("- width\n", 1, "expected lines of the form `flag: value`"),
        ("width: 1\n--speed: 2\n", 2, "expected the name of a flag, without dashes"),
        ("width: 1\n\nsped: 2\n", 3, "--sped: there is no such flag; the nearest is --speed"),
        ("width: 1\nsped: false\n", 2, "--sped: there is no such flag; the nearest is --speed"),
        ("width: 1\nsped: null\n", 2, "--sped: there is no such flag; the nearest is --speed"),
        ("width: 1\nspeed: fast\n", 2, "--speed fast: expected a number"),
        ("# comment\nwidth: 0\n", 2, "--width: expected at least 1, got 0"),
        ("width: 1\ntags: [[a]]\n", 2, "tags: expected a list of plain values"),
        ("width: 1\nnum-workers: 2\n", 2, "--num-workers: this Megatron flag is not taken"),
    ],
)
def test_a_mistake_in_a_file_is_an_error_with_file_and_line(text, line, message, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(text)
    error = usage_error("--config", str(config))
    assert error.startswith(f"{config}:{line}: ")
    assert message in error


def test_the_saved_configuration_gives_the_same_run_again(tmp_path):
    parsed = parse(
        *("--width", "3", "--tags", "a\n\nb", "-c", "true", "--extra", '{"x": "y: z"}', "--disable-drying"),
        *("--fresh", "--finish", "matt", "--speed", "1e-30", "--folder", "x y", "--bf16", "--lr", "1e-6"),
        *("--recompute-modules", "core_attn", "mlp", "--sglang-cuda-graph-bs", "1", "2"),
    )
    text = resolved_yaml(parsed)
    saved = tmp_path / "config.yaml"
    saved.write_text(text)
    again = parse("--config", str(saved), "--fresh")
    assert again.own == parsed.own
    assert (again.megatron_argv, again.sglang_argv) == (parsed.megatron_argv, parsed.sglang_argv)
    assert resolved_yaml(again) == text
    assert "fresh" not in text
    assert text.count("rollout-seed") == 1


@pytest.mark.parametrize(
    "name", ["\U0001f600/\u00fc \u4e2d", "a\u2028b\x85c\x7fd\ufeff", "no-utf8-\udcff", "\\ud83d\\ude00", "#: \"'{[%@"]
)
def test_any_path_survives_in_the_saved_configuration(name, tmp_path):
    parsed = parse("--width", "3", "--folder", name, "--tags", name, "x", "--extra", json.dumps({"key": name}))
    saved = tmp_path / "config.yaml"
    saved.write_text(resolved_yaml(parsed), encoding="utf-8")
    assert parse("--config", str(saved)).own == parsed.own


def test_help_lists_our_flags_by_component_and_says_how_to_see_the_others(capsys):
    with pytest.raises(SystemExit) as end:
        parse("--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "How things are painted\n  --width VALUE" in text
    assert "one of red, blue (default: red)" in text
    assert text.count("--rollout-seed") == 1
    assert "--help-megatron" in text
    assert "--help-sglang" in text


@pytest.mark.parametrize(
    ("topic", "names"),
    [
        ("--help-megatron", flags_honoured.HONOURED | flags_refused.REFUSED.keys()),
        ("--help-sglang", {f"--sglang-{name[2:]}" for name in sglang_flags.HONOURED | sglang_flags.REFUSED.keys()}),
    ],
)
def test_help_on_another_kind_names_every_flag_of_it(topic, names, capsys):
    with pytest.raises(SystemExit):
        parse(topic)
    assert names <= set(re.findall(r"--[\w-]+", capsys.readouterr().out))


def test_usage_errors_end_the_program_with_code_2_and_one_message(capsys):
    for error in (UsageError("no"), TrainConfigError("no")):
        with pytest.raises(SystemExit) as end, exit_on_usage_error("paint"):
            raise error
        assert end.value.code == 2
        assert capsys.readouterr().err == "paint: no\n"


def test_other_errors_pass_through():
    with pytest.raises(ValueError, match="ours"), exit_on_usage_error("paint"):
        raise ValueError("ours")


def test_a_mistyped_flag_is_reported_without_importing_torch_megatron_or_sglang():
    program = (
        "import sys\n"
        "from recipes.arguments import exit_on_usage_error, parse_arguments\n"
        "try:\n"
        "    with exit_on_usage_error('x'): parse_arguments(['--lrr', '1'], (), program='x')\n"
        "finally: print([name for name in ('torch', 'megatron', 'sglang', 'ray') if name in sys.modules])\n"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    assert (done.returncode, done.stdout) == (2, "[]\n")
    assert "the nearest is --lr" in done.stderr
    assert seconds < 5  # 0.5 s on an idle core; the list above is what keeps it so


@pytest.fixture
def model(tmp_path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(MODEL))
    return folder


@pytest.mark.slow
def test_megatron_and_sglang_read_their_flags_in_processes_of_their_own(model, parsers):
    parsed = parse("--width", "1", "--bf16", "--sglang-mem-fraction-static", "0.5")
    imported = {"megatron", "sglang"} & sys.modules.keys()
    foreign = parsers.read(parsed, hf_checkpoint=model, world_size=2, train_iters=7)
    assert foreign.megatron.values["data_parallel_size"] == 2
    assert foreign.megatron.values["train_iters"] == 7
    assert foreign.megatron.explicit == {"--bf16"}
    assert foreign.sglang.server_kwargs() == {"mem_fraction_static": 0.5}
    assert {"megatron", "sglang"} & sys.modules.keys() == imported


@pytest.mark.slow
def test_what_either_refuses_is_one_error_with_the_place_where_it_was_given(model, parsers, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("width: 1\nnum-layers: 3\n")
    parsed = parse("--config", str(config), "--sglang-mem-fraction-static", "half")
    with pytest.raises(UsageError) as error:
        parsers.read(parsed, hf_checkpoint=model, world_size=2)
    assert str(error.value) == (
        f"{config}:2: --num-layers 3: config.json of {model} says num_hidden_layers 2\n"
        "--sglang-mem-fraction-static: invalid float value: 'half'"
    )


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_model_folder_without_a_whole_config_json_is_an_error(content, tmp_path):
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UsageError, match=r"config\.json"):
        read_model_config(tmp_path)


def test_the_tables_of_three_kinds_do_not_overlap():
    megatron = flags_honoured.HONOURED | flags_refused.REFUSED.keys()
    assert not megatron & ALWAYS.keys()
    assert megatron & ALWAYS_IN_SFT.keys() == {"--calculate-per-token-loss"}
    assert not megatron & REFUSED_OF_SLIME.keys()
    assert not ALWAYS.keys() & REFUSED_OF_SLIME.keys()
    assert OWNED_HERE.keys() <= megatron
