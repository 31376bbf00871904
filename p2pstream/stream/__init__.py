"""What a live stream is: epochs, signed heads, Merkle roots, chunks and pieces. Pure."""
