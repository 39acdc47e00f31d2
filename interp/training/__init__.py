"""Recipes, students, teachers, and the rows that teachers write."""
