"""What is to be, what is, and the difference between them."""
