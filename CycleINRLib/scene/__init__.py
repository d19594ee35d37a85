"""Floor 2: nodes of a MRML scene; slicer and vtk, on the main thread alone."""
