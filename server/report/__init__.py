"""The folder of a run (`run_folder`) and the HTML report made from it (`page`).

Import from the modules: drivers write to a folder without waiting for matplotlib.
"""
