"""What happens inside one training step: torch, no Ray."""
