"""Images and votes."""
