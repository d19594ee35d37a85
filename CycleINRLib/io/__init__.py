"""Floor 2: volumes from and to files, DICOM and MRML nodes; one library a file."""
