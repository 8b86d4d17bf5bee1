"""Trained classifiers as folders that run without PyTorch: ONNX graphs or arrays, tokenizer, and a script that predicts."""
