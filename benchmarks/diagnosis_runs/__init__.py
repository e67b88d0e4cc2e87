"""Trains faulty and healthy runs of many kinds, and scores the doctor and the live rules on them."""
