"""From targets to predictions, and what these are worth."""
