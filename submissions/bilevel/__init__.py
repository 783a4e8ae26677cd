"""Bilevel methods: a lower problem in the weights, an upper one in what shapes it."""
