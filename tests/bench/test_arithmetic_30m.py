import json

from bench.arithmetic_30m import copy_some_samples


def test_some_samples_of_the_first_and_of_every_fifth_step_are_kept(tmp_path):
    rows = [{"index": index, "metadata": {"step": step}} for step in range(1, 12) for index in range(20)]
    (tmp_path / "all.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    copy_some_samples(tmp_path / "all.jsonl", tmp_path / "some.jsonl")
    kept = [json.loads(line) for line in (tmp_path / "some.jsonl").read_text().splitlines()]
    assert [(row["metadata"]["step"], row["index"]) for row in kept] == [
        (step, index) for step in (1, 5, 10) for index in range(16)
    ]
