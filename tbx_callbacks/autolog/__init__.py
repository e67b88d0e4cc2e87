"""Logs trainings whose code does not mention this package: `tbx-callbacks run`, `init` and the trainers' plug-ins.

Imports nothing but the standard library until a trainer is created.
"""
