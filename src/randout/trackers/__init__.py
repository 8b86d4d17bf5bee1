"""Reports runs and studies to experiment trackers, through the reporting callbacks of transformers."""
