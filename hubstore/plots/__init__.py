"""Figures: data in, Matplotlib axes or Plotly figures out. The only place that draws."""
