"""A library refuses its fields by name; the user reads the flags that fill them."""

from dataclasses import dataclass, field

import pytest

from recipes.arguments import UsageError, parse_arguments
from rl_train import TrainConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class KilnConfig:
    """How things are fired."""

    heat: float = field(default=1.0, metadata={"help": "kelvin"})
    heat_ramp: float = field(default=1.0, metadata={"help": "kelvin a second"})
    venting: bool = field(default=True, metadata={"help": "do not vent", "flag": "--disable-venting"})
    sealed: bool | None = field(default=None, metadata={"help": "close the lid"})
    message: str = field(default="", metadata={"help": "what to refuse it with"})

    def __post_init__(self) -> None:
        if self.message:
            raise TrainConfigError(self.message)


@pytest.mark.parametrize(
    ("message", "read"),
    [
        ("heat_ramp 2.0: expected at most heat 1.0", "--heat-ramp 2.0: expected at most --heat 1.0"),
        ("venting False has no effect under heat 0.0", "--disable-venting has no effect under --heat 0.0"),
        ("sealed True contradicts venting", "--sealed contradicts --disable-venting"),
        ("sealed False: not at heat 1.0", "--no-sealed: not at --heat 1.0"),
        ("preheat, heat-proof and heat_ramp_up: no fields", "preheat, heat-proof and heat_ramp_up: no fields"),
    ],
)
def test_fields_in_a_librarys_message_are_read_as_flags(message, read):
    with pytest.raises(UsageError) as error:
        parse_arguments(["--message", message], [KilnConfig], program="kiln")
    assert str(error.value) == read
