"""Loss terms of generators, and the distillation losses of students."""
