"""Tables of several runs on one budget."""
