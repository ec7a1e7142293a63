"""SGLang's server flags. Tests that import SGLang are slow."""

import importlib
import json
import pickle

import pytest

from rl_rollout import RolloutConfigError
from rl_rollout.sglang.arguments import SGLangArguments, parse_sglang_args
from rl_rollout.sglang.flags import HONOURED, REFUSED
from rl_rollout.sglang.light_imports import collecting_later, light_imports_on_cpu, quick_distributions


@pytest.fixture(scope="module")
def light_sglang():
    """SGLang for its flags alone, which takes half of the time."""
    with collecting_later(), quick_distributions(), light_imports_on_cpu():
        importlib.import_module("sglang.srt.server_args")


def test_the_tables_do_not_overlap():
    assert not HONOURED & REFUSED.keys()
    assert all(reason.strip() for reason in REFUSED.values())


@pytest.mark.slow
@pytest.mark.usefixtures("light_sglang")
def test_every_flag_of_sglangs_parser_is_either_honoured_or_refused_with_a_reason():
    import argparse
    import dataclasses

    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser(allow_abbrev=False)
    ServerArgs.add_cli_args(parser)
    destinations = {option: action.dest for action in parser._actions for option in action.option_strings}
    flags = {option for option in destinations if option.startswith("--")}
    assert flags - HONOURED - REFUSED.keys() == set()
    assert (HONOURED | REFUSED.keys()) - flags == set()
    fields = {field.name for field in dataclasses.fields(ServerArgs)}
    assert {destinations[flag] for flag in HONOURED} - fields == set()


@pytest.mark.slow
@pytest.mark.usefixtures("light_sglang")
def test_flags_become_keyword_arguments_of_the_server_whatever_their_spelling():
    words = [
        *("--sglang-mem-fraction-static", "0.7"),
        *("--sglang-cuda-graph-bs", "1", "2", "4"),
        "--sglang-disable-radix-cache",
        "--sglang-attention-backend=triton",
        *("--sglang-log-level", "info"),
    ]
    arguments = parse_sglang_args(words)
    assert arguments.server_kwargs() == {
        "attention_backend": "triton",
        "cuda_graph_bs_decode": [1, 2, 4],
        "disable_radix_cache": True,
        "log_level": "info",  # SGLang's default, but it was given
        "mem_fraction_static": 0.7,
    }
    assert json.loads(json.dumps(arguments.server_kwargs())) == arguments.server_kwargs()
    assert pickle.loads(pickle.dumps(arguments)) == arguments  # noqa: S301  our own bytes


@pytest.mark.slow
@pytest.mark.usefixtures("light_sglang")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--sglang-mem-fraction-static much", "--sglang-mem-fraction-static: invalid float value: 'much'"),
        ("--sglang-dtype int3", "--sglang-dtype: invalid choice: 'int3'"),
        ("--sglang-dtype", "--sglang-dtype: expected one argument"),
        ("--sglang-disable-radix-cache yes", "--sglang-disable-radix-cache: unexpected value 'yes'"),
        (
            "--sglang-page-size 1 --sglang-disable-radix-cache 1",
            "--sglang-disable-radix-cache: unexpected value '1'",
        ),
        ("2 --sglang-page-size 2", "SGLang: unexpected value '2'"),
    ],
)
def test_a_bad_value_is_an_error_under_the_flags_own_name(words, message):
    with pytest.raises(RolloutConfigError) as error:
        parse_sglang_args(words.split())
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--sglang-tp-size 2", "--sglang-tp-size: this SGLang flag is not taken: use --rollout-num-gpus-per-engine"),
        ("--sglang-random-seed 1", "--sglang-random-seed: this SGLang flag is not taken: use --rollout-seed"),
        ("--sglang-mem-fraction 0.7", "--sglang-mem-fraction: SGLang has no such server flag"),
        ("--mem-fraction-static 0.7", "--mem-fraction-static: SGLang has no such server flag"),
    ],
)
def test_refused_and_unknown_flags_are_errors_without_importing_sglang(words, message):
    with pytest.raises(RolloutConfigError) as error:
        parse_sglang_args(words.split())
    assert str(error.value).startswith(message)


def test_no_flags_give_no_arguments():
    assert parse_sglang_args([]) == SGLangArguments(explicit={})
