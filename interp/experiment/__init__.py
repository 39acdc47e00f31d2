"""The whole experiment from one recipe: base, teachers, numbers, students, controls, evaluations, report."""
