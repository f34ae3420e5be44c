"""What a contribution builds upon: the model's base class, image loaders, converters and the processor."""
