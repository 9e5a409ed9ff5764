"""The intermediate representation: types, ops, graph, text form, verifier, interpreter.

This package knows nothing of the front end or of any backend.
"""
