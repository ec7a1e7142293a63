"""The flags of the two recipes: presets, overlaps with Megatron, and reasons that name flags which exist."""

import re
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from recipes.arguments import UsageError, parse_arguments, resolved_yaml
from recipes.arguments.dataclass_flags import flags_of
from recipes.arguments.flags_slime import ALWAYS_IN_GRPO, ALWAYS_IN_SFT, REFUSED_OF_SLIME
from recipes.arguments.known import OWNED_HERE
from recipes.arguments.parse import PRESETS
from recipes.arguments.sources import from_file
from recipes.grpo.config import parse as parse_grpo
from recipes.own_configs import GRPO, SFT
from recipes.sft.config import read_job as read_sft_job
from rl_data.commands.flags import BOTH, OF_CONVERSATIONS, OF_PROMPTS
from rl_rollout.sglang import flags as sglang_flags
from rl_train.megatron import flags_honoured, flags_refused

OWN = {flag.name for config in (*GRPO, *SFT) for flag in flags_of(config)}
MEGATRON = flags_honoured.HONOURED | flags_refused.REFUSED.keys()


@pytest.mark.parametrize("recipe", ["grpo", "sft"])
def test_no_heavy_library_is_loaded_before_the_command_line_is_read(recipe):
    heavy = ("torch", "transformers", "megatron", "sglang", "ray")
    program = f"import sys, recipes.{recipe}.main; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def test_rl_data_is_told_what_training_makes_of_a_row_in_the_recipes_words():
    for recipe, fields in ((GRPO, {**BOTH, **OF_PROMPTS}), (SFT, {**BOTH, **OF_CONVERSATIONS})):
        names = {"--" + name.replace("_", "-") for name in ("input_key", "on_bad_row", "max_bad_row_share", *fields)}
        assert names <= {flag.name for config in recipe for flag in flags_of(config)}


def test_flags_that_megatron_has_too_are_owned_here_for_a_stated_reason():
    assert OWNED_HERE.keys() == OWN & MEGATRON


def test_settings_that_configurations_share_have_one_meaning():
    for configs in (GRPO, SFT):
        defaults: dict[str, set[str]] = {}
        for flag in chain.from_iterable(flags_of(config) for config in configs):
            defaults.setdefault(flag.name, set()).add(repr((flag.default, flag.reader)))
        assert {name for name, kinds in defaults.items() if len(kinds) > 1} == set()


def test_reasons_send_the_user_to_flags_that_exist():
    sglang = {f"--sglang-{name[2:]}" for name in sglang_flags.HONOURED}
    known = OWN | flags_honoured.HONOURED | sglang | {"--config", "--help-megatron", "--help-sglang", "--sglang-"}
    always = {one.reason for one in (*ALWAYS_IN_GRPO.values(), *ALWAYS_IN_SFT.values())}
    reasons = {*always, *REFUSED_OF_SLIME.values(), *flags_refused.REFUSED.values(), *sglang_flags.REFUSED.values()}
    named = {flag for reason in reasons for flag in re.findall(r"--[a-z][\w-]*", reason)}
    stems = {"--rollout-", "--eval-", "--sglang-cuda-graph-"}
    assert named - known - stems == set()


@pytest.mark.parametrize("flag", ["mem-fraction-static", "context-length", "port"])  # taken by grpo, and refused
def test_a_recipe_without_engines_refuses_the_flags_of_sglang(flag):
    with pytest.raises(UsageError) as error:
        read_sft_job([f"--sglang-{flag}", "1"])
    assert str(error.value) == f"--sglang-{flag}: this recipe starts no engine"


def test_flags_of_the_other_recipe_are_named_as_its_own_and_those_of_a_file_once(tmp_path):
    with pytest.raises(UsageError) as error:
        read_sft_job(["--rm-type", "math", "--eval-interval", "3", "--custom-rm-path", "x", "--preset", "tiny_math"])
    assert str(error.value).splitlines() == [
        f"{PRESETS}/tiny_math.yaml:13: --rollout-batch-size 16: expected --global-batch-size's 128: a step trains on "
        "the conversations that it reads",
        "--custom-rm-path: this flag of slime is not taken: supervised training has no rewards",
        f"{PRESETS}/tiny_math.yaml:6: --label-key and 7 more: flags of recipes.grpo; recipes.sft has no use for them",
        "--rm-type: a flag of recipes.grpo; recipes.sft has no use for it",
        "--eval-interval: a flag of recipes.grpo; recipes.sft has no use for it",
    ]
    only_sft = {flag.name for config in SFT for flag in flags_of(config)} - {
        flag.name for config in GRPO for flag in flags_of(config)
    }
    for flag in only_sft:
        with pytest.raises(UsageError, match=f"{flag}: a flag of recipes.sft; recipes.grpo has no use for it"):
            parse_grpo([flag, "1"])


def test_the_help_of_a_recipe_without_engines_names_no_flag_of_sglang(capsys):
    with pytest.raises(SystemExit):
        read_sft_job(["--help"])
    assert "sglang" not in capsys.readouterr().out.lower()
    with pytest.raises(UsageError, match="--help-sglang: this recipe starts no engine"):
        read_sft_job(["--help-sglang"])
    with pytest.raises(UsageError) as error:
        read_sft_job(["--mem-fraction-static", "1", "--qqqqqqqq", "1"])
    assert "sglang" not in str(error.value)


@pytest.mark.parametrize("preset", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_is_read_by_a_recipe_and_its_resolved_configuration_gives_the_same_again(preset, tmp_path):
    is_sft = "sft" in preset.stem or "openhermes" in preset.stem
    configs, always = (SFT, ALWAYS_IN_SFT) if is_sft else (GRPO, ALWAYS_IN_GRPO)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    words = ["--hf-checkpoint", str(model), "--prompt-data", "x.jsonl", "--run-dir", str(tmp_path / "run")]
    parsed = parse_arguments(["--preset", preset.stem, *words], configs, program="recipe", always=always)
    given = {given.flag for given in from_file(Path(preset))}
    assert given <= parsed.given.keys()
    saved = tmp_path / "config.yaml"
    saved.write_text(resolved_yaml(parsed))
    again = parse_arguments(["--config", str(saved)], configs, program="recipe")
    assert (again.own, again.megatron_argv) == (parsed.own, parsed.megatron_argv)
