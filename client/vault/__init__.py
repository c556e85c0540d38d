"""The vault: the only code that opens an institution's private data and model weights.

Import from its modules: only an institution may open a vault, and `teachers.teacher_spec` is read
where torch is not wanted.
"""
