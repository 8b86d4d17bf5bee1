"""Fine-tuning methods: the interface, the registry, and one module per method.

To write your own method, use these names; see docs/how-to/add-a-method.md.
"""

from randout.models.outputs import Output, Want

from .base import Backward, Batch, Context, Forward, Method, Pass, State, Step

__all__ = ["Backward", "Batch", "Context", "Forward", "Method", "Output", "Pass", "State", "Step", "Want"]
