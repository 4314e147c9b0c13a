"""Batches of requests: tokens per second and joule per token."""
