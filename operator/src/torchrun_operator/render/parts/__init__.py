"""The features of rendering, one file each. `render.catalog` lists them."""
