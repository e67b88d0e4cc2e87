"""The callback for the Hugging Face Trainer."""
