"""What another order of training, or training without a batch, would have done: recorded runs."""
