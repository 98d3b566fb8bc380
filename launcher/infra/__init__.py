"""What a person wants: the model of an infra.yml, its loader and its rules."""
