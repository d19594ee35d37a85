"""Floor 3, above upsampling and training: a model adapted to thick scans that have no truth."""
