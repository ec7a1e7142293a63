"""What a run starts from, how long it goes on, and where it leaves its results."""

from dataclasses import dataclass, field
from pathlib import Path

from recipes.config.checks import require_at_least, require_folder
from recipes.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """The run: model, length, checkpoints.

    Raises:
        UsageError: if a value makes no sense or a path that is read is not there.
    """

    run_dir: Path = field(
        metadata={"help": "folder of the run: configuration, metrics, samples, checkpoints, final model"}
    )
    resume: bool = field(
        default=False,
        metadata={"help": "go on with the run in --run-dir from its last checkpoint", "saved": False},
    )
    check: bool = field(
        default=False,
        metadata={
            "help": "check what can be checked before processes start, print what the run would start with, and end: "
            "nothing is written, and neither GPUs nor memory are looked at",
            "saved": False,
        },
    )
    hf_checkpoint: Path = field(metadata={"help": "model folder in Hugging Face format"})
    load: Path | None = field(
        default=None,
        metadata={
            "help": "folder to take the first weights from, torch_dist checkpoints or a Hugging Face model; default: "
            "--hf-checkpoint. The folder of --save, which is still empty, stands for --ref-load's"
        },
    )
    ref_load: Path | None = field(
        default=None,
        metadata={
            "help": "folder of the reference policy, a Hugging Face model or torch_dist checkpoints; default: the "
            "first weights. With --load and --save of the same folder, also the first weights"
        },
    )
    save: Path | None = field(default=None, metadata={"help": "folder of checkpoints; default: RUN_DIR/checkpoints"})
    save_interval: int | None = field(
        default=None, metadata={"help": "rollouts between two checkpoints; default: one at the end"}
    )
    num_rollout: int | None = field(default=None, metadata={"help": "steps of the run"})
    num_epoch: int | None = field(
        default=None,
        metadata={
            "help": "how often the data set is read, but for bad rows; what is left out as too long is made up for by "
            "reading on. With --num-rollout, what ends first"
        },
    )

    def __post_init__(self) -> None:
        require_at_least(self, 1, "save_interval", "num_rollout", "num_epoch")
        if self.num_rollout is None and self.num_epoch is None:
            raise UsageError("--num-rollout is missing; or give --num-epoch")
        require_folder("--hf-checkpoint", self.hf_checkpoint)
        if not self.loads_what_it_saved:
            require_folder("--load", self.load)
        require_folder("--ref-load", self.ref_load)
        if not (self.hf_checkpoint / "config.json").is_file():
            raise UsageError(f"--hf-checkpoint {self.hf_checkpoint}: expected a config.json in it, there is none")

    @property
    def loads_what_it_saved(self) -> bool:
        """Whether --load names the run's own checkpoints, as slime's lists do. A run that goes on says --resume."""
        return self.load is not None and self.load == self.save

    @property
    def first_weights(self) -> Path:
        """Folder that a new run takes the policy's weights from."""
        chosen = self.ref_load if self.loads_what_it_saved else self.load
        return self.hf_checkpoint if chosen is None else chosen

    @property
    def checkpoints(self) -> Path:
        """Folder that checkpoints are written to and resumed from."""
        return self.run_dir / "checkpoints" if self.save is None else self.save

    def num_steps(self, *, num_rows: int, rows_per_step: int) -> int:
        """Steps of the run over a data set with `num_rows` good rows, of which a step reads `rows_per_step`.

        Raises:
            UsageError: if --num-epoch gives no whole step.
        """
        if self.num_epoch is None:
            assert self.num_rollout is not None
            return self.num_rollout
        steps = num_rows * self.num_epoch // rows_per_step
        if steps == 0:
            raise UsageError(
                f"--num-epoch {self.num_epoch}: {num_rows} rows give no step of {rows_per_step}; give --num-rollout"
            )
        return steps if self.num_rollout is None else min(steps, self.num_rollout)

    def left_over_note(self, *, num_rows: int, rows_per_step: int) -> str | None:
        """What a user should know whose --num-epoch leaves rows that are too few for another step; None otherwise."""
        if self.num_epoch is None:
            return None
        total = num_rows * self.num_epoch
        steps, rest = divmod(total, rows_per_step)
        if rest == 0 or (self.num_rollout is not None and self.num_rollout <= steps):
            return None
        rows = f"the last {rest} of {total} rows are" if rest > 1 else f"the last of {total} rows is"
        return f"--num-epoch {self.num_epoch}: {rows} too few for another step of {rows_per_step}"

    def is_save_due(self, step: int, *, num_steps: int) -> bool:
        """Whether a checkpoint follows `step`, counted from 1; one always follows the last."""
        return step == num_steps or (self.save_interval is not None and step % self.save_interval == 0)
