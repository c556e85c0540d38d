"""What people look at after a run: its folder, and the page made from it.

It knows no network and no loop: whoever runs one writes here through `RunFolder`.
"""
