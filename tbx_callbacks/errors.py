"""Errors that users see."""


class ConfigError(ValueError):
    """A metric set that cannot be used; the message says where, the rule, the value and the remedy."""
