"""What is chosen from data: ranges, batch norms, biases, scales. Imports every other room of `quant`."""
