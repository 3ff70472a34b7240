"""What is chosen from data: ranges, batch norms, biases, scales that suit a format. Imports every other room."""
