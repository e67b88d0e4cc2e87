"""Parses metric sets and rules from YAML into validated objects."""
