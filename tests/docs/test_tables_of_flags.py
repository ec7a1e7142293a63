"""The pages' tables of flags are what the code has."""

import re
from pathlib import Path

import pytest

from recipes.arguments.dataclass_flags import flags_of
from recipes.arguments.flags_slime import (
    ALWAYS_IN_GRPO,
    ALWAYS_IN_SFT,
    MEGATRONS_IN_SLIME,
    OTHER_CONTRACTS_OF_SLIME,
    OTHER_DEFAULTS_OF_SLIME,
    REFUSED_OF_SLIME,
    SAME_IN_SLIME,
)
from recipes.arguments.pages import FOLDER, new_pages
from recipes.own_configs import GRPO, SFT
from rl_rollout.sglang import flags as sglang_flags
from rl_train.megatron import flags_honoured, flags_refused

OWN = {flag.name for config in (*GRPO, *SFT) for flag in flags_of(config)}
SLIME = {*SAME_IN_SLIME, *OTHER_CONTRACTS_OF_SLIME, *ALWAYS_IN_GRPO, *ALWAYS_IN_SFT, *REFUSED_OF_SLIME}
KINDS = {
    "own-flags.md": OWN,
    "megatron-flags.md": flags_honoured.HONOURED | flags_refused.REFUSED.keys(),
    "sglang-flags.md": {f"--sglang-{name[2:]}" for name in sglang_flags.HONOURED | sglang_flags.REFUSED.keys()},
    "from-slime.md": SLIME,
}


@pytest.mark.parametrize(("page", "text"), new_pages().items(), ids=lambda part: getattr(part, "name", ""))
def test_the_tables_of_a_page_are_those_of_the_code(page, text):
    assert page.read_text() == text, "run python -m recipes.arguments.pages"


@pytest.mark.parametrize("page", KINDS)
def test_a_page_names_every_flag_of_its_kind(page):
    assert KINDS[page] - set(re.findall(r"`(--[\w-]+)`", (FOLDER / page).read_text())) == set()


def test_the_page_for_users_of_slime_has_every_flag_that_slime_defines():
    expected = Path(__file__).with_name("flags_of_slime.txt").read_text().split()
    found = set(re.findall(r"`(--[\w-]+)`", (FOLDER / "from-slime.md").read_text()))
    assert len(expected) == 228
    assert set(expected) - found == set()


def test_flags_of_megatron_in_slime_are_flags_of_megatron():
    assert set(MEGATRONS_IN_SLIME) <= flags_honoured.HONOURED | flags_refused.REFUSED.keys()
    assert not set(MEGATRONS_IN_SLIME) & {*OWN, *SLIME}


def test_what_is_said_of_slimes_flags_is_of_flags_that_are_there():
    assert {*SAME_IN_SLIME, *OTHER_CONTRACTS_OF_SLIME} <= OWN
    assert not set(SAME_IN_SLIME) & OTHER_CONTRACTS_OF_SLIME.keys()
    assert OTHER_DEFAULTS_OF_SLIME.keys() <= set(SAME_IN_SLIME)
    # Of these the supervised recipe says what it does instead.
    in_sft = {flag.name for config in SFT for flag in flags_of(config)}
    assert not REFUSED_OF_SLIME.keys() & in_sft
