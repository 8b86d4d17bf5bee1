"""A process that loads one form of a model and measures it: `python -m randout.experiments.shrink.timed_process`.

Reads a JSON object from standard input (folder, form, threads, texts, seconds) and prints one: singles, the seconds of each
text alone; throughput, in texts per second; base, peak and process, in bytes. ONNX graphs and arrays are run by
`exports.runtime`, without PyTorch.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

Logits = Callable[[Sequence[Any]], np.ndarray]
WARM_UP, LEAST = 5, 10  # texts before the clock starts; texts that are timed in any case
BATCH = 2048  # tokens of a batch of the torch form, padding included


def main() -> None:
    """Measure the form that standard input names, and print the result."""
    print(json.dumps(measured(**json.load(sys.stdin))))


def measured(folder: str, form: str, threads: int, texts: list[Any], seconds: float) -> dict[str, Any]:
    """Load a form and measure it. texts: strings, or two for each pair. seconds: after which none is timed alone."""
    load = _torch(folder, threads) if form == "torch" else _exported(folder, form, threads)  # imports the libraries
    base = forget_peak()
    logits = load()
    for text in texts[:WARM_UP]:
        logits([text])
    singles: list[float] = []
    began = time.perf_counter()
    for text in texts:
        if len(singles) >= LEAST and time.perf_counter() - began > seconds:
            break
        start = time.perf_counter()
        logits([text])
        singles.append(time.perf_counter() - start)
    start, done = time.perf_counter(), 0
    while not done or time.perf_counter() - start < seconds / 4:
        logits(texts)
        done += len(texts)
    throughput = done / (time.perf_counter() - start)
    peak = status("VmHWM")
    return {"singles": singles, "throughput": throughput, "base": base, "peak": peak}


def status(key: str) -> int | None:
    """Return a field of this process's memory in bytes (Linux), such as VmRSS; None if it is not known.

    `resource.getrusage` is not used: its maximum includes the process that started this one.
    """
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    return None


def forget_peak() -> int | None:
    """Reset the peak of this process's memory, and return the memory it has now."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return status("VmRSS")


def _exported(folder: str, form: str, threads: int) -> Callable[[], Logits]:
    from randout.exports import runtime

    if form != "arrays":
        import onnxruntime  # noqa: F401
        import tokenizers  # noqa: F401

    def load() -> Logits:
        model = runtime.Classifier(folder, form, threads)
        return lambda texts: model.logits([text if isinstance(text, str) else (text[0], text[1]) for text in texts])

    return load


def _torch(folder: str, threads: int) -> Callable[[], Logits]:
    """Import what a model folder needs; return a function that loads it as transformers runs it: padded, without fused code."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from randout.data.composed_text import ComposedText
    from randout.experiments.run.reload import truncation_of
    from randout.models import loading
    from randout.models.tokens import by_length, encode, truncate

    torch.set_num_threads(threads)
    source = loading.find(folder)
    with torch.device("meta"):  # imports the code of the family, without weights
        AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(source.encoder_folder))

    def load() -> Logits:
        encoder, truncation = loading.load(source, pack=False), truncation_of(source)
        encoder.model.eval()

        @torch.inference_mode()
        def logits(texts: Sequence[Any]) -> np.ndarray:
            inputs = [text if isinstance(text, str) else ComposedText(text) for text in texts]
            rows = encode(encoder.tokenizer, inputs)
            tokens = truncate(rows, encoder.longest, truncation, encoder.suffix, encoder.prefix)
            found = np.zeros((len(texts), encoder.model.config.num_labels), np.float32)
            for places in by_length(tokens.lengths, np.arange(len(texts)), BATCH):
                ids = [torch.from_numpy(tokens[place].astype(np.int64)) for place in places]
                found[places] = encoder.forward(ids).logits.numpy()
            return found

        return logits

    return load


if __name__ == "__main__":
    main()
