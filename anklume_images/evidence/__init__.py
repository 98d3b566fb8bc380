"""What an image says about itself: what is in it, where that came from, what is known of it, how two differ."""
