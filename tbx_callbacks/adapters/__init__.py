"""Adapters: the only modules that know a trainer."""
