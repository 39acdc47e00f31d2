"""Plants and nulls of every method: does it find what was planted, and nothing else?"""
