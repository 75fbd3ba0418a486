"""Training: the state, the step, the loop, and what they are made of."""
