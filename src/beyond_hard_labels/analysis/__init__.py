"""Tidy numeric frames, one function a question: arrays and frames in, frames out."""
