"""Training-free removal of source bias: fit on a calibration split, tune, check on others, apply to an index."""
