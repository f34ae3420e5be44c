"""A model of one's own: made from the template, checked, tried, published."""
