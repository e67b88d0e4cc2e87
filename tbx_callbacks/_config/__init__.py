"""Metric sets: YAML files turned into validated objects."""
