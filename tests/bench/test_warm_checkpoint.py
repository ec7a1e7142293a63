import json
import subprocess
import sys

import pytest

from bench.model_configs import MODEL_CONFIGS
from bench.random_checkpoint import make_checkpoint
from recipes.toy import make_conversations
from rl_weights import HFCheckpoint, diff_checkpoints


@pytest.mark.bench
@pytest.mark.slow
def test_random_weights_learn_which_tokens_the_conversations_have(tmp_path):
    make_checkpoint(tmp_path / "random", MODEL_CONFIGS["tiny"], dtype="float32")
    make_conversations(tmp_path / "conversations.jsonl", 500, seed=0)
    command = [sys.executable, "-m", "bench.warm_checkpoint", "--model", str(tmp_path / "random")]
    command += ["--prompt-data", str(tmp_path / "conversations.jsonl"), "--out", str(tmp_path / "warm")]
    done = subprocess.run(
        [*command, "--num-steps", "20", "--max-tokens", "1024", "--lr", "2e-3"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    details = json.loads(done.stdout)["details"]
    # ln 768 = 6.6 nats where every token is equally likely; the conversations have a few dozen.
    assert details["first_loss"] > 6
    assert details["last_loss"] < 4.5
    warm, random = HFCheckpoint(tmp_path / "warm"), HFCheckpoint(tmp_path / "random")
    assert {name: shape for name, (_, _, shape) in warm.specs.items()} == {
        name: shape for name, (_, _, shape) in random.specs.items()
    }
    assert not diff_checkpoints(tmp_path / "warm", tmp_path / "random").is_equal
    assert (tmp_path / "warm" / "tokenizer.json").exists()


@pytest.mark.bench
def test_a_folder_that_is_there_is_not_written_to(tmp_path):
    command = [sys.executable, "-m", "bench.warm_checkpoint", "--model", str(tmp_path), "--prompt-data", "none.jsonl"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "there is something already" in done.stderr
