from pathlib import Path

from rl_train.testing import FakeTrainer, check_trainer


def test_the_fake_trainer_keeps_the_promises_of_a_trainer(tmp_path: Path) -> None:
    for num_ranks in (1, 2):
        trainer = FakeTrainer(vocab_size=16, num_data_parallel_ranks=num_ranks)
        check_trainer(trainer, vocab_size=16, folder=tmp_path / str(num_ranks))
