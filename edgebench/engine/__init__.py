"""llama.cpp in a process of its own, and the parent's side of it."""
