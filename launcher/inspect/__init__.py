"""Looking at machines that are there: status, verify, doctor, logs and shell."""
