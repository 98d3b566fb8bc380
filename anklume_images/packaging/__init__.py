"""What a wheel brings beside the code: man pages and completion, made from the commands when it is built."""
