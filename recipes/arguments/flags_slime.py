"""slime's own flags that are not flags here: what always is, and what is refused with the reason."""

ALWAYS: dict[str, str] = {
    "--use-dynamic-batch-size": "micro-batches are always packed up to --max-tokens-per-gpu",
    "--balance-data": "tokens are always balanced over the data-parallel ranks",
}
"""Flag without a value -> what it asks for, which is always so."""

REFUSED_OF_SLIME: dict[str, str] = {}
"""Flag -> why it is refused and what to do instead."""
