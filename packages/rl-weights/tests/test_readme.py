import re
from pathlib import Path


def test_the_examples_work_when_pasted(capsys):
    text = Path(__file__).parents[1].joinpath("README.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert examples
    for example in examples:
        exec(example, {})  # noqa: S102 - our own README
    assert "PublishReport(version=1, transport='auto', num_tensors=1, num_bytes=24" in capsys.readouterr().out


def test_every_public_name_is_in_the_readme():
    import rl_weights
    import rl_weights.rules

    text = Path(__file__).parents[1].joinpath("README.md").read_text()
    assert [name for name in (*rl_weights.__all__, *rl_weights.rules.__all__) if f"`{name}`" not in text] == []
