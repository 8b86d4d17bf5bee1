"""One run: from a request to a trained, scored and saved student."""
