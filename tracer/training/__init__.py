"""Training with a mask: only the experts that it names learn, everything else stays as it is to the bit."""
