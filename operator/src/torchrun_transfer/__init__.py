"""The program that moves the inputs and outputs of a job: to and from object stores, volumes and directories.

It runs inside the pods of a job as one zipapp, with the Python of their image (3.10 or newer). Directories need the
standard library only; other URLs need fsspec and the package for their scheme, such as s3fs.
"""
