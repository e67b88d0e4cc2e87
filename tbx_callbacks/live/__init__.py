"""Rules that are asked while the run trains, and what is done about what they find."""
