"""What the paper analyses before it trains: which weights are task-sensitive, and of what rank their biases are."""
