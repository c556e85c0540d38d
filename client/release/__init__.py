"""Release gate and release modes: the only way for answers to leave an institution."""
