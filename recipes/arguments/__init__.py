"""Command lines of the recipes: our flags, Megatron's and SGLang's, presets and configuration files."""

from recipes.arguments.foreign import ForeignArguments, ForeignParsers, read_model_config
from recipes.arguments.parse import ParsedArguments, parse_arguments
from recipes.arguments.resolved import resolved_yaml
from recipes.arguments.usage import exit_on_usage_error
from recipes.errors import UsageError

__all__ = [
    "ForeignArguments",
    "ForeignParsers",
    "ParsedArguments",
    "UsageError",
    "exit_on_usage_error",
    "parse_arguments",
    "read_model_config",
    "resolved_yaml",
]
