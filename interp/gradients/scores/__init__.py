"""Exact gradients of rows along a direction in weights: sites, engine, plan, tables, scores."""
