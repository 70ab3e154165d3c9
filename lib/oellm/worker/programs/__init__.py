"""Rows and stages that a program computes, which the worker starts on the node."""
