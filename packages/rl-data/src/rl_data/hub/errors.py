"""What goes wrong between here and the hub, as one message each."""

from collections.abc import Generator
from contextlib import contextmanager

from rl_data.errors import DataError


@contextmanager
def hub_errors(what: str) -> Generator[None]:
    """Turns errors of huggingface_hub and of the network into a DataError about `what`."""
    import httpx
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError as error:
        raise DataError(f"{what}: given out on request only: ask for it on its page, then set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise DataError(f"{what}: the hub has no such repository, or it is private and needs HF_TOKEN") from error
    except RevisionNotFoundError as error:
        raise DataError(f"{what}: it has no such revision") from error
    except (OSError, httpx.HTTPError, HFValidationError) as error:  # those of an HTTP status are OSErrors
        first_line = (str(error).strip().splitlines() or ["no message"])[0]
        raise DataError(f"{what}: {type(error).__name__}: {first_line}") from error
