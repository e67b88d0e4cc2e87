"""Training scripts as users have them, without a word about this package."""
