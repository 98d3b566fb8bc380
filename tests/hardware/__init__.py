"""The GPU road on a real card: `make test-gpu`. No part of `make test`, which promises what needs no hardware."""
