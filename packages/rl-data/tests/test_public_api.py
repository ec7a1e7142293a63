import subprocess
import sys

import rl_data

PUBLIC = [
    *("ConversationDataConfig", "ConversationRenderer", "ConversationSource", "DataError", "DropIf"),
    *("FilterResult", "FinishReason", "Grade", "GradeOutcome", "GraderConfig", "GraderPool"),
    *("GroupFilter", "LossReduction", "Microbatch", "NoFailures", "PolicyVersion", "Prompt"),
    *("PromptDataConfig", "PromptSource", "RLDataError", "RenderedConversation", "ResponseLengths"),
    *("RewardSpread", "RowFate", "RowNote", "Sample", "SampleBuffer", "SampleGroup", "SchemaVersionError"),
    *("Tokenizer", "TrainBatch", "VersionSpan", "apply_filters", "load_tokenizer", "pack", "with_logprobs"),
]


def test_the_public_names_are_exactly_these():
    assert rl_data.__all__ == PUBLIC
    assert all(hasattr(rl_data, name) for name in PUBLIC)


def test_importing_the_package_and_its_modules_loads_neither_torch_nor_transformers():
    program = """
import sys, rl_data, rl_data.wire, rl_data.testing, rl_data.cli, rl_data.grading.workers.__main__
heavy = {"torch", "transformers", "pyarrow", "sympy", "math_verify", "jinja2"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_every_error_survives_pickling():
    import pickle

    for kind in (rl_data.RLDataError, rl_data.DataError, rl_data.SchemaVersionError):
        error = pickle.loads(pickle.dumps(kind("FILE:3: wrong")))  # noqa: S301 - our own bytes
        assert type(error) is kind
        assert str(error) == "FILE:3: wrong"
