"""Where the reference policy comes from."""

from dataclasses import dataclass, field
from pathlib import Path

from recipes.config.checks import require_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceConfig:
    """The reference policy, which is loaded only if the algorithm needs it.

    Raises:
        UsageError: if the folder is not there.
    """

    ref_load: Path | None = field(
        default=None,
        metadata={
            "help": "folder of the reference policy, a Hugging Face model or torch_dist checkpoints; default: the "
            "first weights"
        },
    )

    def __post_init__(self) -> None:
        require_folder("--ref-load", self.ref_load)
