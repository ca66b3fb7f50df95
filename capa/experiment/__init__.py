"""Methods and the code that walks them."""
