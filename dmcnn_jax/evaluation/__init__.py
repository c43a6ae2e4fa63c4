"""The gray and the colour protocol, comparisons, the papers' figures, complexity, banding."""
