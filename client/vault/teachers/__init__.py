"""External teachers, trained elsewhere: one module for each format, all opened by `formats`.

Import from the modules: only the vault opens a teacher, and `teacher_spec` needs no torch.
"""
