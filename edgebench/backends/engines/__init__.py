"""Engines that may be compared: each knows its commands, and how to read what they leave."""
