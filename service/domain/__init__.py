"""Pure rules of messaging: no await, no I/O, no clock read."""
