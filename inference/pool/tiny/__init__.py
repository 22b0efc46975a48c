"""The small SAM 3 checkpoint: its scenes, its training, its evaluation and its files."""
