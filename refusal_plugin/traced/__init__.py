"""Verbs said inside a tracing context.

What is in this folder runs beside the weights: in a trace on this machine, in plain torch hooks, and, shipped by value,
on an NDIF server where this package is not installed. Hence the wall around it: torch, math and typing only; plain
functions; no decorators, classes, context managers or imports inside functions; import names, never modules
(`from .read import residual`), since a call through a module object would ship the module.
"""
