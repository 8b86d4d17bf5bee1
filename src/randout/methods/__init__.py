"""Fine-tuning methods: the interface, the registry, and one module per method.

To write your own method, use these names; see docs/how-to/add-a-method.md.
"""

from randout.models.outputs import Output, Want

from .base import Backward, Batch, Forward, Method, Run, State

__all__ = ["Backward", "Batch", "Forward", "Method", "Output", "Run", "State", "Want"]
