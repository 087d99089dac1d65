"""Measuring hubstore on the machine at hand, beside what that machine can do at best."""
