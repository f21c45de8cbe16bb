"""What is read from, or done to, programs as JAX traces them."""
