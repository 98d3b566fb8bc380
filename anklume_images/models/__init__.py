"""Language models as locked inputs: what a person writes, the lock, and a model's file in the store."""
