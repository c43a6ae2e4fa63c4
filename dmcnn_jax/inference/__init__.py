"""Running a network over whole planes: weights files, tiles, and engines for the convolutions."""
