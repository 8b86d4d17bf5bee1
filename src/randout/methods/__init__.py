"""Fine-tuning methods: the interface, the registry, and one module per method."""
