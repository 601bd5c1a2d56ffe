"""The same work on other runtimes, each run by the Python of its own environment (`benchmarks/environments.py`).

Nothing here imports choreo, or anything that needs a package which the environment does not pin.
"""
