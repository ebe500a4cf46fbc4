"""x"""
def print_grid(out, grid, form):
    pass
