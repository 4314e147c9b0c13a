"""Time and energy of a request from its token counts."""
