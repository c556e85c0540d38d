"""Deployment rehearsals on one machine: processes, TLS, Flower's commands, an inference server.

``deployment``, ``flwr_run`` and ``inference_server`` run as
``python -m fedkd.simulations.rehearsal.NAME``. Nothing is imported here: ``--help`` stays quick.
"""
