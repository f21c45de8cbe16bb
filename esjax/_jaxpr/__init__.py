"""What is read off, or done to, programs as JAX traces them."""
