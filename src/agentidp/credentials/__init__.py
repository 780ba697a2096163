"""What agents prove themselves with."""
