"""What nodes remember: the state that all events add up to, and the file that keeps them."""
